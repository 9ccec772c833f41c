"""A calibrated camera: undistortion of points, rays, projection."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from endomatch_ros.errors import CalibrationError

Array = NDArray[np.float64]

# Distortion coefficients that each model takes, as in sensor_msgs/CameraInfo and OpenCV.
_COEFFICIENTS = {"plumb_bob": (0, 4, 5), "rational_polynomial": (8, 12, 14), "equidistant": (4,)}


@dataclass(frozen=True)
class Camera:
    """Intrinsics of a camera. Points are undistorted, images never resampled.

    Convention: pixel centres at integer coordinates (OpenCV); axes x right, y down, z forward.

    Attributes:
        matrix: ``(3, 3)`` intrinsic matrix, focal lengths positive, last row (0, 0, 1).
        distortion: coefficients in OpenCV's order: 0, 4 or 5 for ``plumb_bob``; 8, 12 or 14 for
            ``rational_polynomial``; 4 for ``equidistant`` (OpenCV's fisheye).
        distortion_model: ``plumb_bob``, ``rational_polynomial`` or ``equidistant``.
        size: ``(width, height)`` in pixels.

    Raises:
        CalibrationError: values that contradict each other.
    """

    matrix: Array
    distortion: Array
    distortion_model: str
    size: tuple[int, int]

    def __post_init__(self) -> None:
        matrix = np.array(self.matrix, np.float64)
        distortion = np.array(self.distortion, np.float64).ravel()
        if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
            raise CalibrationError(f"the intrinsic matrix must be 3x3 and finite, not {matrix.tolist()}")
        if matrix[0, 0] <= 0 or matrix[1, 1] <= 0 or not np.allclose(matrix[2], (0, 0, 1)) or matrix[1, 0] != 0:
            raise CalibrationError(
                f"the intrinsic matrix needs positive focal lengths and last row 0 0 1: {matrix.tolist()}"
            )
        if self.distortion_model not in _COEFFICIENTS:
            known = ", ".join(_COEFFICIENTS)
            raise CalibrationError(f"distortion model {self.distortion_model!r} is unknown: use one of {known}")
        allowed = _COEFFICIENTS[self.distortion_model]
        if len(distortion) not in allowed or not np.isfinite(distortion).all():
            raise CalibrationError(
                f"{self.distortion_model} takes {' or '.join(map(str, allowed))} finite coefficients, "
                f"not {distortion.tolist()}"
            )
        if min(self.size) < 1:
            raise CalibrationError(f"the image size must be positive, not {self.size}")
        object.__setattr__(self, "matrix", matrix)
        object.__setattr__(self, "distortion", distortion)

    def undistort(self, points: NDArray[np.floating]) -> Array:
        """Pixels ``(N, 2)`` of the ideal pinhole camera with the same matrix."""
        normalised = self.rays(points)[:, :2]
        return np.asarray(normalised @ self.matrix[:2, :2].T + self.matrix[:2, 2])

    def rays(self, points: NDArray[np.floating]) -> Array:
        """Viewing rays ``(N, 3)`` with z = 1 through pixels ``(N, 2)``."""
        pixels = np.asarray(points, np.float64).reshape(-1, 1, 2)
        if len(pixels) == 0:
            return np.zeros((0, 3))
        if self.distortion_model == "equidistant":
            flat = cv2.fisheye.undistortPoints(pixels, self.matrix, self.distortion)
        else:
            # OpenCV's default of 5 iterations leaves whole pixels at the rim of a wide lens.
            criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-12)
            flat = cv2.undistortPoints(pixels, self.matrix, self._padded(), criteria=criteria)
        return np.column_stack([flat.reshape(-1, 2), np.ones(len(pixels))])

    def project(self, points: NDArray[np.floating]) -> Array:
        """Pixels ``(N, 2)``, distorted, of camera-frame points ``(N, 3)``; NaN for points not in front (z ≤ 0)."""
        local = np.asarray(points, np.float64).reshape(-1, 3)
        front = local[:, 2] > 0
        out = np.full((len(local), 2), np.nan)
        if front.any():
            zero = np.zeros(3)
            seen = local[front].reshape(-1, 1, 3)
            if self.distortion_model == "equidistant":
                pixels, _ = cv2.fisheye.projectPoints(seen, zero, zero, self.matrix, self.distortion)
            else:
                pixels, _ = cv2.projectPoints(seen, zero, zero, self.matrix, self._padded())
            out[front] = pixels.reshape(-1, 2)
        return out

    def _padded(self) -> Array:
        return self.distortion if len(self.distortion) else np.zeros(5)
