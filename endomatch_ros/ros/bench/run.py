"""The node in a process of its own, a camera in another one, real DDS between them, and what came of it."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from endomatch_ros.errors import DataError
from endomatch_ros.processes import Usage, usage
from endomatch_ros.ros.demo.collector import Collector
from endomatch_ros.ros.launching import dds
from endomatch_ros.ros.launching.lifetime import interruptible
from endomatch_ros.ros.launching.processes import Child, ChildError, node_command

INPUT, PROCESSING = "/endomatch: input", "/endomatch: processing"
START_PATIENCE_S = 180.0
LAST_ANSWER_S = 20.0
"""How long the node may take to finish what it has, once the camera has ended."""
_STEP_S = 2.0  # between frames in step where no answer comes: the first one never has one
_BUSY = "while True: pass"


@dataclass(frozen=True)
class Load:
    """How the node is loaded.

    Attributes:
        frames: how many the camera sends.
        rate: of the camera, Hz; 0: in step, each frame when the last one was answered.
        beside: busy processes on the same machine.
    """

    frames: int
    rate: float = 0.0
    beside: int = 0


@dataclass(frozen=True)
class Observed:
    """What was seen of a run.

    Attributes:
        answers: stamp of the image and arrival of its correspondences here, ns, in the order of the stamps.
        received: images that the node got.
        diagnostics: the node's last figures on its processing, by key of ``/diagnostics``.
        seconds: from the first answer until the camera ended.
        before, after: what the node's process had used at these two moments; None where the machine does not tell.
    """

    answers: list[tuple[int, int]]
    received: int
    diagnostics: dict[str, str]
    seconds: float
    before: Usage | None
    after: Usage | None


def observe(source: Sequence[str], load: Load, parameters: Mapping[str, object], logs: Path) -> Observed:
    """Stream a recording through a new node, and wait for the last answer.

    Args:
        source: arguments of the publisher that name the recording.
        load: how it is played, to and fro.
        parameters: of the node.
        logs: folder for the processes' logs.

    Raises:
        ChildError: a process ended early, or the node was not ready in time.
        DataError: no frame was answered.
    """
    with interruptible(), contextlib.ExitStack() as stack:
        environment = stack.enter_context(dds.own_domain())
        context = rclpy.Context()
        rclpy.init(args=[], context=context, signal_handler_options=SignalHandlerOptions.NO)
        stack.callback(context.try_shutdown)
        collector = Collector(context=context)
        stack.callback(collector.destroy_node)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(collector)
        node = stack.enter_context(Child("matcher node", node_command(parameters, {}), logs / "node.log", environment))
        run = _Run(executor, collector, node)
        run.until(run.ready, START_PATIENCE_S, "ready")
        for number in range(load.beside):
            busy = [sys.executable, "-c", _BUSY]
            stack.enter_context(Child("busy process", busy, logs / f"busy_{number}.log", environment))
        camera = stack.enter_context(Child("camera", _camera_command(source, load), logs / "camera.log", environment))
        stack.callback(signal.signal, signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave anyone behind
        return run.watch(camera)


class _Run:
    """The time between the start of the node and its last answer."""

    def __init__(self, executor: SingleThreadedExecutor, collector: Collector, node: Child) -> None:
        self._executor, self._collector, self._node = executor, collector, node

    def until(self, condition: Callable[[], bool], patience_s: float, what: str) -> None:
        """Spin until the condition holds; raises ChildError when the node ends or takes too long."""
        end = time.monotonic() + patience_s
        while not condition():
            self._executor.spin_once(timeout_sec=0.05)
            self._node.check()
            if time.monotonic() > end:
                raise ChildError(f"the node was not {what} in {patience_s:.0f} s:\n{self._node.tail()}")

    def ready(self) -> bool:
        """Whether it has loaded its model and takes images."""
        return self._collector.diagnostics.get(INPUT, {}).get("state") == "active"

    def watch(self, camera: Child) -> Observed:
        """What comes until the camera has ended and the node has answered the last frame."""
        answers = self._collector.answers
        begun, before = time.monotonic(), None
        while camera.status is None:
            self._executor.spin_once(timeout_sec=0.05)
            self._node.check()
            if before is None and answers:
                begun, before = time.monotonic(), usage(self._node.pid)
        seconds, after = time.monotonic() - begun, usage(self._node.pid)
        if camera.status:
            camera.check()
        self._settle()
        arrived = sorted((stamp, each.arrived) for stamp, each in answers.items() if each.arrived is not None)
        if not arrived:
            raise DataError(f"the node answered no frame; the end of its log:\n{self._node.tail()}")
        last = self._collector.diagnostics
        return Observed(arrived, int(last[INPUT]["received"]), last[PROCESSING], seconds, before, after)

    def _settle(self) -> None:
        """Wait until a report of the node says no more than the one before it, which was already behind the camera."""
        said: list[str] = []
        first = self._collector.reports

        def quiet() -> bool:
            if self._collector.reports > first + len(said):
                said.append(self._collector.diagnostics[PROCESSING]["answered"])
            return len(said) > 1 and said[-1] == said[-2]

        self.until(quiet, LAST_ANSWER_S, "done")


def _camera_command(source: Sequence[str], load: Load) -> list[str]:
    pace = ["--rate", str(load.rate)]
    if not load.rate:
        pace = ["--rate", str(1 / _STEP_S), "--answers", "/endomatch/epipolar_error"]
    play = ["--to-and-fro", str(load.frames), "--wait-for-subscriber", *pace]
    return [sys.executable, "-m", "endomatch_ros.ros.publisher", *source, *play]
