"""The node ``endomatch``: images in, correspondences and their epipolar error out.

Life: weights load and warm up in configure, frames are matched while active, device memory is freed in cleanup. With
``autostart`` (the default) the node configures and activates itself. If that fails (unknown model, damaged weights),
the process lives on unconfigured, says why in the log and on ``/diagnostics``, and takes a corrected parameter and a
new ``configure``. Only a parameter that cannot even be declared (wrong type, out of range) ends it, with exit code 2.

Threads: the executor's thread runs every callback and only hands frames over; one worker matches and publishes.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos_overriding_options import InvalidQosOverridesError
from std_srvs.srv import SetBool, Trigger

from endomatch_ros import openmp
from endomatch_ros.errors import ConfigError, EndomatchError
from endomatch_ros.matching.interface import FrameMatcher
from endomatch_ros.ros import parameters
from endomatch_ros.ros.launching.lifetime import until_told
from endomatch_ros.ros.messages.clouds import NANOSECONDS
from endomatch_ros.ros.monitoring import diagnostics
from endomatch_ros.ros.monitoring.causes import Reset
from endomatch_ros.ros.monitoring.statistics import Statistics
from endomatch_ros.ros.parameters.table import STEREO
from endomatch_ros.ros.session import Session

WARM_UP_SIZE = (1280, 1024)
_UNCONFIGURED = "the node is not configured"


class EndomatchNode(LifecycleNode):
    """See the module's text.

    Args:
        load: makes the matcher from the parameters; None: this package's.
        **kwargs: rclpy's node arguments (``parameter_overrides``, ``context``, ``namespace``, …).

    Raises:
        rclpy.exceptions.ParameterException: an initial parameter of wrong type or value.
    """

    def __init__(
        self,
        load: Callable[[parameters.Settings], FrameMatcher] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__("endomatch", **kwargs)
        self._load = load or _load_matcher
        self._session: Session | None = None
        self._fault = ""
        self._faults_reported: dict[str, int] = {}
        self._known: dict[str, Any] = {}
        self.add_on_set_parameters_callback(self._check_parameters)
        self._cameras = parameters.declare(self)
        self._statistics = {camera: Statistics() for camera in self._cameras}
        self._report_to = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_service(Trigger, "~/set_keyframe", self._on_set_keyframe)
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
            matcher = self._loaded(settings)
            sources = [*self._cameras, *([STEREO] if settings.mode != "temporal" else [])]
            self._statistics = {source: self._statistics.get(source, Statistics()) for source in sources}
            self._session = session = Session(self, matcher, self._statistics)
        except Exception as error:
            self._release()
            self._fault = str(error)
            self.get_logger().error(f"cannot configure: {error}")
            if not isinstance(error, (EndomatchError, InvalidQosOverridesError)):
                self.get_logger().error(traceback.format_exc())
            return TransitionCallbackReturn.FAILURE
        self._fault = ""
        took = time.monotonic() - started
        topics = ", ".join(channel.topic for channel in session.channels.values())
        self.get_logger().info(f"{session.hardware_id} ready after {took:.1f} s, images from {topics}")
        return super().on_configure(state)

    def _loaded(self, settings: parameters.Settings) -> FrameMatcher:
        """The matcher, warmed up.

        On a thread that ends again, and with it the helpers that OpenMP gives each thread: where there are more of them
        than cores, those of the worker sleep instead of waiting for each other, and a frame takes half as long again.
        """

        def load() -> FrameMatcher:
            matcher = self._load(settings)
            matcher.warmup(WARM_UP_SIZE)
            return matcher

        with ThreadPoolExecutor(1, "endomatch-loader") as loader:
            return loader.submit(load).result()

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin to match."""
        if self._session is not None:
            self._session.activate()
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop matching; the model stays loaded."""
        if self._session is not None:
            self._session.deactivate()
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

    def _release(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    # Services and parameters

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = self._session is not None, "the next frame is the new reference"
        if self._session is None:
            response.message = _UNCONFIGURED
        else:
            self._session.request_reset(Reset.SERVICE)
        return response

    def _on_set_keyframe(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        reference = self.get_parameter("reference").value
        response.success = self._session is not None and reference == "keyframe"
        response.message = "the newest frame is the new keyframe"
        if self._session is None:
            response.message = _UNCONFIGURED
        elif reference != "keyframe":
            response.message = f"the parameter reference is {reference!r}; set it to keyframe"
        else:
            self._session.request_keyframe()
        return response

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        response.success, response.message = (
            self._session is not None,
            "matching" if request.data else "ignoring frames",
        )
        if self._session is None:
            response.message = _UNCONFIGURED
        elif self._session.enabled != request.data:
            self._session.enabled = request.data
            self._session.request_reset(Reset.SERVICE)
        return response

    def _check_parameters(self, changes: list[Parameter[Any]]) -> SetParametersResult:
        named = {change.name: change.value for change in changes if parameters.spec_of(change.name)}
        try:
            parameters.check(named, self._known, self._session is not None)
            if self._session is not None:
                self._session.validate(named)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self._known |= named
        return SetParametersResult(successful=True)

    # Diagnostics

    def _report(self) -> None:
        now, session = time.monotonic(), self._session
        active_since = session.active_since if session is not None else None
        gap = session.buffer.gap if session is not None else None
        condition = diagnostics.Condition(
            state=self._state_machine.current_state[1],
            waited=0.0 if active_since is None else now - active_since,
            timeout=self.get_parameter("input_timeout_s").value,
            matcher=session.in_force if session is not None else None,
            fault=self._fault,
            hardware_id=session.hardware_id if session is not None else "none",
            gap=None if gap is None else gap / NANOSECONDS,
            tolerance=self.get_parameter("sync_tolerance_s").value,
        )
        sources = {label: self._source(label, now) for label in self._statistics}
        stereo = sources.pop(STEREO, None)
        self._report_to.publish(diagnostics.make_report(self, condition, list(sources.values()), stereo))

    def _source(self, label: str, now: float) -> diagnostics.Source:
        snapshot = self._statistics[label].snapshot(now)
        new = snapshot.faults - self._faults_reported.get(label, 0)
        self._faults_reported[label] = snapshot.faults
        if self._session is None:
            return diagnostics.Source(label, snapshot, new)
        calibration, channel = self._session.calibration(label), self._session.channels.get(label)
        if channel is None:
            return diagnostics.Source(label, snapshot, new, calibration)
        kind = "sensor_msgs/msg/" + channel.kind.__name__
        return diagnostics.Source(label, snapshot, new, calibration, channel.topic, kind)


# PyTorch takes seconds to import: only configure needs it, a wrong parameter should be reported at once.
def _load_matcher(settings: parameters.Settings) -> FrameMatcher:
    from endomatch_ros.matching import Matcher

    return Matcher.from_pretrained(settings.model, settings.device, settings.backbone_weights or None)


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT, SIGTERM or shutdown.

    Args:
        args: command line with the usual ``--ros-args``; None takes the process's.

    Returns:
        0 after a clean end, 2 after a command line or an initial parameter that is wrong.
    """
    openmp.prepare(live=True)
    try:
        with until_told(args) as stack:
            node = EndomatchNode()
            stack.callback(node.destroy_node)
            executor = SingleThreadedExecutor()
            executor.add_node(node)
            executor.spin()
    except (ParameterException, RuntimeError) as error:  # rclpy's own errors are RuntimeErrors
        print(f"endomatch: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
