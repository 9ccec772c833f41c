"""The node ``endomatch``: images in, correspondences and their epipolar error out.

Life: weights load and warm up in configure, frames are matched while active, device memory is freed in cleanup. With
``autostart`` (the default) the node configures and activates itself. If that fails (unknown model, damaged weights),
the process lives on unconfigured, says why in the log and on ``/diagnostics``, and takes a corrected parameter and a
new ``configure``. Only a parameter that cannot even be declared (wrong type, out of range) ends it, with exit code 2.

Threads: the executor's thread runs every callback and only hands frames over; one worker matches and publishes.
"""

from __future__ import annotations

import gc
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import qos_policy_name_from_kind
from rclpy.qos_overriding_options import InvalidQosOverridesError, QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_srvs.srv import SetBool, Trigger

from endomatch_ros.errors import ConfigError, EndomatchError, ImageError
from endomatch_ros.matching import Matcher, StreamMatcher
from endomatch_ros.ros import diagnostics, parameters
from endomatch_ros.ros.images import ENCODINGS
from endomatch_ros.ros.messages import stamp_to_ns
from endomatch_ros.ros.outputs import INPUT_QOS, OVERRIDABLE, Outputs
from endomatch_ros.ros.pipeline import Job, Pipeline
from endomatch_ros.ros.statistics import Statistics
from endomatch_ros.ros.worker import LatestWorker

WARM_UP_SIZE = (1280, 1024)
_SAME_CLOCK_S = 60.0  # a stamp further from the node's clock than this was not taken on it


class EndomatchNode(LifecycleNode):
    """See the module's text.

    Args:
        load, make_stream: make the matcher from the parameters ``model`` and ``device``, and its stream; for tests
            and other matchers.
        **kwargs: rclpy's node arguments (``parameter_overrides``, ``context``, ``namespace``, …).

    Raises:
        rclpy.exceptions.ParameterException: an initial parameter of wrong type or value.
    """

    def __init__(
        self,
        load: Callable[..., Any] = Matcher.from_pretrained,
        make_stream: Callable[[Any], Any] = StreamMatcher,
        **kwargs: Any,
    ) -> None:
        super().__init__("endomatch", **kwargs)
        self._load, self._make_stream = load, make_stream
        self._matcher: Any = None
        self._pipeline: Pipeline | None = None
        self._outputs: Outputs | None = None
        self._worker: LatestWorker[Job] | None = None
        self._inputs: list[Any] = []
        self._info: CameraInfo | None = None
        self._fault = ""
        self._active_since: float | None = None
        self._enabled = True
        self._statistics = Statistics()
        self._faults_reported = 0
        self._known: dict[str, Any] = {}
        self.add_on_set_parameters_callback(self._check_parameters)
        parameters.declare(self)
        self._topic, self._kind = "", Image
        self._report_to = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_service(SetBool, "~/enable", self._on_enable)
        # Wall time: with use_sim_time and no /clock the node must still start and report.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0, self._report, clock=steady)
        self._starter = self.create_timer(0.0, self._start, clock=steady)

    # Lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load and warm up the model, open the topics; on failure say why and stay unconfigured."""
        settings = parameters.read(self)
        started = time.monotonic()
        try:
            self._matcher = self._load(settings.model, settings.device)
            self._pipeline = Pipeline(self._matcher, settings, self._statistics.reset, self._warn, self._make_stream)
            self._matcher.warmup(WARM_UP_SIZE)
            self._open(settings)
        except Exception as error:
            self._release()
            self._fault = str(error)
            self.get_logger().error(f"cannot configure: {error}")
            if not isinstance(error, (EndomatchError, InvalidQosOverridesError)):
                self.get_logger().error(traceback.format_exc())
            return TransitionCallbackReturn.FAILURE
        self._fault = ""
        took = time.monotonic() - started
        self.get_logger().info(f"{self._hardware_id()} ready after {took:.1f} s, images from {self._topic}")
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin to match."""
        assert self._pipeline is not None
        self._pipeline.request_reset("activated")
        self._active_since = time.monotonic()
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop matching; the model stays loaded."""
        self._active_since = None
        if self._worker is not None:
            self._worker.clear()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Close the topics and free the device's memory."""
        result = super().on_cleanup(state)
        self._release()
        return result

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything; the node can then only be destroyed."""
        result = super().on_shutdown(state)
        self._release()
        return result

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured after an unforeseen error."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def destroy_node(self) -> None:
        """End the worker and destroy the node."""
        self._release()
        super().destroy_node()

    # Set-up

    def _start(self) -> None:
        self._starter.cancel()
        if self.get_parameter("autostart").value and self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def _open(self, settings: parameters.Settings) -> None:
        compressed = settings.image_transport == "compressed"
        # As image_transport does it: the remapping of image_raw counts for the compressed topic too.
        self._topic = self.resolve_topic_name("image_raw") + ("/compressed" if compressed else "")
        self._kind = CompressedImage if compressed else Image
        self._outputs = Outputs(self, self._hardware_id())
        self._worker = LatestWorker(self._process, self._fail)
        options = {"qos_overriding_options": QoSOverridingOptions(OVERRIDABLE)}
        events = SubscriptionEventCallbacks(incompatible_qos=self._on_incompatible_qos)
        subscribe = self.create_subscription
        self._inputs = [
            subscribe(self._kind, self._topic, self._on_image, INPUT_QOS, event_callbacks=events, **options),
            subscribe(CameraInfo, "camera_info", self._on_info, INPUT_QOS, **options),
        ]

    def _release(self) -> None:
        self._active_since = None
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        self._inputs = []
        if self._worker is not None and not self._worker.stop():
            self.get_logger().warning("the worker is still busy with a frame and is left behind")
        if self._outputs is not None:
            self._outputs.destroy()
        self._worker = self._outputs = self._pipeline = self._matcher = self._info = None
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def _hardware_id(self) -> str:
        return "none" if self._matcher is None else f"{self._matcher.info.name} on {self._matcher.info.device}"

    # Callbacks: hand over, never wait

    def _on_image(self, message: Image | CompressedImage) -> None:
        now = time.monotonic()
        self._statistics.arrived(now)
        if self._active_since is None or self._worker is None:
            self._statistics.dropped("not_active")
        elif not self._enabled:
            self._statistics.dropped("disabled")
        elif self._worker.submit(Job(message, self._info, now, parameters.read(self))):
            self._statistics.dropped("superseded")

    def _on_info(self, message: CameraInfo) -> None:
        self._info = message

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self._pipeline is not None
        if self._pipeline is None:
            response.message = "the node is not configured: there is nothing to reset"
        else:
            self._pipeline.request_reset("service")
            response.message = "the next frame is the new reference"
        return response

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        if request.data and not self._enabled and self._pipeline is not None:
            self._pipeline.request_reset("service")
        self._enabled = bool(request.data)
        response.success, response.message = True, "matching" if self._enabled else "frames are ignored"
        return response

    def _on_incompatible_qos(self, event: Any) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        self.get_logger().error(
            f"a publisher on {self._topic} offers a QoS that does not fit ({policy}): its images will not arrive. Set "
            f"the parameters qos_overrides.{self._topic}.subscription.* to what it offers"
        )

    def _check_parameters(self, changes: list[Parameter[Any]]) -> SetParametersResult:
        try:
            parameters.check(changes, self._known, self._pipeline is not None)
            named = {p.name: p.value for p in changes if p.name in parameters.SPECS}
            if self._pipeline is not None:
                changed = {name: value for name, value in named.items() if name in parameters.Settings.__annotations__}
                self._pipeline.validate(replace(parameters.read(self), **changed))
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self._known |= named
        return SetParametersResult(successful=True)

    # The worker's thread

    def _process(self, job: Job) -> None:
        pipeline, outputs = self._pipeline, self._outputs
        pair = pipeline.process(job) if pipeline is not None else None
        if pair is None or outputs is None:
            return
        if self._active_since is None:
            self._statistics.dropped("not_active")
            return
        outputs.publish_pair(pair, job)
        age = (self.get_clock().now().nanoseconds - stamp_to_ns(job.stamp)) / 1e9
        self._statistics.published(time.monotonic() - job.received, age if 0 <= age < _SAME_CLOCK_S else None)

    def _fail(self, job: Job, error: Exception) -> None:
        if not self.context.ok():
            return  # going down: the publishers are gone
        cause = "matching_failed"
        if isinstance(error, ImageError):
            known = not isinstance(job.message, Image) or job.message.encoding in ENCODINGS
            cause = "bad_image" if known else "bad_encoding"
        elif self._pipeline is not None:
            self._pipeline.request_reset(cause)
        self._statistics.dropped(cause, str(error))
        self.get_logger().error(f"frame not matched ({cause}): {error}", throttle_duration_sec=5.0)
        if not isinstance(error, EndomatchError):
            self.get_logger().debug("".join(traceback.format_exception(error)))
        if self._outputs is not None:
            self._outputs.publish_failure(job, f"{cause}: {error}")

    def _warn(self, message: str) -> None:
        self.get_logger().warning(message)

    # Diagnostics

    def _report(self) -> None:
        now = time.monotonic()
        snapshot = self._statistics.snapshot(now)
        faults = sum(snapshot.drops.get(cause, 0) for cause in diagnostics.FAULTS)
        condition = diagnostics.Condition(
            state=self._state_machine.current_state[1],
            topic=self._topic,
            type_name="sensor_msgs/msg/" + self._kind.__name__,
            waited=now - self._active_since if self._active_since is not None else 0.0,
            timeout=self.get_parameter("input_timeout_s").value,
            faults=faults - self._faults_reported,
            matcher=self._matcher,
            fault=self._fault,
            hardware_id=self._hardware_id(),
        )
        self._faults_reported = faults
        self._report_to.publish(diagnostics.make_report(self, snapshot, condition))


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT, SIGTERM or shutdown.

    Args:
        args: command line with the usual ``--ros-args``; None takes the process's.

    Returns:
        0 after a clean end, 2 after a command line or an initial parameter that is wrong.
    """
    node = None
    try:
        try:
            rclpy.init(args=args)
            node = EndomatchNode()
        except (ParameterException, RuntimeError) as error:  # rclpy's own errors are RuntimeErrors
            print(f"endomatch: {error}", file=sys.stderr)
            return 2
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        # Under launch Ctrl-C arrives twice: the second one must not break into the tidying up.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown(uninstall_handlers=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
