"""The demo's camera process: renders a synthetic endoscopy, then plays it as a driver would, with its true pose."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import sys
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Literal

from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped
from rclpy.executors import SingleThreadedExecutor

from endomatch_ros.data.frames import Frame, to_and_fro
from endomatch_ros.data.synthetic import SceneConfig, start_rendering
from endomatch_ros.ros.demo.publisher import FramePublisher
from endomatch_ros.ros.launching.lifetime import until_told
from endomatch_ros.ros.messages.clouds import pack_pose, stamp_to_ns

_START: Literal["fork", "spawn"] = "fork" if sys.platform == "linux" else "spawn"  # there is no thread yet
LISTENERS = 2
"""Subscribers to wait for: the matcher and the recorder."""


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
        start_rendering(SceneConfig(**args.scene), args.times, _START) as frames,
        until_told(ros_args) as stack,  # meanwhile: by the last frame its listeners have found it
    ):
        done = itertools.count(1)
        for frame in frames:
            frame.add_done_callback(lambda _: report(rendered=next(done)))
        node = DemoCamera(frames, args.count, args.rate)
        stack.callback(node.destroy_node)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        executor.spin_until_future_complete(node.done)
    return 0


if __name__ == "__main__":
    sys.exit(main())
