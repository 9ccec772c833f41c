"""Which calibration is in use, and what an operator reads about it: after ``none:``, why there is none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sensor_msgs.msg import CameraInfo

from endomatch_ros.errors import CalibrationError
from endomatch_ros.geometry.camera import Camera
from endomatch_ros.geometry.stereo import StereoRig
from endomatch_ros.ros.messages.calibration import to_camera

NO_PAIR = "none: no pair has been matched yet"
HALF_A_PAIR = "none: a camera of the pair is uncalibrated"


class Calibration:
    """The camera that a camera_info describes; used by one thread, but for ``text``.

    Args:
        on_warning: told once about each camera_info that cannot be used.

    Attributes:
        text: for the operator.
    """

    def __init__(self, on_warning: Callable[[str], None]) -> None:
        self._on_warning = on_warning
        self._known: tuple[object, Camera | None] = (None, None)
        self.text = "none: camera_info received, but no image after it"

    def camera(self, info: CameraInfo | None, size: tuple[int, int], rectified: bool) -> Camera | None:
        """The camera of images of ``size`` ``(width, height)``; None without a camera_info that can be used."""
        if info is None:
            return None
        # Drivers repeat camera_info with every frame: work (and warn) once per content.
        key = (content(info), size)
        if self._known[0] != key:
            try:
                camera = to_camera(info, size, rectified)
                self.text = of_camera(camera, rectified)
            except CalibrationError as error:
                camera, self.text = None, refused(error)
                self._on_warning(f"camera_info is not used, points stay uncalibrated: {error}")
            self._known = (key, camera)
        return self._known[1]


def content(info: CameraInfo) -> tuple[object, ...]:
    """What counts of a CameraInfo, to compare by."""
    roi = info.roi
    region = (roi.x_offset, roi.y_offset, roi.width, roi.height, info.binning_x, info.binning_y)
    return (info.width, info.height, info.distortion_model, *map(tuple, (info.d, info.k, info.r, info.p)), region)


def missing(topic: str) -> str:
    """No camera_info has come."""
    return f"none: no camera_info received on {topic}"


def refused(error: CalibrationError) -> str:
    """A camera_info that cannot be used."""
    return f"none: {error}"


def of_camera(camera: Camera | None, rectified: bool) -> str:
    """A camera_info that was read: the camera's model, size and focal lengths; None: it said uncalibrated.

    Args:
        camera: of :func:`~endomatch_ros.ros.messages.calibration.to_camera`.
        rectified: it is that of rectified images.
    """
    if camera is None:
        return f"none: {'P' if rectified else 'K'} of camera_info is all zero, which means uncalibrated"
    model = "rectified" if rectified else camera.distortion_model if camera.distortion.any() else "no distortion"
    (width, height), (fx, fy) = camera.size, np.diagonal(camera.matrix)[:2]
    return f"{model}, {width} x {height} px, focal lengths {fx:.1f}, {fy:.1f} px"


def of_rig(rig: StereoRig) -> str:
    """A calibrated pair: how far its cameras are apart."""
    return f"stereo pair, baseline {1e3 * np.linalg.norm(rig.pose[:3, 3]):.2f} mm"
