"""Point clouds as numpy structured arrays, without ROS: for messages of rclpy and of ``rosbags`` alike.

``CLOUD_DTYPE`` is the layout of one point of ``~/correspondences``, little endian, 56 bytes: ten float32 from offset 0
(``x y z u v u_ref v_ref similarity epipolar_error inlier``), ``track_id`` uint32 at 40, four bytes unused so that
``dt`` float64 stands aligned at 48. ``docs/consuming/messages.md`` has the meaning of each field.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from endomatch_ros.errors import DataError

_FLOATS = ("x", "y", "z", "u", "v", "u_ref", "v_ref", "similarity", "epipolar_error", "inlier")
CLOUD_DTYPE = np.dtype(
    {
        "names": [*_FLOATS, "track_id", "dt"],
        "formats": ["<f4"] * len(_FLOATS) + ["<u4", "<f8"],
        "offsets": [4 * i for i in range(len(_FLOATS))] + [40, 48],
        "itemsize": 56,
    }
)
STEREO_DTYPE = np.dtype(
    [(name, "<f4") for name in ("x", "y", "z", "rgb", "similarity", "epipolar_error")] + [("track_id", "<u4")]
)
"""One point of ``~/stereo/points``, 28 bytes; ``rgb``: 0x00RRGGBB in the bits of a float32, as RViz and PCL read it."""
# The constants of sensor_msgs/PointField (INT8 = 1 to FLOAT64 = 8).
POINT_FIELD_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}


class PointCloud2(Protocol):
    """The fields of ``sensor_msgs/PointCloud2`` that are read; ``data`` is anything with the buffer interface."""

    height: int
    width: int
    fields: Sequence[Any]
    is_bigendian: bool
    point_step: int
    row_step: int
    data: Any


def unpack_cloud(cloud: PointCloud2) -> NDArray[Any]:
    """Read a PointCloud2 of single-count fields into a structured array ``(height * width,)``.

    Args:
        cloud: a message of rclpy, or one that ``rosbags`` has read from a bag.

    Returns:
        ``(N,)``, one point per row, with the cloud's own field names and types, e.g. ``points["track_id"]``: of
        :data:`CLOUD_DTYPE` for ``~/correspondences``. A copy, writable; in the cloud's byte order.

    Raises:
        DataError: the data are shorter than the header says, a row is shorter than its points, a point is shorter than
            its fields, or a field's type is unknown.
    """
    order = ">" if cloud.is_bigendian else "<"
    unknown = [f.name for f in cloud.fields if f.datatype not in POINT_FIELD_TYPES]
    if unknown:
        raise DataError(
            f"the cloud's fields {', '.join(unknown)} have a datatype that is not in sensor_msgs/PointField"
        )
    if len(cloud.data) < cloud.height * cloud.row_step:
        raise DataError(f"{len(cloud.data)} bytes of points, but {cloud.height} rows x {cloud.row_step} were announced")
    used = cloud.width * cloud.point_step
    if cloud.row_step < used:
        raise DataError(f"row_step is {cloud.row_step}, but {cloud.width} points x {cloud.point_step} bytes are {used}")
    layout = {
        "names": [f.name for f in cloud.fields],
        "formats": [order + POINT_FIELD_TYPES[f.datatype] for f in cloud.fields],
        "offsets": [f.offset for f in cloud.fields],
        "itemsize": cloud.point_step,
    }
    try:
        dtype = np.dtype(layout)  # type: ignore[call-overload]
    except ValueError as error:
        raise DataError(f"the cloud's fields do not fit into its point_step of {cloud.point_step}: {error}") from error
    rows = np.frombuffer(cloud.data, np.uint8, count=cloud.height * cloud.row_step)
    points = rows.reshape(cloud.height, cloud.row_step)[:, :used].copy()
    return points.view(dtype).reshape(-1)
