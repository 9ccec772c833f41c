"""A calibrated camera: undistortion of points, rays, projection."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from endomatch_ros.errors import CalibrationError

Array = NDArray[np.float64]

# Distortion coefficients that each model takes, as in sensor_msgs/CameraInfo and OpenCV.
_COEFFICIENTS = {"plumb_bob": (0, 4, 5), "rational_polynomial": (8, 12, 14), "equidistant": (4,)}
_ITERATIONS = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 200, 1e-12)  # the default, 5, is pixels off at the rim
_ROUND_TRIP_PX = 0.01  # undistorted points that do not distort back to where they came from this well are no solution


@dataclass(frozen=True, eq=False)
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
        matrix.flags.writeable = distortion.flags.writeable = False
        object.__setattr__(self, "matrix", matrix)
        object.__setattr__(self, "distortion", distortion)

    def undistort(self, points: ArrayLike) -> Array:
        """Pixels ``(N, 2)`` of the ideal pinhole camera with the same matrix; NaN as in :meth:`rays`."""
        return np.asarray(self.rays(points) @ self.matrix[:2].T)

    def rays(self, points: ArrayLike) -> Array:
        """Viewing rays ``(N, 3)`` with z = 1 through pixels ``(N, 2)``.

        NaN (all three) for points that are not finite or beyond what the distortion model can undo.
        """
        pixels = np.asarray(points, np.float64).reshape(-1, 2)
        # OpenCV leaves skew out, so the matrix is applied here and OpenCV only distorts.
        usable = np.isfinite(pixels).all(axis=1)
        rays = np.full((len(pixels), 3), np.nan)
        rays[usable] = np.column_stack([pixels[usable], np.ones(usable.sum())]) @ np.linalg.inv(self.matrix).T
        rays[usable, 2] = 1.0
        if self.distortion.any() and usable.any():
            rays[usable] = self._undistorted(rays[usable])
        return rays

    def project(self, points: ArrayLike) -> Array:
        """Pixels ``(N, 2)``, distorted, of camera-frame points ``(N, 3)``; NaN for points not in front (z ≤ 0)."""
        local = np.asarray(points, np.float64).reshape(-1, 3)
        front = np.isfinite(local).all(axis=1) & (local[:, 2] > 0)
        out = np.full((len(local), 2), np.nan)
        if front.any():
            flat = local[front] / local[front, 2:]
            if self.distortion.any():
                flat[:, :2] = self._distorted(flat)
            out[front] = flat @ self.matrix[:2].T
        return out

    def _distorted(self, rays: Array) -> Array:
        """Distorted coordinates ``(N, 2)`` in the plane z = 1 of rays ``(N, 3)``."""
        zero = np.zeros(3)
        if self.distortion_model == "equidistant":
            flat, _ = cv2.fisheye.projectPoints(rays[:, None], zero, zero, np.eye(3), self.distortion)
        else:
            flat, _ = cv2.projectPoints(rays[:, None], zero, zero, np.eye(3), self.distortion)
        return np.asarray(flat, np.float64).reshape(-1, 2)

    def _undistorted(self, distorted: Array) -> Array:
        """Rays ``(N, 3)`` of distorted ones; NaN where the model has no solution."""
        flat = np.ascontiguousarray(distorted[:, None, :2])
        if self.distortion_model == "equidistant":
            ideal = cv2.fisheye.undistortPoints(flat, np.eye(3), self.distortion, criteria=_ITERATIONS)
        else:
            ideal = cv2.undistortPoints(flat, np.eye(3), self.distortion, criteria=_ITERATIONS)
        rays = np.column_stack([np.asarray(ideal, np.float64).reshape(-1, 2), np.ones(len(distorted))])
        # OpenCV's iteration has no way to say that it failed, so ask the model itself.
        with np.errstate(invalid="ignore", over="ignore"):
            miss = np.linalg.norm((self._distorted(rays) - distorted[:, :2]) @ self.matrix[:2, :2].T, axis=1)
            rays[~(miss < _ROUND_TRIP_PX)] = np.nan
        return rays
