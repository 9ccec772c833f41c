"""One camera while the node is configured: its subscriptions, and what belongs to it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import qos_policy_name_from_kind
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from endomatch_ros.ros.calibration import missing
from endomatch_ros.ros.monitoring.statistics import Statistics
from endomatch_ros.ros.outputs import INPUT_QOS, OVERRIDABLE
from endomatch_ros.ros.pipeline import Pipeline

if TYPE_CHECKING:
    from rclpy.event_handler import QoSRequestedIncompatibleQoSInfo
    from rclpy.subscription import Subscription

_M = TypeVar("_M", Image, CompressedImage, CameraInfo)


class Channel:
    """Subscribes to a camera's topics and keeps what belongs to it.

    Args:
        node: whose topics are used.
        camera: the camera's name, which goes before its topics; empty: none.
        compressed: subscribe to JPEG or PNG images on ``image_raw/compressed``.
        pipeline: of this camera.
        statistics: of this camera.
        on_image: gets the camera's name and each image, on the executor's thread.

    Attributes:
        camera, pipeline, statistics: as given.
        topic, kind: the image topic, resolved, and its message class.
        info: the latest camera_info, None before the first.

    Raises:
        rclpy.qos_overriding_options.InvalidQosOverridesError: a QoS override of unknown value.
    """

    def __init__(
        self,
        node: LifecycleNode,
        camera: str,
        compressed: bool,
        pipeline: Pipeline,
        statistics: Statistics,
        on_image: Callable[[str, Image | CompressedImage], None],
    ) -> None:
        self.camera, self.pipeline, self.statistics = camera, pipeline, statistics
        self.info: CameraInfo | None = None
        self.kind = CompressedImage if compressed else Image
        folder = f"{camera}/" if camera else ""
        # As image_transport does it: the remapping of image_raw counts for the compressed topic too.
        self.topic = node.resolve_topic_name(f"{folder}image_raw") + ("/compressed" if compressed else "")
        self._info_topic = node.resolve_topic_name(f"{folder}camera_info")
        self._node, self._on_image = node, on_image
        self._subscriptions: list[Subscription[Image] | Subscription[CompressedImage] | Subscription[CameraInfo]] = []
        events = SubscriptionEventCallbacks(incompatible_qos=self._on_incompatible_qos)
        try:
            self._subscribe(self.kind, self.topic, self._take_image, events)
            self._subscribe(CameraInfo, f"{folder}camera_info", self._take_info, None)
        except Exception:
            self.close()
            raise

    @property
    def calibration(self) -> str:
        """The calibration in use or why there is none, for the operator."""
        return missing(self._info_topic) if self.info is None else self.pipeline.calibration.text

    def close(self) -> None:
        """Unsubscribe."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()

    def _subscribe(
        self, kind: type[_M], topic: str, callback: Callable[[_M], None], events: SubscriptionEventCallbacks | None
    ) -> None:
        self._subscriptions.append(
            self._node.create_subscription(
                kind,
                topic,
                callback,
                copy.copy(INPUT_QOS),  # rclpy writes overrides into what it is given
                event_callbacks=events,
                qos_overriding_options=QoSOverridingOptions(OVERRIDABLE),
            )
        )

    def _take_image(self, message: Image | CompressedImage) -> None:
        self._on_image(self.camera, message)

    def _take_info(self, message: CameraInfo) -> None:
        self.info = message

    def _on_incompatible_qos(self, event: QoSRequestedIncompatibleQoSInfo) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        self._node.get_logger().error(
            f"a publisher on {self.topic} offers a QoS that does not fit ({policy}): its images will not arrive. Set "
            f"the parameters qos_overrides.{self.topic}.subscription.* to what it offers"
        )
