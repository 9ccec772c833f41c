"""``endomatch demo``: a synthetic endoscope and the real node as two processes over DDS, recorded and measured."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

from endomatch_ros.data.synthetic import SceneConfig, parse_size
from endomatch_ros.errors import ConfigError, DataError
from endomatch_ros.ros.demo import report as report
from endomatch_ros.ros.demo.recorder import Recorder
from endomatch_ros.ros.launching import dds
from endomatch_ros.ros.launching.lifetime import interruptible
from endomatch_ros.ros.launching.processes import Child, ChildError, node_command
from endomatch_ros.ros.messages.clouds import unpack_values

MODEL_STATUS, PROCESSING_STATUS = "/endomatch: model", "/endomatch: processing"
TOPICS = {
    report.IMAGES: Image,
    "/endoscope/camera_info": CameraInfo,
    "/endoscope/true_pose": PoseStamped,
    report.CLOUDS: PointCloud2,
    "/endomatch/epipolar_error": DiagnosticArray,
    "/endomatch/relative_pose": PoseStamped,
    "/endomatch/visualization/compressed": CompressedImage,
    "/diagnostics": DiagnosticArray,
}
SPEED = 0.75
"""Lumen radii per second: a scope at rest for most of a pair would say little about the matches at this rate."""
START_PATIENCE_S = 180.0
SETTLE_S = 2.0
"""Without an arrival for this long after the last frame, no more answers are expected."""
_OWN_FILES = ("bag", "summary.json", "node.log", "camera.log", "contact_sheet.jpg", "matches.gif")


def main(argv: list[str] | None = None) -> int:
    """Run the demo.

    Args:
        argv: arguments after ``endomatch demo``.

    Returns:
        0; after Ctrl-C KeyboardInterrupt passes through once the children are gone.

    Raises:
        EndomatchError: bad arguments, or a child process failed (with the end of its log).
    """
    args = _parser().parse_args(argv)
    config = _scene_config(args)
    output: Path = args.output
    _clear(output)
    console = Console()
    with dds.own_domain() as environment:
        with interruptible(), contextlib.ExitStack() as stack:
            # The children first: while they load what they need and render, there is time to follow them.
            node = stack.enter_context(Child("matcher node", _node_command(args), output / "node.log", environment))
            camera = stack.enter_context(
                Child("camera", _camera_command(args, config), output / "camera.log", environment, read_output=True)
            )
            rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
            stack.callback(rclpy.try_shutdown)
            recorder = stack.enter_context(Recorder(output / "bag", TOPICS))
            stack.callback(signal.signal, signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must leave nobody behind
            times, diagnostics = _Run(console, recorder, node, camera, args).run()
        summary = _finish(console, output, config, times, recorder.counts[report.IMAGES], diagnostics)
    summary["scene"] = asdict(config)
    (output / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    console.print(report.table(summary))
    console.print(f"Pictures, summary.json and the bag are in {output}/", highlight=False)
    return 0


class _Run:
    """The time between the start of the children and the last answer."""

    def __init__(
        self, console: Console, recorder: Recorder, node: Child, camera: Child, args: argparse.Namespace
    ) -> None:
        self._console, self._recorder, self._node, self._camera, self._args = console, recorder, node, camera, args
        self._rendered = 0
        self._times: dict[int, float] = {}
        self._diagnostics: dict[str, dict[str, str]] = {}
        self._problem = ""
        recorder.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(recorder)

    def run(self) -> tuple[dict[int, float], dict[str, str]]:
        """Scene time by stamp of every frame sent, and the node's last figures on its processing."""
        columns = TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        with Progress(*columns, console=self._console) as progress:
            distinct, count = len(_times(self._args)), _count(self._args)
            rendering = progress.add_task("render the endoscopy", total=distinct)
            sending = progress.add_task("stream over DDS", total=count)
            answering = progress.add_task("answers of the node", total=count - 1)

            def show() -> None:
                progress.update(rendering, completed=self._rendered)
                progress.update(sending, completed=len(self._times))
                progress.update(answering, completed=self._recorder.counts[report.CLOUDS])

            self._until(lambda: self._rendered == distinct, show)
            patience = time.monotonic() + START_PATIENCE_S
            self._until(lambda: bool(self._times) or time.monotonic() > patience, show)
            if not self._times:
                raise ChildError(f"the node did not take any image in {START_PATIENCE_S:.0f} s:\n{self._node.tail()}")
            self._until(lambda: self._camera.status == 0, show)
            self._until(self._settled, show)
        return self._times, self._diagnostics.get(PROCESSING_STATUS, {})

    def _until(self, condition: Callable[[], bool], show: Callable[[], None]) -> None:
        """Spin until ``condition()``; raises as soon as a child has failed."""
        while not condition():
            self._executor.spin_once(timeout_sec=0.05)
            for line in self._camera.lines():
                self._on_camera(json.loads(line))
            show()
            self._node.check()
            if self._camera.status not in (None, 0):
                self._camera.check()
            if self._problem:
                raise ChildError(f"the matcher node is not ready: {self._problem}")

    def _settled(self) -> bool:
        answered = self._recorder.counts[report.CLOUDS] >= len(self._times) - 1
        return answered or time.monotonic() - self._last_news() > SETTLE_S

    def _last_news(self) -> float:
        return max(self._recorder.arrivals[topic] for topic in (report.IMAGES, report.CLOUDS))

    def _on_camera(self, facts: dict[str, Any]) -> None:
        if "stamp" in facts:
            self._times[int(facts["stamp"])] = float(facts["time"])
        self._rendered = int(facts.get("rendered", self._rendered))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self._diagnostics[status.name] = unpack_values(status)
            if status.name == MODEL_STATUS and status.level == status.ERROR:
                self._problem = status.message


def _finish(
    console: Console, output: Path, config: SceneConfig, times: dict[int, float], received: int, last: dict[str, str]
) -> dict[str, Any]:
    from endomatch_ros.data.synthetic import SyntheticEndoscope  # PyTorch

    with console.status("measuring against the known motion, drawing"):
        pairs = report.read_pairs(output / "bag", SyntheticEndoscope(config), times)
        if not pairs:
            raise DataError(f"the node answered none of {len(times)} frames; see {output / 'node.log'}")
        report.write_pictures(output, output / "bag", pairs)
        return report.summarise(pairs, sorted(times), received, last)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="endomatch demo",
        description="Stream a synthetic endoscope through the node, as two processes over DDS, and measure the answers "
        "against the known motion. Leaves pictures, summary.json and a rosbag2 (mcap).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--output", type=Path, default=Path("demo_output"), metavar="DIR", help="where the results go")
    add("--seconds", type=float, default=10.0, help="length of the stream")
    add("--rate", type=float, default=30.0, help="frames per second")
    add("--size", default="640x512", metavar="WxH", help="of the images in pixels")
    add("--kind", choices=("tunnel", "cavity"), default="tunnel", help="what the scope looks at")
    add("--seed", type=int, default=7, help="of the scene")
    add("--distinct", type=int, default=24, metavar="N", help="frames to render; they are played to and fro")
    add("--model", default="embedded", help="preset or .safetensors file")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    return parser


def _scene_config(args: argparse.Namespace) -> SceneConfig:
    for name, low, high in (("seconds", 0.5, 3600.0), ("rate", 0.5, 60.0), ("distinct", 2, 10000)):
        if not low <= getattr(args, name) <= high:
            raise ConfigError(f"--{name} {getattr(args, name)} is outside {low} to {high}")
    width, height = parse_size(args.size)
    return SceneConfig(seed=args.seed, kind=args.kind, width=width, height=height, speed=SPEED)


def _count(args: argparse.Namespace) -> int:
    frames: float = args.seconds * args.rate
    return max(2, round(frames))


def _times(args: argparse.Namespace) -> list[float]:
    return [index / args.rate for index in range(min(args.distinct, _count(args)))]


def _node_command(args: argparse.Namespace) -> list[str]:
    remappings = {name: f"/endoscope/{name}" for name in ("image_raw", "camera_info")}
    return node_command({"model": args.model, "device": args.device}, remappings)


def _camera_command(args: argparse.Namespace, config: SceneConfig) -> list[str]:
    options = {"scene": json.dumps(asdict(config)), "times": json.dumps(_times(args)), "count": _count(args)}
    flags = [part for name, value in {**options, "rate": args.rate}.items() for part in (f"--{name}", str(value))]
    ros = ["--ros-args", "-r", "__ns:=/endoscope"]
    return [sys.executable, "-m", "endomatch_ros.ros.demo.camera", *flags, *ros]


def _clear(output: Path) -> None:
    """Make the folder; remove what an earlier run left there, and nothing else."""
    if output.exists() and not output.is_dir():
        raise ConfigError(f"--output {output} is not a folder")
    output.mkdir(parents=True, exist_ok=True)
    for path in [*(output / name for name in _OWN_FILES), *output.glob("overlay_*.png")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
