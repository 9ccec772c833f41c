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
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped
from rclpy.executors import SingleThreadedExecutor

from endomatch_ros.data.frames import Frame
from endomatch_ros.data.synthetic import SceneConfig, SyntheticEndoscope
from endomatch_ros.ros.demo.publisher import FramePublisher
from endomatch_ros.ros.launching.lifetime import until_told
from endomatch_ros.ros.launching.processes import end_with_parent
from endomatch_ros.ros.messages.clouds import pack_pose, stamp_to_ns

LISTENERS = 2
"""Subscribers to wait for: the matcher and the recorder."""


class DemoCamera(FramePublisher):
    """A camera that starts once all are listening, and also publishes ``true_pose`` (the camera in the world)."""

    def __init__(self, frames: Iterator[Frame], rate: float) -> None:
        super().__init__(frames, rate)
        self._poses = self.create_publisher(PoseStamped, "true_pose", 10)

    def _tick(self) -> None:
        if self.listeners >= LISTENERS:
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


def render(config: SceneConfig, times: list[float]) -> list[Frame]:
    """Render frames at ``times`` (seconds) on all cores, reporting progress."""
    workers = min(len(times), max(1, len(os.sched_getaffinity(0))))
    # Spawned, not forked: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(config,)) as pool:
        frames = []
        for frame in pool.map(_render_one, times, range(len(times))):
            frames.append(frame)
            report(rendered=len(frames))
    return frames


_scene: SyntheticEndoscope


def _start_worker(config: SceneConfig) -> None:
    global _scene
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells the workers when to end
    end_with_parent()  # and if it is killed, cannot
    parent = multiprocessing.parent_process()
    if parent is None or os.getppid() != parent.pid:
        os._exit(1)  # it was killed before the line above
    torch.set_num_threads(1)
    _scene = SyntheticEndoscope(config)


def _render_one(time: float, index: int) -> Frame:
    return _scene.render(time, index)


def to_and_fro(frames: list[Frame], count: int) -> Iterator[Frame]:
    """``count`` frames: forward, backward, forward, … without showing the ends twice in a row."""
    there_and_back = frames + frames[-2:0:-1]
    return itertools.islice(itertools.cycle(there_and_back), count)


def main(argv: list[str] | None = None) -> int:
    """Render, wait for listeners, play, end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scene", type=json.loads, required=True, help="SceneConfig as JSON")
    parser.add_argument("--times", type=json.loads, required=True, help="scene times of the frames in s, as JSON")
    parser.add_argument("--count", type=int, required=True, help="frames to publish")
    parser.add_argument("--rate", type=float, required=True, help="frames per second")
    args, ros_args = parser.parse_known_args(argv)
    with contextlib.suppress(KeyboardInterrupt):  # while rendering
        frames = render(SceneConfig(**args.scene), args.times)
        with until_told(ros_args) as stack:
            node = DemoCamera(to_and_fro(frames, args.count), args.rate)
            stack.callback(node.destroy_node)
            executor = SingleThreadedExecutor()
            executor.add_node(node)
            executor.spin_until_future_complete(node.done)
    return 0


if __name__ == "__main__":
    sys.exit(main())
