"""Collects what the matcher publishes, image by image: for the demo, for tests, as an example of a consumer."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image, PointCloud2

from endomatch_ros.ros.messages.clouds import stamp_to_ns, unpack_cloud, unpack_values
from endomatch_ros.ros.messages.images import RGB, to_rgb


@dataclass
class Answer:
    """What came back for one image; None for what has not come (yet).

    Attributes:
        arrived: ``time.time_ns()`` of the point cloud.
        points: structured array ``(N,)``, see :data:`endomatch_ros.ros.messages.clouds.CLOUD_DTYPE`.
        frame_id: of the point cloud.
        level: DiagnosticStatus level of ``~/epipolar_error``, 0 is OK.
        message: its message.
        figures: its values, as text.
        pose: ``~/relative_pose``.
        picture: ``~/visualization``, RGB uint8 ``(H, W, 3)``.
    """

    arrived: int | None = None
    points: NDArray[np.void] | None = None
    frame_id: str = ""
    level: int | None = None
    message: str = ""
    figures: dict[str, str] | None = None
    pose: PoseStamped | None = None
    picture: RGB | None = None

    @property
    def complete(self) -> bool:
        """Correspondences and epipolar error are both there."""
        return self.points is not None and self.figures is not None


class Collector(Node):
    """Subscribes to the outputs of a matcher node.

    Args:
        matcher: the matcher node's name, relative or absolute.
        pictures: subscribe to the visualization, too (the node draws only for a subscriber).

    Attributes:
        answers: by the image's stamp in nanoseconds.
        diagnostics: the newest values of ``/diagnostics`` by status name.
        reports: how many messages of ``/diagnostics`` came so far.
    """

    def __init__(self, matcher: str = "endomatch", pictures: bool = False, **options: Any) -> None:
        super().__init__("endomatch_collector", **options)
        self.answers: dict[int, Answer] = {}
        self.diagnostics: dict[str, dict[str, str]] = {}
        self.reports = 0
        qos = QoSProfile(depth=50)
        self.create_subscription(PointCloud2, f"{matcher}/correspondences", self._on_cloud, qos)
        self.create_subscription(DiagnosticArray, f"{matcher}/epipolar_error", self._on_error, qos)
        self.create_subscription(PoseStamped, f"{matcher}/relative_pose", self._on_pose, qos)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos)
        if pictures:
            self.create_subscription(Image, f"{matcher}/visualization", self._on_picture, qos)

    def _answer(self, message: Any) -> Answer:
        return self.answers.setdefault(stamp_to_ns(message.header.stamp), Answer())

    def _on_cloud(self, message: PointCloud2) -> None:
        answer = self._answer(message)
        answer.arrived = time.time_ns()
        answer.points, answer.frame_id = unpack_cloud(message), message.header.frame_id

    def _on_error(self, message: DiagnosticArray) -> None:
        answer, status = self._answer(message), message.status[0]
        answer.level, answer.message = int.from_bytes(status.level, "little"), status.message
        answer.figures = unpack_values(status)

    def _on_pose(self, message: PoseStamped) -> None:
        self._answer(message).pose = message

    def _on_picture(self, message: Image) -> None:
        self._answer(message).picture = to_rgb(message)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.reports += 1
        for status in message.status:
            self.diagnostics[status.name] = unpack_values(status)
