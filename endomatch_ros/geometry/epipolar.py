"""Two-view geometry in closed form.

Convention: ``x1ᵀ F x0 = 0`` with 0 the reference and 1 the current image; a pose is ``camera1_from_camera0``, 4×4.
Source: Hartley and Zisserman, Multiple View Geometry, 2nd edition, chapters 9 and 11.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from endomatch_ros.errors import CalibrationError

Array = NDArray[np.float64]

_CANCELLED = 1e-12  # a normal below this share of the terms it was summed of is rounding noise, not a direction


def is_rigid(pose: NDArray[np.floating]) -> bool:
    """Whether a matrix is ``(4, 4)``, finite, and a rotation (to 1e-4) with a translation."""
    if pose.shape != (4, 4) or not np.isfinite(pose).all():
        return False
    rotation = pose[:3, :3]
    orthonormal = np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-4)
    return bool(orthonormal and np.linalg.det(rotation) > 0 and np.array_equal(pose[3], (0.0, 0.0, 0.0, 1.0)))


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
    largest = float(np.abs(pose[:3, 3]).max())
    if not np.isfinite(largest) or largest == 0.0:
        raise CalibrationError(f"a pose with translation {pose[:3, 3].tolist()} has no epipolar geometry")
    # Unit length keeps the numbers apart from the scene's unit: metres and millimetres give the same matrix. The
    # largest part goes first, since the squares of a very short baseline would underflow.
    direction = pose[:3, 3] / largest
    return skew(direction / np.linalg.norm(direction)) @ pose[:3, :3]


def fundamental_from_essential(
    essential: NDArray[np.floating], K0: NDArray[np.floating], K1: NDArray[np.floating]
) -> Array:
    """``F = K1⁻ᵀ E K0⁻¹`` ``(3, 3)``, scaled to Frobenius norm 1."""
    F = np.linalg.inv(K1).T @ np.asarray(essential, np.float64) @ np.linalg.inv(K0)
    return np.asarray(F / np.linalg.norm(F))


def fundamental_from_pose(K0: NDArray[np.floating], K1: NDArray[np.floating], pose: NDArray[np.floating]) -> Array:
    """Fundamental matrix ``(3, 3)`` of two calibrated views, norm 1; raises as :func:`essential_from_pose`."""
    return fundamental_from_essential(essential_from_pose(pose), K0, K1)


def relative_pose(pose0: NDArray[np.floating], pose1: NDArray[np.floating]) -> Array:
    """``camera1_from_camera0`` ``(4, 4)`` of two rigid ``camera_from_world`` poses ``(4, 4)``."""
    out = np.eye(4)
    out[:3, :3] = pose1[:3, :3] @ pose0[:3, :3].T
    out[:3, 3] = pose1[:3, 3] - out[:3, :3] @ pose0[:3, 3]
    return out


def epipolar_distance(F: NDArray[np.floating], points0: NDArray[np.floating], points1: NDArray[np.floating]) -> Array:
    """Mean of the two point-to-line distances ``(N,)`` in pixels, NaN where a point's line is degenerate (its epipole).

    No epsilon is added anywhere: it would bias short baselines, whose lines have small coefficients.
    """
    residual, norm0, norm1 = _residuals(F, points0, points1)
    return np.asarray((residual / norm0 + residual / norm1) / 2)


def sampson_distance(F: NDArray[np.floating], points0: NDArray[np.floating], points1: NDArray[np.floating]) -> Array:
    """First-order geometric distance ``(N,)`` in pixels (not squared), NaN where a point's line is degenerate."""
    residual, norm0, norm1 = _residuals(F, points0, points1)
    return np.asarray(residual / np.hypot(norm0, norm1))


def _residuals(
    F: NDArray[np.floating], points0: NDArray[np.floating], points1: NDArray[np.floating]
) -> tuple[Array, Array, Array]:
    """``|x1ᵀ F x0|`` and the lengths of the normals of the lines in image 0 and 1, each ``(N,)``; NaN if degenerate."""
    F = np.asarray(F, np.float64)
    # The scale of F cancels out of every distance; unit scale keeps the products far from under- and overflow.
    F = F / np.abs(F).max() if F.any() else F
    x0 = np.column_stack([np.asarray(points0, np.float64).reshape(-1, 2), np.ones(len(points0))])
    x1 = np.column_stack([np.asarray(points1, np.float64).reshape(-1, 2), np.ones(len(points1))])
    line1, line0 = x0 @ F.T, x1 @ F
    norm0 = _normal_lengths(line0, np.abs(x1) @ np.abs(F))
    norm1 = _normal_lengths(line1, np.abs(x0) @ np.abs(F).T)
    return np.abs((x1 * line1).sum(axis=1)), norm0, norm1


def _normal_lengths(lines: Array, terms: Array) -> Array:
    """Lengths ``(N,)`` of the lines' normals; NaN where only rounding noise of the ``terms`` is left."""
    lengths = np.hypot(lines[:, 0], lines[:, 1])
    return np.where(lengths > _CANCELLED * terms[:, :2].max(axis=1), lengths, np.nan)
