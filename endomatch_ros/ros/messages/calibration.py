"""CameraInfo to :class:`~endomatch_ros.geometry.camera.Camera` and back."""

from __future__ import annotations

import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CameraInfo

from endomatch_ros.data.calibration import to_camera
from endomatch_ros.geometry.camera import Camera

__all__ = ["to_camera", "to_camera_info"]


def to_camera_info(camera: Camera, stamp: Time, frame_id: str, baseline: float = 0.0) -> CameraInfo:
    """The CameraInfo of an uncropped, unbinned camera.

    Args:
        camera: its intrinsics.
        stamp: of the header.
        frame_id: of the header.
        baseline: metres from the left camera of a pair with parallel axes to this one; 0: the left one, or no pair.
    """
    info = CameraInfo(width=camera.size[0], height=camera.size[1], distortion_model=camera.distortion_model)
    info.header.stamp, info.header.frame_id = stamp, frame_id
    info.k = camera.matrix.ravel().tolist()
    info.d = camera.distortion.ravel().tolist()
    info.r = np.eye(3).ravel().tolist()
    shift = camera.matrix @ np.array([[-baseline], [0.0], [0.0]])
    info.p = np.hstack([camera.matrix, shift]).ravel().tolist()
    return info
