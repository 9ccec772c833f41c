"""CameraInfo to :class:`~endomatch_ros.geometry.camera.Camera` and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CameraInfo

from endomatch_ros.errors import CalibrationError
from endomatch_ros.geometry.camera import Camera

if TYPE_CHECKING:
    from numpy.typing import NDArray


def to_camera(info: CameraInfo, size: tuple[int, int], rectified: bool = False) -> Camera | None:
    """The camera that took images of ``size``.

    ``K`` and ``P`` of a CameraInfo hold for the full sensor; its region of interest and binning are applied here, with
    pixel centres at whole numbers (x' = (x - offset + ½) / binning - ½).

    Args:
        info: the message.
        size: ``(width, height)`` of the images that arrive.
        rectified: the images are rectified already: use ``P`` without distortion instead of ``K`` and ``D``.

    Returns:
        The camera, or None when the message says uncalibrated (all zero ``K``, or ``P`` if ``rectified``).

    Raises:
        CalibrationError: the message contradicts itself or the images' size.
    """
    matrix = np.array(info.p, np.float64).reshape(3, 4)[:, :3] if rectified else np.array(info.k).reshape(3, 3)
    if not matrix.any():
        return None
    expected, matrix = _cropped_and_binned(info, matrix)
    if expected != size:
        raise CalibrationError(
            f"camera_info describes images of {expected[0]} x {expected[1]} pixels (region of interest and binning "
            f"applied), but the images are {size[0]} x {size[1]}; publish the calibration of this resolution"
        )
    if rectified:
        return Camera(matrix, np.zeros(5), "plumb_bob", size)
    distortion = np.array(info.d, np.float64)
    if not distortion.any():  # drivers leave model and coefficients empty for an ideal pinhole
        return Camera(matrix, np.zeros(5), "plumb_bob", size)
    if info.distortion_model not in ("plumb_bob", "rational_polynomial", "equidistant"):
        raise CalibrationError(
            f"distortion_model {info.distortion_model!r} is not supported; "
            "use plumb_bob, rational_polynomial or equidistant, or publish rectified images"
        )
    return Camera(matrix, distortion, info.distortion_model, size)


def to_camera_info(camera: Camera, stamp: Time, frame_id: str) -> CameraInfo:
    """The CameraInfo of an uncropped, unbinned, monocular camera."""
    info = CameraInfo(width=camera.size[0], height=camera.size[1], distortion_model=camera.distortion_model)
    info.header.stamp, info.header.frame_id = stamp, frame_id
    info.k = camera.matrix.ravel().tolist()
    info.d = camera.distortion.ravel().tolist()
    info.r = np.eye(3).ravel().tolist()
    info.p = np.hstack([camera.matrix, np.zeros((3, 1))]).ravel().tolist()
    return info


def _cropped_and_binned(info: CameraInfo, matrix: NDArray[np.float64]) -> tuple[tuple[int, int], NDArray[np.float64]]:
    roi = info.roi
    whole = roi.width == 0 and roi.height == 0  # all zero means the full sensor
    width, height = (info.width, info.height) if whole else (roi.width, roi.height)
    binning = np.array([info.binning_x or 1, info.binning_y or 1], np.float64)
    offset = np.array([roi.x_offset, roi.y_offset], np.float64)
    adjusted = matrix.copy()
    adjusted[:2, :2] /= binning[:, None]
    adjusted[:2, 2] = (matrix[:2, 2] - offset + 0.5) / binning - 0.5
    return (int(width // binning[0]), int(height // binning[1])), adjusted
