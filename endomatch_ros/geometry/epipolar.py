"""Two-view geometry in closed form.

Convention: ``x1ᵀ F x0 = 0`` with 0 the reference and 1 the current image; a pose is ``camera1_from_camera0``, 4×4.
Source: Hartley and Zisserman, Multiple View Geometry, 2nd edition, chapters 9 and 11.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from endomatch_ros.errors import CalibrationError

Array = NDArray[np.float64]


def skew(vector: NDArray[np.floating]) -> Array:
    """Cross-product matrix ``(3, 3)`` of a vector ``(3,)``: ``skew(a) @ b = a × b``."""
    x, y, z = np.asarray(vector, np.float64)
    return np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])


def essential_from_pose(pose: NDArray[np.floating]) -> Array:
    """Essential matrix ``(3, 3)`` of ``camera1_from_camera0``, its translation scaled to length 1.

    Raises:
        CalibrationError: the translation is zero, so that no epipolar geometry exists.
    """
    pose = np.asarray(pose, np.float64)
    length = float(np.linalg.norm(pose[:3, 3]))
    if not np.isfinite(length) or length == 0.0:
        raise CalibrationError(f"a pose with translation {pose[:3, 3].tolist()} has no epipolar geometry")
    # Unit length keeps the numbers apart from the scene's unit: metres and millimetres give the same matrix.
    return skew(pose[:3, 3] / length) @ pose[:3, :3]


def fundamental_from_essential(
    essential: NDArray[np.floating], K0: NDArray[np.floating], K1: NDArray[np.floating]
) -> Array:
    """``F = K1⁻ᵀ E K0⁻¹`` ``(3, 3)``, scaled to Frobenius norm 1."""
    F = np.linalg.inv(K1).T @ np.asarray(essential, np.float64) @ np.linalg.inv(K0)
    return np.asarray(F / np.linalg.norm(F))


def fundamental_from_pose(K0: NDArray[np.floating], K1: NDArray[np.floating], pose: NDArray[np.floating]) -> Array:
    """Fundamental matrix ``(3, 3)`` of two calibrated views, norm 1; raises as :func:`essential_from_pose`."""
    return fundamental_from_essential(essential_from_pose(pose), K0, K1)


def _lines(
    F: NDArray[np.floating], points0: NDArray[np.floating], points1: NDArray[np.floating]
) -> tuple[Array, Array, Array]:
    F = np.asarray(F, np.float64)
    x0 = np.column_stack([np.asarray(points0, np.float64).reshape(-1, 2), np.ones(len(points0))])
    x1 = np.column_stack([np.asarray(points1, np.float64).reshape(-1, 2), np.ones(len(points1))])
    line1, line0 = x0 @ F.T, x1 @ F
    return np.asarray((x1 * line1).sum(1)), line0, line1


def epipolar_distance(F: NDArray[np.floating], points0: NDArray[np.floating], points1: NDArray[np.floating]) -> Array:
    """Mean of the two point-to-line distances ``(N,)`` in pixels, NaN where a point's line is degenerate (its epipole).

    No epsilon is added anywhere: it would bias short baselines, whose lines have small coefficients.
    """
    residual, line0, line1 = _lines(F, points0, points1)
    norm0, norm1 = np.hypot(line0[:, 0], line0[:, 1]), np.hypot(line1[:, 0], line1[:, 1])
    valid = (norm0 > 0) & (norm1 > 0)
    out = np.full(len(residual), np.nan)
    out[valid] = 0.5 * np.abs(residual[valid]) * (1.0 / norm0[valid] + 1.0 / norm1[valid])
    return out


def sampson_distance(F: NDArray[np.floating], points0: NDArray[np.floating], points1: NDArray[np.floating]) -> Array:
    """First-order geometric distance ``(N,)`` in pixels (not squared), NaN where it is degenerate."""
    residual, line0, line1 = _lines(F, points0, points1)
    norm = np.sqrt((line0[:, :2] ** 2).sum(1) + (line1[:, :2] ** 2).sum(1))
    out = np.full(len(residual), np.nan)
    out[norm > 0] = np.abs(residual[norm > 0]) / norm[norm > 0]
    return out
