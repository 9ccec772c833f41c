#!/usr/bin/env python3
"""Reads what the node ``endomatch`` publishes, joins it by stamp and prints one line for each matched image.

python3 correspondence_subscriber.py [--ros-args -r __ns:=/namespace/of/the/node]
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from numpy.typing import NDArray
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import PointCloud2

from endomatch_ros.ros.messages.clouds import stamp_to_ns, unpack_cloud, unpack_values

OPEN_FRAMES = 3  # between topics the order is not certain, so a few images are open at a time


@dataclass
class Frame:
    """What has come for one image: no pose without camera_info or sufficient motion, only ``error`` on failure."""

    stamp: int  # ns; all outputs of one image carry its stamp, exactly
    points: NDArray[Any] | None = None  # structured array, one row per match: points["u"], points["track_id"], ...
    error: DiagnosticStatus | None = None
    pose: PoseStamped | None = None

    @property
    def complete(self) -> bool:
        """Everything is there."""
        return self.points is not None and self.error is not None and self.pose is not None


class CorrespondenceSubscriber(Node):
    """Prints one line per image; put your own work into :meth:`on_frame`."""

    def __init__(self, **options: Any) -> None:
        super().__init__("correspondence_subscriber", **options)
        # In order of arrival, not of stamps: those go back when a bag is played in a loop.
        self._frames: deque[Frame] = deque()
        # Reliable, as the node offers; a subscriber that is too slow loses the oldest of ten unread messages.
        qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        self.create_subscription(PointCloud2, "endomatch/correspondences", self._on_cloud, qos)
        self.create_subscription(DiagnosticArray, "endomatch/epipolar_error", self._on_error, qos)
        self.create_subscription(PoseStamped, "endomatch/relative_pose", self._on_pose, qos)

    def on_frame(self, frame: Frame) -> None:
        """One image, with all that came for it."""
        line = f"{frame.stamp / 1e9:.3f} s"
        if frame.error is not None:
            coverage = unpack_values(frame.error)["coverage"]
            line += f"  level {int.from_bytes(frame.error.level, 'little')}: {frame.error.message}  coverage {coverage}"
        if frame.points is not None:
            inliers = frame.points[frame.points["inlier"] > 0.5]
            line += f"  {len(frame.points)} points, {len(inliers)} inliers"
        if frame.pose is not None:
            direction = frame.pose.pose.position
            line += f"  moved towards ({direction.x:.3f}, {direction.y:.3f}, {direction.z:.3f})"
        print(line, flush=True)

    def _on_cloud(self, message: PointCloud2) -> None:
        self._frame(message).points = unpack_cloud(message)
        self._report()

    def _on_error(self, message: DiagnosticArray) -> None:
        self._frame(message).error = message.status[0]
        self._report()

    def _on_pose(self, message: PoseStamped) -> None:
        self._frame(message).pose = message
        self._report()

    def _frame(self, message: Any) -> Frame:
        stamp = stamp_to_ns(message.header.stamp)
        for frame in self._frames:
            if frame.stamp == stamp:
                return frame
        self._frames.append(Frame(stamp))
        return self._frames[-1]

    def _report(self) -> None:
        while self._frames and (self._frames[0].complete or len(self._frames) > OPEN_FRAMES):
            self.on_frame(self._frames.popleft())


def main() -> None:
    """Run until Ctrl-C."""
    rclpy.init()
    node = CorrespondenceSubscriber()
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
