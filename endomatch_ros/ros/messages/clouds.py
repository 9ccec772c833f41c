"""The node's output messages, packed from arrays and unpacked to them again.

Both directions go through numpy structured arrays: :func:`pack_cloud` makes a PointCloud2 of any such array,
:func:`unpack_cloud` (which needs no ROS, see :mod:`endomatch_ros.data.clouds`) reads any PointCloud2 of single-count
fields. :data:`CLOUD_DTYPE` is the layout of ``~/correspondences``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped
from numpy.typing import NDArray
from sensor_msgs.msg import PointCloud2, PointField

from endomatch_ros.data.clouds import CLOUD_DTYPE, POINT_FIELD_TYPES, STEREO_DTYPE, unpack_cloud
from endomatch_ros.errors import DataError
from endomatch_ros.matching.types import Matches
from endomatch_ros.ros.messages.images import byte_array

__all__ = [
    "CLOUD_DTYPE",
    "STEREO_DTYPE",
    "make_points",
    "make_status",
    "make_stereo_points",
    "ns_to_stamp",
    "pack_cloud",
    "pack_pose",
    "stamp_to_ns",
    "unpack_cloud",
    "unpack_values",
    "with_covariance",
]

NANOSECONDS = 1_000_000_000
_POINT_FIELD_NAMES = {code: number for number, code in POINT_FIELD_TYPES.items()}


def stamp_to_ns(stamp: Time) -> int:
    """Nanoseconds since the epoch of the stamp's clock."""
    return int(stamp.sec) * NANOSECONDS + int(stamp.nanosec)


def ns_to_stamp(nanoseconds: int) -> Time:
    """The inverse of :func:`stamp_to_ns`."""
    return Time(sec=int(nanoseconds // NANOSECONDS), nanosec=int(nanoseconds % NANOSECONDS))


def make_points(
    matches: Matches,
    error: NDArray[np.float64],
    inliers: NDArray[np.bool_],
    rays: NDArray[np.float64] | None,
) -> NDArray[np.void]:
    """Assemble the structured array of ``~/correspondences``.

    Args:
        matches: :class:`~endomatch_ros.matching.Matches` whose stamps are nanoseconds.
        error: ``(N,)`` epipolar error in px, NaN where unknown.
        inliers: ``(N,)`` bool.
        rays: ``(N, 3)`` rays of the current points at unit depth; None when uncalibrated, then ``x y z`` are NaN.

    Returns:
        ``(N,)`` of :data:`CLOUD_DTYPE`.
    """
    start, end = matches.stamp0, matches.stamp1
    assert start is not None  # the node gives both
    assert end is not None
    points = np.zeros(len(matches), CLOUD_DTYPE)
    for axis, name in enumerate("xyz"):
        points[name] = np.nan if rays is None else rays[:, axis]
    points["u"], points["v"] = matches.keypoints1.T
    points["u_ref"], points["v_ref"] = matches.keypoints0.T
    points["similarity"] = matches.similarity
    points["epipolar_error"] = error
    points["inlier"] = inliers
    points["track_id"] = matches.track_ids
    points["dt"] = (end - start) / NANOSECONDS
    return points


def make_stereo_points(
    positions: NDArray[np.float64], matches: Matches, error: NDArray[np.float64], image: NDArray[np.uint8]
) -> NDArray[np.void]:
    """Assemble the structured array of ``~/stereo/points``.

    Args:
        positions: ``(N, 3)`` metres in the first camera's optical frame; NaN where there is no point.
        matches: :class:`~endomatch_ros.matching.Matches`; image 0 is the first camera's.
        error: ``(N,)`` epipolar error in px.
        image: the first camera's, RGB uint8 ``(H, W, 3)``, for the colours.

    Returns:
        ``(M,)`` of :data:`STEREO_DTYPE`, the positions without NaN.
    """
    known = np.flatnonzero(np.isfinite(positions).all(axis=1))
    points = np.zeros(len(known), STEREO_DTYPE)
    for axis, name in enumerate("xyz"):
        points[name] = positions[known, axis]
    x, y = np.round(matches.keypoints0[known]).astype(int).T
    red, green, blue = image[y, x].astype(np.uint32).T
    points["rgb"] = (red << 16 | green << 8 | blue).astype(np.uint32).view(np.float32)
    points["similarity"], points["epipolar_error"] = matches.similarity[known], error[known]
    points["track_id"] = matches.track_ids[known]
    return points


def pack_cloud(points: NDArray[np.void], stamp: Time, frame_id: str) -> PointCloud2:
    """Make a PointCloud2 (height 1) from a structured array; the inverse of :func:`unpack_cloud`.

    Args:
        points: ``(N,)`` with at least the field ``x``; names, offsets and types of the fields follow its dtype.
        stamp: of the header.
        frame_id: of the header.

    Raises:
        DataError: not a structured array, or a field that is not one little-endian number of PointField's types.
    """
    cloud = PointCloud2(height=1, width=len(points), is_bigendian=False)
    cloud.header.stamp, cloud.header.frame_id = stamp, frame_id
    cloud.fields = _point_fields(points.dtype)
    cloud.point_step = points.dtype.itemsize
    cloud.row_step = cloud.point_step * len(points)
    cloud.is_dense = bool(np.isfinite(points["x"]).all())
    cloud.data = byte_array(points)
    return cloud


def _point_fields(dtype: np.dtype[np.void]) -> list[PointField]:
    fields: Mapping[str, tuple[Any, ...]] = dtype.fields or {}
    foreign = [
        name
        for name, (kind, *_) in fields.items()
        if kind.str[1:] not in _POINT_FIELD_NAMES or kind != kind.newbyteorder("<")
    ]
    if foreign or "x" not in fields:
        raise DataError(
            f"{dtype} is no layout of a PointCloud2: make it a structured array with x, each field one little-endian "
            f"number of {', '.join(_POINT_FIELD_NAMES)}"
        )
    return [
        PointField(name=name, offset=offset, datatype=_POINT_FIELD_NAMES[kind.str[1:]], count=1)
        for name, (kind, offset, *_) in fields.items()
    ]


def make_status(
    name: str, level: bytes, message: str, hardware_id: str, values: Mapping[str, object]
) -> DiagnosticStatus:
    """Make a DiagnosticStatus; lists become comma-separated numbers."""
    pairs = [KeyValue(key=key, value=_text(value)) for key, value in values.items()]
    return DiagnosticStatus(name=name, level=level, message=message, hardware_id=hardware_id, values=pairs)


def unpack_values(status: DiagnosticStatus) -> dict[str, str]:
    """The values of a status as a dictionary of text."""
    return {pair.key: pair.value for pair in status.values}


def pack_pose(pose: NDArray[np.float64], stamp: Time, frame_id: str) -> PoseStamped:
    """Make ``~/relative_pose``: the current camera in the reference camera's frame.

    Args:
        pose: ``(4, 4)`` camera1_from_camera0 (maps reference to current coordinates), translation of unit length.
        stamp: the current image's stamp.
        frame_id: the optical frame of the camera (that of the reference image, at its time).
    """
    inverse = np.linalg.inv(pose)
    message = PoseStamped()
    message.header.stamp, message.header.frame_id = stamp, frame_id
    position, orientation = message.pose.position, message.pose.orientation
    position.x, position.y, position.z = (float(value) for value in inverse[:3, 3])
    orientation.x, orientation.y, orientation.z, orientation.w = _quaternion(inverse[:3, :3])
    return message


def with_covariance(pose: PoseStamped, covariance: NDArray[np.float64]) -> PoseWithCovarianceStamped:
    """Make ``~/relative_pose_with_covariance``.

    Args:
        pose: from :func:`pack_pose`.
        covariance: ``(6, 6)``, of :func:`~endomatch_ros.geometry.uncertainty.relative_pose_covariance`.
    """
    message = PoseWithCovarianceStamped(header=pose.header)
    message.pose.pose = pose.pose
    message.pose.covariance = covariance.ravel()
    return message


def _quaternion(rotation: NDArray[np.floating]) -> tuple[float, float, float, float]:
    """``(x, y, z, w)`` of a rotation matrix, by way of its rotation vector; ``w`` is never negative."""
    vector = cv2.Rodrigues(rotation)[0].ravel()
    angle = float(np.linalg.norm(vector))
    x, y, z = 0.5 * np.sinc(angle / (2 * np.pi)) * vector  # sin(angle / 2) * axis, defined at 0 too
    return float(x), float(y), float(z), float(np.cos(angle / 2))


def _text(value: object) -> str:
    return ", ".join(repr(item) for item in value) if isinstance(value, list) else str(value)
