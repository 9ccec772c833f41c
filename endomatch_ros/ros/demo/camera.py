"""The demo's camera process: renders a synthetic endoscopy, then plays it as a driver would, with its true pose."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped
from rclpy.executors import SingleThreadedExecutor

from endomatch_ros.data.frames import Frame
from endomatch_ros.data.synthetic import SceneConfig
from endomatch_ros.ros.demo.publisher import FramePublisher
from endomatch_ros.ros.launching.lifetime import until_told
from endomatch_ros.ros.launching.processes import end_with_parent
from endomatch_ros.ros.messages.clouds import pack_pose, stamp_to_ns

if TYPE_CHECKING:
    from endomatch_ros.data.synthetic import SyntheticEndoscope

LISTENERS = 2
"""Subscribers to wait for: the matcher and the recorder."""

Item = TypeVar("Item")


class DemoCamera(FramePublisher):
    """A camera that starts once all is rendered and all are listening, and also publishes ``true_pose`` (in the world).

    Args:
        rendering: the frames, in the making.
        count: frames to publish: those there are, to and fro.
        rate: frames per second.
    """

    def __init__(self, rendering: Sequence[Future[Frame]], count: int, rate: float) -> None:
        super().__init__((future.result() for future in to_and_fro(rendering, count)), rate)
        self._rendering = rendering
        self._poses = self.create_publisher(PoseStamped, "true_pose", 10)

    def _tick(self) -> None:
        if all(future.done() for future in self._rendering) and self.listeners >= LISTENERS:
            super()._tick()

    def _send(self, frame: Frame, stamp: Time) -> None:
        if frame.pose is not None:
            # The same packing turns camera_from_world into the pose of the camera in the world.
            self._poses.publish(pack_pose(frame.pose, stamp, "world"))
        super()._send(frame, stamp)
        report(stamp=stamp_to_ns(stamp), time=frame.stamp)


def report(**facts: float) -> None:
    """One JSON object per line for the demo, which reads this process's stdout."""
    print(json.dumps(facts), flush=True)


@contextlib.contextmanager
def rendering(config: SceneConfig, times: list[float]) -> Iterator[list[Future[Frame]]]:
    """Render frames at ``times`` (seconds) on all cores, reporting progress; leaving ends it early.

    Yields:
        The frames to be, without depth and mask.
    """
    from endomatch_ros.data.synthetic import SyntheticEndoscope  # noqa: F401 - a forked worker has PyTorch at once

    workers = min(len(times), max(1, len(os.sched_getaffinity(0))))
    # Nothing here has started a thread of PyTorch's or DDS's, which would not survive a fork.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(config,))
    done = itertools.count(1)
    frames = [pool.submit(_render_one, time, index) for index, time in enumerate(times)]
    for frame in frames:
        frame.add_done_callback(lambda _: report(rendered=next(done)))
    pool.shutdown(wait=False)  # no more work than this
    try:
        yield frames
    finally:
        for frame in frames:
            frame.cancel()


_scene: SyntheticEndoscope


def _start_worker(config: SceneConfig) -> None:
    global _scene
    import torch

    from endomatch_ros.data.synthetic import SyntheticEndoscope

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells the workers when to end
    end_with_parent()  # and if it is killed, cannot
    parent = multiprocessing.parent_process()
    if parent is None or os.getppid() != parent.pid:
        os._exit(1)  # it was killed before the line above
    torch.set_num_threads(1)
    _scene = SyntheticEndoscope(config)


def _render_one(time: float, index: int) -> Frame:
    return replace(_scene.render(time, index), depth=None, mask=None)  # as large as the image, and not published


def to_and_fro(frames: Sequence[Item], count: int) -> Iterator[Item]:
    """``count`` frames: forward, backward, forward, … without showing the ends twice in a row."""
    there_and_back = [*frames, *frames[-2:0:-1]]
    return itertools.islice(itertools.cycle(there_and_back), count)


def main(argv: list[str] | None = None) -> int:
    """Render, wait for listeners, play, end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scene", type=json.loads, required=True, help="SceneConfig as JSON")
    parser.add_argument("--times", type=json.loads, required=True, help="scene times of the frames in s, as JSON")
    parser.add_argument("--count", type=int, required=True, help="frames to publish")
    parser.add_argument("--rate", type=float, required=True, help="frames per second")
    args, ros_args = parser.parse_known_args(argv)
    with (
        contextlib.suppress(KeyboardInterrupt),
        rendering(SceneConfig(**args.scene), args.times) as frames,
        until_told(ros_args) as stack,  # meanwhile: by the last frame its listeners have found it
    ):
        node = DemoCamera(frames, args.count, args.rate)
        stack.callback(node.destroy_node)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        executor.spin_until_future_complete(node.done)
    return 0


if __name__ == "__main__":
    sys.exit(main())
