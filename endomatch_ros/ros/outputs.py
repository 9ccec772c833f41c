"""The node's output topics."""

from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from rclpy.qos import QoSHistoryPolicy, QoSPolicyKind, QoSProfile, QoSReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, Image, PointCloud2
from visualization_msgs.msg import MarkerArray

from endomatch_ros.drawing import draw_flow
from endomatch_ros.ros.messages.clouds import make_points, make_stereo_points, pack_cloud, pack_pose, with_covariance
from endomatch_ros.ros.messages.images import to_compressed_message, to_message
from endomatch_ros.ros.messages.markers import make_markers
from endomatch_ros.ros.messages.verdict import Figures, error_values, failure_values, judge, pack_error
from endomatch_ros.ros.pipeline import Frame, Job, Pair

if TYPE_CHECKING:
    from endomatch_ros.matching import Matches

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
    """Publishers of one camera, or of the stereo pair, under the node's private namespace; used by the worker thread.

    Args:
        node: the lifecycle node; its transitions enable and disable the publishers.
        hardware_id: names model and device in the diagnostics.
        camera: where they are: ``~/camera/…``; empty: ``~/…``.
        stereo: of the stereo pair.
    """

    def __init__(self, node: LifecycleNode, hardware_id: str, camera: str = "", stereo: bool = False) -> None:
        self._node, self._hardware_id = node, hardware_id
        self._folder = f"~/{camera}/" if camera else "~/"
        self._name = f"{node.get_fully_qualified_name()}: {camera} epipolar error".replace("  ", " ")
        self._publishers: list[LifecyclePublisher[Any]] = []
        self._correspondences = self._publisher(PointCloud2, "correspondences")
        self._error = self._publisher(DiagnosticArray, "epipolar_error")
        self._picture = self._publisher(Image, "visualization")
        self._jpeg = self._publisher(CompressedImage, "visualization/compressed")
        self._stereo = stereo
        if stereo:
            self._points = self._publisher(PointCloud2, "points")
        else:
            self._pose = self._publisher(PoseStamped, "relative_pose")
            self._uncertain_pose = self._publisher(PoseWithCovarianceStamped, "relative_pose_with_covariance")
            self._markers = self._publisher(MarkerArray, "markers")

    def publish_pair(self, pair: Pair, job: Job) -> None:
        """Publish everything that is known about a matched pair."""
        stamp, frame_id = job.stamp, job.message.header.frame_id
        matches, estimate = pair.matches, pair.estimate
        points = make_points(matches, estimate.error, estimate.inliers, pair.rays)
        self._correspondences.publish(pack_cloud(points, stamp, frame_id))
        figures = error_values(matches, estimate.error, estimate.inliers, estimate.model, estimate.matrix)
        level, message = judge(figures, job.settings.limits, estimate.message, not self._stereo and _at_rest(matches))
        self._error.publish(pack_error(figures, level, message, stamp, frame_id, self._name, self._hardware_id))
        if pair.pose is not None:
            self._publish_pose(pair, pair.pose, stamp, frame_id)
        if not self._stereo:
            self._publish_markers(pair, points, job)
        self._publish_picture(pair, job, figures)

    def publish_points(self, pair: Pair, reference: Frame) -> None:
        """Publish a stereo pair's points, stamped as the first camera's image."""
        if pair.points is not None:
            points = make_stereo_points(pair.points, pair.matches, pair.estimate.error, reference.image)
            header = reference.job.message.header
            self._points.publish(pack_cloud(points, header.stamp, header.frame_id))

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
        qos = copy.copy(OUTPUT_QOS)  # rclpy writes overrides into what it is given
        publisher: LifecyclePublisher[Any] = self._node.create_lifecycle_publisher(
            kind, self._folder + topic, qos, qos_overriding_options=QoSOverridingOptions(OVERRIDABLE)
        )
        self._publishers.append(publisher)
        return publisher

    def _publish_pose(self, pair: Pair, pose: NDArray[np.float64], stamp: Time, frame_id: str) -> None:
        message = pack_pose(pose, stamp, frame_id)
        self._pose.publish(message)
        if pair.covariance is not None:
            self._uncertain_pose.publish(with_covariance(message, pair.covariance))

    def _publish_markers(self, pair: Pair, points: NDArray[np.void], job: Job) -> None:
        if self._markers.get_subscription_count() > 0:
            settings, header = job.settings, job.message.header
            scale, limit = settings.ransac_threshold_px, settings.markers_max  # inliers end where the colours do
            self._markers.publish(
                make_markers(points, pair.reference_rays, header.stamp, header.frame_id, scale, limit)
            )

    def _publish_picture(self, pair: Pair, job: Job, figures: Figures) -> None:
        raw, jpeg = (publisher.get_subscription_count() > 0 for publisher in (self._picture, self._jpeg))
        if not (raw or jpeg):
            return
        estimate, settings = pair.estimate, job.settings
        geometry = [f"{figures['inlier_ratio']:.0%} inliers", f"median error {figures['median_px']:.2f} px"]
        lines = [
            f"{figures['matches']} matches",
            *(["no geometry"] if estimate.model == "none" else geometry),
            f"{1e3 * (time.monotonic() - job.received):.0f} ms",
        ]
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


def _at_rest(matches: Matches) -> bool:
    motion = np.linalg.norm(matches.keypoints1 - matches.keypoints0, axis=1)
    return len(motion) > 0 and float(np.median(motion)) < _STILL_PX
