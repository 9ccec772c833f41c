"""CameraInfo to :class:`~endomatch_ros.geometry.camera.Camera` and back."""

from __future__ import annotations

import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CameraInfo

from endomatch_ros.data.calibration import to_camera
from endomatch_ros.geometry.camera import Camera

__all__ = ["to_camera", "to_camera_info"]


def to_camera_info(camera: Camera, stamp: Time, frame_id: str) -> CameraInfo:
    """The CameraInfo of an uncropped, unbinned, monocular camera."""
    info = CameraInfo(width=camera.size[0], height=camera.size[1], distortion_model=camera.distortion_model)
    info.header.stamp, info.header.frame_id = stamp, frame_id
    info.k = camera.matrix.ravel().tolist()
    info.d = camera.distortion.ravel().tolist()
    info.r = np.eye(3).ravel().tolist()
    info.p = np.hstack([camera.matrix, np.zeros((3, 1))]).ravel().tolist()
    return info
