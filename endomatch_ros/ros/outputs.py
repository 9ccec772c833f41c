"""The node's output topics."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from rclpy.qos import QoSHistoryPolicy, QoSPolicyKind, QoSProfile, QoSReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, Image, PointCloud2

from endomatch_ros.evaluation.drawing import draw_flow
from endomatch_ros.ros.images import to_compressed_message, to_message
from endomatch_ros.ros.messages import (
    error_values,
    failure_values,
    judge,
    make_points,
    pack_cloud,
    pack_error,
    pack_pose,
)
from endomatch_ros.ros.pipeline import Job, Pair

OVERRIDABLE = (
    QoSPolicyKind.HISTORY,
    QoSPolicyKind.DEPTH,
    QoSPolicyKind.RELIABILITY,
    QoSPolicyKind.DURABILITY,
)
INPUT_QOS = QoSProfile(history=QoSHistoryPolicy.KEEP_LAST, depth=1, reliability=QoSReliabilityPolicy.BEST_EFFORT)
OUTPUT_QOS = QoSProfile(history=QoSHistoryPolicy.KEEP_LAST, depth=10, reliability=QoSReliabilityPolicy.RELIABLE)


_STILL_PX = 0.5  # median motion below which a scope counts as at rest


class Outputs:
    """Publishers under the node's private namespace; used by the worker thread.

    Args:
        node: the lifecycle node; its transitions enable and disable the publishers.
        hardware_id: names model and device in the diagnostics.
    """

    def __init__(self, node: LifecycleNode, hardware_id: str) -> None:
        self._node = node
        self._hardware_id = hardware_id
        self._name = f"{node.get_fully_qualified_name()}: epipolar error"
        self._publishers: list[LifecyclePublisher[Any]] = []
        self._correspondences = self._publisher(PointCloud2, "~/correspondences")
        self._error = self._publisher(DiagnosticArray, "~/epipolar_error")
        self._pose = self._publisher(PoseStamped, "~/relative_pose")
        self._picture = self._publisher(Image, "~/visualization")
        self._jpeg = self._publisher(CompressedImage, "~/visualization/compressed")

    def publish_pair(self, pair: Pair, job: Job) -> None:
        """Publish everything that is known about a matched pair."""
        stamp, frame_id = job.stamp, job.message.header.frame_id
        matches, estimate = pair.matches, pair.estimate
        points = make_points(matches, estimate.error, estimate.inliers, pair.rays)
        self._correspondences.publish(pack_cloud(points, stamp, frame_id))
        figures = error_values(matches, estimate.error, estimate.inliers, estimate.model, estimate.matrix)
        motion = np.linalg.norm(matches.keypoints1 - matches.keypoints0, axis=1)
        still = len(motion) > 0 and float(np.median(motion)) < _STILL_PX
        level, message = judge(figures, job.settings.limits, estimate.message, still)
        self._error.publish(pack_error(figures, level, message, stamp, frame_id, self._name, self._hardware_id))
        if pair.pose is not None:
            self._pose.publish(pack_pose(pair.pose, stamp, frame_id))
        self._publish_picture(pair, job, figures)

    def publish_failure(self, job: Job, problem: str) -> None:
        """Publish on ``~/epipolar_error`` that the frame could not be matched, and why."""
        header = job.message.header
        figures, level = failure_values(), DiagnosticStatus.ERROR
        self._error.publish(
            pack_error(figures, level, problem, header.stamp, header.frame_id, self._name, self._hardware_id)
        )

    def destroy(self) -> None:
        """Remove the publishers from the node."""
        for publisher in self._publishers:
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers.clear()

    def _publisher(self, kind: type, topic: str) -> LifecyclePublisher[Any]:
        publisher: LifecyclePublisher[Any] = self._node.create_lifecycle_publisher(
            kind, topic, OUTPUT_QOS, qos_overriding_options=QoSOverridingOptions(OVERRIDABLE)
        )
        self._publishers.append(publisher)
        return publisher

    def _publish_picture(self, pair: Pair, job: Job, figures: dict[str, Any]) -> None:
        raw, jpeg = (publisher.get_subscription_count() > 0 for publisher in (self._picture, self._jpeg))
        if not (raw or jpeg):
            return
        lines = [
            f"{figures['matches']} matches",
            f"{figures['inlier_ratio']:.0%} inliers",
            f"median error {figures['median_px']:.2f} px",
            f"{1e3 * (time.monotonic() - job.received):.0f} ms",
        ]
        estimate, settings = pair.estimate, job.settings
        picture = draw_flow(
            pair.image,
            pair.matches,
            estimate.error,
            estimate.inliers,
            lines,
            scale=settings.visualization_scale,
            full_scale_px=settings.ransac_threshold_px,  # inliers end there
        )
        stamp, frame_id = job.stamp, job.message.header.frame_id
        if raw:
            self._picture.publish(to_message(picture, stamp, frame_id))
        if jpeg:
            self._jpeg.publish(to_compressed_message(picture, stamp, frame_id, settings.visualization_quality))
