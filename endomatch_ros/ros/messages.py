"""The node's output messages, packed from arrays and unpacked to them again.

``CLOUD_DTYPE`` is the layout of one point of ``~/correspondences``, little endian, 56 bytes: ten float32 from offset 0
(``x y z u v u_ref v_ref similarity epipolar_error inlier``), ``track_id`` uint32 at 40, four bytes unused so that
``dt`` float64 stands aligned at 48.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import PoseStamped
from numpy.typing import NDArray
from sensor_msgs.msg import PointCloud2, PointField

from endomatch_ros.errors import DataError
from endomatch_ros.ros.images import byte_array

NANOSECONDS = 1_000_000_000
_FLOATS = ("x", "y", "z", "u", "v", "u_ref", "v_ref", "similarity", "epipolar_error", "inlier")
CLOUD_DTYPE = np.dtype(
    {
        "names": [*_FLOATS, "track_id", "dt"],
        "formats": ["<f4"] * len(_FLOATS) + ["<u4", "<f8"],
        "offsets": [4 * i for i in range(len(_FLOATS))] + [40, 48],
        "itemsize": 56,
    }
)
_POINT_FIELD_TYPES = {
    PointField.INT8: "i1",
    PointField.UINT8: "u1",
    PointField.INT16: "i2",
    PointField.UINT16: "u2",
    PointField.INT32: "i4",
    PointField.UINT32: "u4",
    PointField.FLOAT32: "f4",
    PointField.FLOAT64: "f8",
}
_POINT_FIELD_NAMES = {code: number for number, code in _POINT_FIELD_TYPES.items()}


@dataclass(frozen=True)
class Limits:
    """When ``~/epipolar_error`` turns from OK to WARN or ERROR.

    Attributes:
        warn_median_px, error_median_px: median epipolar error above which the level is WARN or ERROR.
        min_matches: fewer matches are an ERROR.
        min_inlier_ratio: a smaller share (0 to 1) of inliers is a WARN.
    """

    warn_median_px: float = 1.5
    error_median_px: float = 5.0
    min_matches: int = 30
    min_inlier_ratio: float = 0.5


def stamp_to_ns(stamp: Time) -> int:
    """Nanoseconds since the epoch of the stamp's clock."""
    return int(stamp.sec) * NANOSECONDS + int(stamp.nanosec)


def ns_to_stamp(nanoseconds: int) -> Time:
    """The inverse of :func:`stamp_to_ns`."""
    return Time(sec=int(nanoseconds // NANOSECONDS), nanosec=int(nanoseconds % NANOSECONDS))


def make_points(
    matches: Any,
    error: NDArray[np.float64],
    inliers: NDArray[np.bool_],
    rays: NDArray[np.float64] | None,
) -> NDArray[Any]:
    """Assemble the structured array of ``~/correspondences``.

    Args:
        matches: :class:`~endomatch_ros.matching.Matches` whose stamps are nanoseconds.
        error: ``(N,)`` epipolar error in px, NaN where unknown.
        inliers: ``(N,)`` bool.
        rays: ``(N, 3)`` rays of the current points at unit depth; None when uncalibrated, then ``x y z`` are NaN.

    Returns:
        ``(N,)`` of :data:`CLOUD_DTYPE`.
    """
    points = np.zeros(len(matches), CLOUD_DTYPE)
    for axis, name in enumerate("xyz"):
        points[name] = np.nan if rays is None else rays[:, axis]
    points["u"], points["v"] = matches.keypoints1.T
    points["u_ref"], points["v_ref"] = matches.keypoints0.T
    points["similarity"] = matches.similarity
    points["epipolar_error"] = error
    points["inlier"] = inliers
    points["track_id"] = matches.track_ids
    points["dt"] = (matches.stamp1 - matches.stamp0) / NANOSECONDS
    return points


def pack_cloud(points: NDArray[Any], stamp: Time, frame_id: str) -> PointCloud2:
    """Make a PointCloud2 (height 1) from a structured array ``(N,)``; fields, offsets and types follow its dtype."""
    fields: Mapping[str, Any] = points.dtype.fields or {}
    cloud = PointCloud2(height=1, width=len(points), is_bigendian=False)
    cloud.header.stamp, cloud.header.frame_id = stamp, frame_id
    cloud.fields = [
        PointField(name=name, offset=offset, datatype=_POINT_FIELD_NAMES[kind.str[1:]], count=1)
        for name, (kind, offset, *_) in fields.items()
    ]
    cloud.point_step = points.dtype.itemsize
    cloud.row_step = cloud.point_step * len(points)
    cloud.is_dense = bool(np.isfinite(points["x"]).all())
    cloud.data = byte_array(points)
    return cloud


def unpack_cloud(cloud: PointCloud2) -> NDArray[Any]:
    """Read a PointCloud2 of single-count fields into a structured array ``(height * width,)``.

    Raises:
        DataError: the data are shorter than the header says, or a field's type is unknown.
    """
    order = ">" if cloud.is_bigendian else "<"
    unknown = [f.name for f in cloud.fields if f.datatype not in _POINT_FIELD_TYPES]
    if unknown:
        raise DataError(
            f"the cloud's fields {', '.join(unknown)} have a datatype that is not in sensor_msgs/PointField"
        )
    if len(cloud.data) < cloud.height * cloud.row_step:
        raise DataError(f"{len(cloud.data)} bytes of points, but {cloud.height} rows x {cloud.row_step} were announced")
    dtype = np.dtype(
        {
            "names": [f.name for f in cloud.fields],
            "formats": [order + _POINT_FIELD_TYPES[f.datatype] for f in cloud.fields],
            "offsets": [f.offset for f in cloud.fields],
            "itemsize": cloud.point_step,
        }
    )
    rows = np.frombuffer(cloud.data, np.uint8, count=cloud.height * cloud.row_step).reshape(cloud.height, -1)
    return np.ascontiguousarray(rows[:, : cloud.width * cloud.point_step]).view(dtype).reshape(-1)


def error_values(
    matches: Any, error: NDArray[np.float64], inliers: NDArray[np.bool_], model: str, matrix: NDArray[np.float64] | None
) -> dict[str, Any]:
    """The figures of ``~/epipolar_error`` (see the package's documentation for each).

    ``mean_px``, ``median_px``, ``p95_px`` and ``rms_px`` are over all matches whose error is defined, outliers too, so
    that they do not follow the inlier threshold; NaN if there is none. ``reference_stamp`` is in seconds.
    """
    known = error[np.isfinite(error)]
    count = len(matches)
    figures: dict[str, Any] = {
        "matches": count,
        "inliers": int(inliers.sum()),
        "inlier_ratio": float(inliers.mean()) if count else 0.0,
        "mean_px": float(known.mean()) if len(known) else np.nan,
        "median_px": float(np.median(known)) if len(known) else np.nan,
        "p95_px": float(np.percentile(known, 95)) if len(known) else np.nan,
        "rms_px": float(np.sqrt(np.mean(known**2))) if len(known) else np.nan,
        "coverage": float(matches.coverage),
        "model": model,
        "matrix": [] if matrix is None else [float(value) for value in matrix.ravel()],
        "reference_stamp": _seconds(matches.stamp0),
    }
    return figures


def failure_values() -> dict[str, Any]:
    """The same keys as :func:`error_values` where no matching took place."""
    figures = dict.fromkeys(("mean_px", "median_px", "p95_px", "rms_px"), np.nan)
    return {
        "matches": 0,
        "inliers": 0,
        "inlier_ratio": 0.0,
        **figures,
        "coverage": 0.0,
        "model": "none",
        "matrix": [],
        "reference_stamp": "",
    }


def judge(figures: Mapping[str, Any], limits: Limits, reason: str = "", still: bool = False) -> tuple[bytes, str]:
    """Level and message of ``~/epipolar_error``.

    Args:
        figures: from :func:`error_values`.
        limits: the thresholds.
        reason: why no geometry was estimated, when ``model`` is ``none``.
        still: the matches hardly move: then a missing geometry is a WARN, for a scope at rest is no fault.

    Returns:
        ``(DiagnosticStatus level, message that says why)``.
    """
    matches, ratio, median = figures["matches"], figures["inlier_ratio"], figures["median_px"]
    error, warn = DiagnosticStatus.ERROR, DiagnosticStatus.WARN
    if matches < limits.min_matches:
        return error, f"{matches} matches, fewer than min_matches {limits.min_matches}"
    if figures["model"] == "none":
        return warn if still else error, f"no epipolar geometry: {reason}"
    if not median <= limits.error_median_px:
        return error, f"median epipolar error {median:.2f} px is above error_median_px {limits.error_median_px:g}"
    if median > limits.warn_median_px:
        return warn, f"median epipolar error {median:.2f} px is above warn_median_px {limits.warn_median_px:g}"
    if ratio < limits.min_inlier_ratio:
        return warn, f"inlier ratio {ratio:.2f} is below min_inlier_ratio {limits.min_inlier_ratio:g}"
    return DiagnosticStatus.OK, f"{matches} matches, median epipolar error {median:.2f} px, {ratio:.0%} inliers"


def pack_error(
    figures: Mapping[str, Any], level: bytes, message: str, stamp: Time, frame_id: str, name: str, hardware_id: str
) -> DiagnosticArray:
    """Make the ``~/epipolar_error`` message: one status with every figure as text, floats with full precision."""
    status = make_status(name, level, message, hardware_id, figures)
    array = DiagnosticArray(status=[status])
    array.header.stamp, array.header.frame_id = stamp, frame_id
    return array


def make_status(name: str, level: bytes, message: str, hardware_id: str, values: Mapping[str, Any]) -> DiagnosticStatus:
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


def _quaternion(rotation: NDArray[np.floating]) -> tuple[float, float, float, float]:
    """``(x, y, z, w)`` of a rotation matrix, by way of its rotation vector; ``w`` is never negative."""
    vector = cv2.Rodrigues(rotation)[0].ravel()
    angle = float(np.linalg.norm(vector))
    x, y, z = 0.5 * np.sinc(angle / (2 * np.pi)) * vector  # sin(angle / 2) * axis, defined at 0 too
    return float(x), float(y), float(z), float(np.cos(angle / 2))


def _seconds(nanoseconds: int) -> str:
    return f"{nanoseconds // NANOSECONDS}.{nanoseconds % NANOSECONDS:09d}"


def _text(value: Any) -> str:
    return ", ".join(repr(item) for item in value) if isinstance(value, list) else str(value)
