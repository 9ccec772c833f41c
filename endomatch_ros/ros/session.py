"""What exists while the node is configured: subscriptions, the worker, the pipeline, the publishers."""

from __future__ import annotations

import gc
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import qos_policy_name_from_kind
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from endomatch_ros.errors import EndomatchError, ImageError
from endomatch_ros.ros import parameters
from endomatch_ros.ros.images import ENCODINGS
from endomatch_ros.ros.messages import stamp_to_ns
from endomatch_ros.ros.outputs import INPUT_QOS, OVERRIDABLE, Outputs
from endomatch_ros.ros.pipeline import Job, Pipeline
from endomatch_ros.ros.statistics import Statistics
from endomatch_ros.ros.worker import LatestWorker

_SAME_CLOCK_S = 60.0  # a stamp further from the node's clock than this was not taken on it


class Session:
    """Images in, answers out, for one loaded matcher.

    Callbacks run on the executor's thread and only hand over; one worker thread matches and publishes.

    Args:
        node: whose topics and parameters are used.
        matcher: loaded.
        settings: the parameters to start with.
        statistics: counts what happens.
        make_stream: makes the stream of the matcher.

    Attributes:
        topic, kind: the image topic, resolved, and its message class.
        hardware_id: names model and device.
        active_since: ``time.monotonic()`` of the activation, None while inactive.
        enabled: False: frames are counted and ignored.

    Raises:
        ConfigError: a value that the matcher refuses, a mask file that cannot be read.
        rclpy.qos_overriding_options.InvalidQosOverridesError: a QoS override of unknown value.
    """

    def __init__(
        self,
        node: LifecycleNode,
        matcher: Any,
        settings: parameters.Settings,
        statistics: Statistics,
        make_stream: Callable[[Any], Any],
    ) -> None:
        self.matcher = matcher
        self.hardware_id = f"{matcher.info.name} on {matcher.info.device}"
        self.active_since: float | None = None
        self.enabled = True
        self._node, self._statistics = node, statistics
        self._log = node.get_logger()
        self._info: CameraInfo | None = None
        self.pipeline = Pipeline(matcher, settings, statistics.reset, self._warn, make_stream)
        compressed = settings.image_transport == "compressed"
        # As image_transport does it: the remapping of image_raw counts for the compressed topic too.
        self.topic = node.resolve_topic_name("image_raw") + ("/compressed" if compressed else "")
        self.kind = CompressedImage if compressed else Image
        self._outputs = Outputs(node, self.hardware_id)
        self._worker = LatestWorker(self._process, self._fail)
        self._inputs: list[Any] = []
        try:
            self._subscribe()
        except Exception:
            self.close()
            raise

    def _subscribe(self) -> None:
        events = SubscriptionEventCallbacks(incompatible_qos=self._on_incompatible_qos)
        for kind, topic, callback in (
            (self.kind, self.topic, self._on_image),
            (CameraInfo, "camera_info", self._on_info),
        ):
            subscription = self._node.create_subscription(
                kind,
                topic,
                callback,
                INPUT_QOS,
                event_callbacks=events if kind is self.kind else None,
                qos_overriding_options=QoSOverridingOptions(OVERRIDABLE),
            )
            self._inputs.append(subscription)

    def activate(self) -> None:
        """Begin to match, from the next frame on."""
        self.pipeline.request_reset("activated")
        self.active_since = time.monotonic()

    def deactivate(self) -> None:
        """Stop matching; a waiting frame is dropped."""
        self.active_since = None
        if self._worker.clear():
            self._statistics.dropped("not_active")

    def close(self) -> None:
        """End the worker, close the topics, free the device's memory."""
        self.active_since = None
        for subscription in self._inputs:
            self._node.destroy_subscription(subscription)
        if not self._worker.stop():
            self._log.warning("the worker is still busy with a frame and is left behind")
        self._outputs.destroy()
        del self.matcher, self.pipeline
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    # The executor's thread

    def _on_image(self, message: Image | CompressedImage) -> None:
        now = time.monotonic()
        self._statistics.arrived(now)
        if self.active_since is None:
            self._statistics.dropped("not_active")
        elif not self.enabled:
            self._statistics.dropped("disabled")
        elif self._worker.submit(Job(message, self._info, now, parameters.read(self._node))):
            self._statistics.dropped("superseded")

    def _on_info(self, message: CameraInfo) -> None:
        self._info = message

    def _on_incompatible_qos(self, event: Any) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        self._log.error(
            f"a publisher on {self.topic} offers a QoS that does not fit ({policy}): its images will not arrive. Set "
            f"the parameters qos_overrides.{self.topic}.subscription.* to what it offers"
        )

    def _warn(self, message: str) -> None:
        self._log.warning(message)

    # The worker's thread

    def _process(self, job: Job) -> None:
        pair = self.pipeline.process(job)
        if pair is None:
            return
        if self.active_since is None:
            self._statistics.dropped("not_active")
            return
        self._outputs.publish_pair(pair, job)
        age = (self._node.get_clock().now().nanoseconds - stamp_to_ns(job.stamp)) / 1e9
        self._statistics.published(time.monotonic() - job.received, age if 0 <= age < _SAME_CLOCK_S else None)

    def _fail(self, job: Job, error: Exception) -> None:
        if not self._node.context.ok():
            return  # going down: the publishers are gone
        cause = "matching_failed"
        if isinstance(error, ImageError):
            known = not isinstance(job.message, Image) or job.message.encoding in ENCODINGS
            cause = "bad_image" if known else "bad_encoding"
        else:
            self.pipeline.request_reset(cause)
        self._statistics.dropped(cause, str(error))
        self._log.error(f"frame not matched ({cause}): {error}", throttle_duration_sec=5.0)
        if not isinstance(error, EndomatchError):
            self._log.debug("".join(traceback.format_exception(error)))
        self._outputs.publish_failure(job, f"{cause}: {error}")
