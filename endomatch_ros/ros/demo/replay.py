"""Stream an SfM recording through the real node and measure what comes back (``python -m endomatch_ros.ros.replay``).

A publisher process sends the frames over DDS, a node process matches them, this process collects the answers and
compares the published matches with the recording's camera poses. Each frame is sent when the last one was answered.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import rclpy
from numpy.typing import NDArray
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

from endomatch_ros import openmp
from endomatch_ros.data.readers.sfm import SfmSequence
from endomatch_ros.errors import EndomatchError
from endomatch_ros.evaluation.metrics import epipolar_errors, share_within
from endomatch_ros.geometry.epipolar import fundamental_from_pose
from endomatch_ros.ros.demo.collector import Answer, Collector
from endomatch_ros.ros.launching import dds
from endomatch_ros.ros.launching.processes import Child, ChildError, node_command

FIRST_ANSWER_S = 120.0  # loading the model on a busy machine
RATE = 30.0  # of the recording's stamps, which give each answer its frame
PERIOD_S = 10.0  # longest wait for one answer; the first frame, which has none, always takes it


@dataclass(frozen=True)
class Score:
    """Epipolar errors of matches under the recording's poses, pixels; NaN where there was nothing to measure.

    Attributes:
        matches: mean count of a pair.
        mean_px, median_px: over all matches of all pairs.
        within_1px, within_3px: share of the matches, 0 to 1.
    """

    matches: float
    mean_px: float
    median_px: float
    within_1px: float
    within_3px: float


@dataclass(frozen=True)
class Replay:
    """What came back for a recording.

    Attributes:
        frames: frames in the recording.
        answers: complete answers by position of the current frame.
        published: score of the published matches.
        identity: score of the same reference points, each matched with its own position: what no motion would give.
        diagnostics: the node's last ``/diagnostics`` by status name.
    """

    frames: int
    answers: dict[int, Answer]
    published: Score
    identity: Score
    diagnostics: dict[str, dict[str, str]]


def replay(folder: Path, parameters: Mapping[str, object], environment: Mapping[str, str], logs: Path) -> Replay:
    """Stream the recording in ``folder`` through a node process.

    Args:
        folder: an SfM recording, see :class:`~endomatch_ros.data.readers.sfm.SfmSequence`.
        parameters: of the node.
        environment: of the child processes; this process must be in the same ROS domain.
        logs: folder for their logs.

    Raises:
        DataError: the recording cannot be used.
        ChildError: a process ended early, or no answer came in time.
    """
    sequence = SfmSequence(folder, rate=RATE)
    python = [sys.executable, "-m"]
    camera_command = [*python, "endomatch_ros.ros.publisher", "--source", "sfm", str(folder), "--own-stamps"]
    camera_command += ["--stamp-rate", str(RATE)]
    camera_command += ["--wait-for-subscriber", "--rate", str(1 / PERIOD_S), "--answers", "endomatch/epipolar_error"]
    context = rclpy.Context()
    rclpy.init(context=context)
    collector = Collector(context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(collector)
    try:
        with Child("matcher node", node_command(parameters, {}), logs / "node.log", environment) as node:
            end = time.monotonic() + FIRST_ANSWER_S
            while collector.count_publishers("endomatch/correspondences") == 0:
                _spin(executor, node, end)
            with Child("publisher", camera_command, logs / "publisher.log", environment) as camera:
                end = time.monotonic() + FIRST_ANSWER_S + len(sequence) * PERIOD_S
                while camera.status is None:
                    _spin(executor, node, end)
            for _ in range(20):  # what is still on its way
                executor.spin_once(timeout_sec=0.05)
    finally:
        executor.shutdown()
        collector.destroy_node()
        context.try_shutdown()
    complete = {stamp: answer for stamp, answer in collector.answers.items() if answer.complete}
    answers = {round(stamp * RATE / 1e9): answer for stamp, answer in complete.items()}
    published, identity = score(sequence, answers)
    return Replay(len(sequence), answers, published, identity, collector.diagnostics)


def score(sequence: SfmSequence, answers: Mapping[int, Answer]) -> tuple[Score, Score]:
    """Score of the published matches and of the identity at the same reference points."""
    published, identity = [], []
    for position, answer in answers.items():
        if answer.points is None or len(answer.points) == 0:
            continue
        # Frames may have been dropped in between: the reference is the one that the answer's dt names.
        reference = position - round(float(answer.points["dt"][0]) * RATE)
        pose = sequence.pose(position) @ np.linalg.inv(sequence.pose(reference))
        cameras = sequence.camera(reference), sequence.camera(position)
        fundamental = fundamental_from_pose(cameras[0].matrix, cameras[1].matrix, pose)
        current = np.stack([answer.points["u"], answer.points["v"]], axis=1)
        first = np.stack([answer.points["u_ref"], answer.points["v_ref"]], axis=1)
        published.append(epipolar_errors(fundamental, first, current, *cameras))
        identity.append(epipolar_errors(fundamental, first, first, *cameras))
    return _summary(published), _summary(identity)


def _summary(errors: Sequence[NDArray[np.float64]]) -> Score:
    if not errors:
        return Score(0.0, np.nan, np.nan, np.nan, np.nan)
    every = np.concatenate(list(errors))
    known = every[np.isfinite(every)]
    within = share_within(known, (1.0, 3.0))
    return Score(len(every) / len(errors), float(known.mean()), float(np.median(known)), within[1.0], within[3.0])


def _spin(executor: SingleThreadedExecutor, node: Child, end: float) -> None:
    executor.spin_once(timeout_sec=0.2)
    node.check()
    if time.monotonic() > end:
        raise ChildError(f"no answers in time; the end of {node.log}:\n{node.tail()}")


def main(argv: list[str] | None = None) -> int:
    """Replay a recording and print the figures; 0, or 2 after bad input."""
    parser = argparse.ArgumentParser(prog="python -m endomatch_ros.ros.replay", description=__doc__)
    parser.add_argument("folder", type=Path, help="SfM recording")
    parser.add_argument("--model", default="embedded", help="preset or checkpoint (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")
    args = parser.parse_args(argv)
    dds.prepare(domain_id=1 + os.getpid() % 100)  # nobody else's images
    openmp.prepare()
    parameters = {"model": args.model, "device": args.device}
    try:
        with tempfile.TemporaryDirectory(prefix="endomatch_replay_") as logs:
            result = replay(args.folder, parameters, os.environ, Path(logs))
    except EndomatchError as error:
        print(f"replay: error: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, ExternalShutdownException):
        return 130
    print(f"{len(result.answers)} answers to {result.frames} frames; epipolar error against the recording's poses:")
    print(f"{'':12}{'matches':>9}{'mean px':>9}{'median px':>11}{'<= 1 px':>9}{'<= 3 px':>9}")
    for name, figures in (("published", result.published), ("identity", result.identity)):
        print(
            f"{name:12}{figures.matches:9.0f}{figures.mean_px:9.2f}{figures.median_px:11.2f}"
            f"{figures.within_1px:9.1%}{figures.within_3px:9.1%}"
        )
    processing = next((values for name, values in result.diagnostics.items() if name.endswith("processing")), {})
    latency = {name: processing.get(f"latency_{name}_ms", "") for name in ("p50", "p95")}
    print(f"latency, image in to matches out: p50 {latency['p50']} ms, p95 {latency['p95']} ms")
    if args.json:
        report = {"frames": result.frames, "answers": len(result.answers), "latency_ms": latency}
        report |= {"published": asdict(result.published), "identity": asdict(result.identity)}
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0
