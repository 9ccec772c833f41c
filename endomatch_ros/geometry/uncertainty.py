"""The relative pose that fits its inliers best, and how far it can be trusted.

Both rest on the Sampson residuals of the inliers, in pixels of the ideal pinhole: Hartley and Zisserman, Multiple View
Geometry, 2nd edition, chapter 5 and section 11.4.3. Parameters are those of the pose that ROS publishes, the current
camera in the reference camera's frame, ``(Q, c) = (Rᵀ, -Rᵀ t)`` of ``camera1_from_camera0 = (R, t)``: two for the
direction ``c`` in the plane that touches the unit sphere, three for a rotation about the fixed axes, ``exp([w]) Q``.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from endomatch_ros.geometry.camera import Camera
from endomatch_ros.geometry.robust import evenly

Array = NDArray[np.float64]

INDEPENDENT_CELLS = 6  # along the longer side of the image, chosen by measurement: see docs/geometry.md
_PARAMETERS = 5
_FEWEST = 8
_MOST = 2000  # matches that are used; more of them lie so close together that they add next to nothing
_STEPS, _SMALL_STEP = 10, 1e-6  # radians: a thousandth of what one pair can tell
_CAUCHY = 2.385  # standard deviations: 95 % of least squares' efficiency on normal errors
_LEAST_SCALE_PX = 1e-9  # below float64's rounding of pixels: exact matches shall not divide by zero
_LARGEST_DEVIATION = 1.0  # radians; beyond it a direction is anything, and a linear model of its error is nothing


def refine_relative_pose(
    pose: NDArray[np.floating],
    points0: NDArray[np.floating],
    points1: NDArray[np.floating],
    camera: Camera,
    inliers: NDArray[np.bool_],
) -> Array:
    """The pose near a given one that fits its inliers best: least sum of Cauchy's loss of their Sampson residuals.

    Gauss–Newton with weights ``1 / (1 + (r / 2.385 s)²)``, ``s`` the residuals' standard deviation as their median
    tells it, at most 10 steps, on every k-th inlier where there are more than 2000.

    Args:
        pose: ``camera1_from_camera0`` ``(4, 4)``, of :func:`~endomatch_ros.geometry.robust.recover_relative_pose`.
        points0: ``(N, 2)`` pixels of the reference, as they come from the camera.
        points1: ``(N, 2)`` pixels of the current image.
        camera: of both images.
        inliers: ``(N,)`` bool.

    Returns:
        A pose with translation of unit length, which never fits worse than the given one: that one is returned where
        it cannot be bettered (fewer than 8 inliers, a motion that the matches do not determine).
    """
    centre, rotation = _published(pose)
    rays0, rays1 = _rays(points0, points1, camera, inliers)
    if len(rays0) >= _FEWEST:
        centre, rotation = _refined(centre, rotation, rays0, rays1, camera)
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = rotation.T, -rotation.T @ centre
    return out


def relative_pose_covariance(
    pose: NDArray[np.floating],
    points0: NDArray[np.floating],
    points1: NDArray[np.floating],
    camera: Camera,
    inliers: NDArray[np.bool_],
    cells: int | None = INDEPENDENT_CELLS,
) -> Array | None:
    """Covariance of a pose of :func:`refine_relative_pose`, in the order of ``geometry_msgs/PoseWithCovariance``.

    ``s² / n (mean JᵀJ)⁻¹``. ``J`` ``(N, 5)`` is the Jacobian of the residuals, ``s²`` the variance that they show,
    ``mean(ψ²) / mean(ψ')²`` for the Cauchy estimate (Huber, Robust Statistics, 1981, chapter 7) times ``n / (n - 5)``.
    ``n`` is the number of independent matches: neighbours err alike, so each occupied cell of a grid over the
    reference image counts as one.

    Args:
        pose: ``camera1_from_camera0`` ``(4, 4)``, of :func:`refine_relative_pose` with the same matches.
        points0: ``(N, 2)`` pixels of the reference, as they come from the camera.
        points1: ``(N, 2)`` pixels of the current image.
        camera: of both images.
        inliers: ``(N,)`` bool.
        cells: of the grid along the image's longer side; None takes all matches for independent.

    Returns:
        ``(6, 6)``: x, y, z of the current camera's position in the reference camera's frame, in units of the unknown
        distance (so radians of direction), and rotation in radians about that frame's fixed axes X, Y, Z. Rank 5:
        along the translation the variance is 0, for its length is 1 by definition. None where the matches do not
        determine the pose: less than 8 inliers, 5 cells or fewer, or a standard deviation above 1 rad.
    """
    centre, rotation = _published(pose)
    rays0, rays1 = _rays(points0, points1, camera, inliers)
    if len(rays0) < _FEWEST:
        return None
    independent = _independent(np.asarray(points0, np.float64)[inliers], camera.size, cells)
    if independent <= _PARAMETERS:
        return None
    residuals, jacobian = sampson_system(centre, rotation, rays0, rays1, camera)
    information = jacobian.T @ jacobian / len(jacobian)
    values, vectors = np.linalg.eigh(information)
    variance = _variance(residuals) / (independent - _PARAMETERS)
    # Written so that NaN fails.
    if not values[0] > max(variance / _LARGEST_DEVIATION**2, np.finfo(np.float64).eps * values[-1]):
        return None
    spread = np.zeros((6, _PARAMETERS))
    spread[:3, :2], spread[3:, 2:] = tangents(centre), np.eye(3)
    root = spread @ vectors * np.sqrt(variance / values)
    return np.asarray(root @ root.T)  # symmetric to the last bit


def sampson_system(centre: Array, rotation: Array, rays0: Array, rays1: Array, camera: Camera) -> tuple[Array, Array]:
    """Signed Sampson residuals ``(N,)`` in pixels and their Jacobian ``(N, 5)``: two of direction, three of rotation.

    Args:
        centre: unit vector ``(3,)``, the current camera's position in the reference camera's frame.
        rotation: ``(3, 3)``, turns the current camera's axes into the reference camera's.
        rays0: ``(N, 3)`` rays of the reference with z = 1.
        rays1: ``(N, 3)`` rays of the current image with z = 1.
        camera: of both images.
    """
    turned = rays1 @ rotation.T
    across = np.cross(rays0, centre)
    value = (across * turned).sum(axis=1)  # c · (Q x1 × x0), zero for a true match
    # What a pixel's move in either image changes, (N, 2): lines of the fundamental matrix.
    inverse = np.linalg.inv(camera.matrix)[:, :2]
    normal0, normal1 = np.cross(centre, turned) @ inverse, across @ rotation @ inverse
    length = np.sqrt((normal0**2).sum(axis=1) + (normal1**2).sum(axis=1))
    length[length == 0] = np.inf  # on both epipoles: no line, no residual, no derivative
    residuals = value / length
    # d(g / n) = (dg - (g / n) dn) / n, each in c and in the rotation.
    back0, back1 = normal0 @ inverse.T, normal1 @ inverse.T @ rotation.T
    by_centre = np.cross(turned, rays0)
    by_rotation = rays0 * (turned @ centre)[:, None] - centre * (rays0 * turned).sum(axis=1)[:, None]
    share = (residuals / length)[:, None]
    by_centre -= share * (np.cross(turned, back0) + np.cross(back1, rays0))
    by_rotation -= share * (np.cross(turned, np.cross(back0, centre)) - np.cross(across, back1))
    return residuals, np.hstack([by_centre @ tangents(centre), by_rotation]) / length[:, None]


def tangents(centre: Array) -> Array:
    """Two unit vectors ``(3, 2)`` at right angles to a unit vector ``(3,)`` and to one another."""
    return np.asarray(np.linalg.svd(centre[None])[2][1:].T)


def _refined(centre: Array, rotation: Array, rays0: Array, rays1: Array, camera: Camera) -> tuple[Array, Array]:
    start = centre, rotation
    for _ in range(_STEPS):
        residuals, jacobian = sampson_system(centre, rotation, rays0, rays1, camera)
        weighted = jacobian.T / (1 + (residuals / _scale(residuals)) ** 2)
        step = -np.linalg.lstsq(weighted @ jacobian, weighted @ residuals, rcond=None)[0]
        centre = centre + tangents(centre) @ step[:2]
        centre, rotation = centre / np.linalg.norm(centre), cv2.Rodrigues(step[2:])[0] @ rotation
        if np.abs(step).max() < _SMALL_STEP:
            break
    before, after = (sampson_system(*pose, rays0, rays1, camera)[0] for pose in (start, (centre, rotation)))
    scale = _scale(after)
    better = np.log1p((after / scale) ** 2).sum() <= np.log1p((before / scale) ** 2).sum()
    return (centre, rotation) if better else start


def _scale(residuals: Array) -> float:
    """Where Cauchy's weight falls to a half, pixels."""
    return max(_CAUCHY * 1.4826 * float(np.median(np.abs(residuals))), _LEAST_SCALE_PX)


def _variance(residuals: Array) -> float:
    """``mean(ψ²) / mean(ψ')²`` of ``ψ(r) = r / (1 + (r / k)²)``, square pixels: for normal errors 1.05 times theirs."""
    squares = (residuals / _scale(residuals)) ** 2
    slope = ((1 - squares) / (1 + squares) ** 2).mean()
    return float(((residuals / (1 + squares)) ** 2).mean() / slope**2)


def _independent(points0: Array, size: tuple[int, int], cells: int | None) -> int:
    """How many matches count: all, or one in each occupied cell."""
    if cells is None:
        return len(points0)
    columns, rows = np.floor((points0 + 0.5) * cells / max(size)).T
    return len(np.unique(columns + 1e6 * rows))  # one number per cell: rows of an array are slow to compare


def _published(pose: NDArray[np.floating]) -> tuple[Array, Array]:
    """Unit ``c`` ``(3,)`` and ``Q`` ``(3, 3)`` of ``camera1_from_camera0``."""
    rotation = np.asarray(pose, np.float64)[:3, :3].T
    centre = -rotation @ np.asarray(pose, np.float64)[:3, 3]
    return centre / np.linalg.norm(centre), rotation


def _rays(
    points0: NDArray[np.floating], points1: NDArray[np.floating], camera: Camera, inliers: NDArray[np.bool_]
) -> tuple[Array, Array]:
    """Rays of at most ``_MOST`` inliers, evenly from the list, without those that cannot be undistorted."""
    chosen = evenly(inliers, _MOST)
    rays0, rays1 = camera.rays(np.asarray(points0)[chosen]), camera.rays(np.asarray(points1)[chosen])
    known = np.isfinite(rays0[:, 0]) & np.isfinite(rays1[:, 0])
    return rays0[known], rays1[known]
