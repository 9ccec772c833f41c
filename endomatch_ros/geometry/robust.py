"""Epipolar geometry from matches with outliers, by OpenCV's USAC_MAGSAC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from endomatch_ros.geometry.camera import Camera
from endomatch_ros.geometry.epipolar import epipolar_distance, fundamental_from_essential

Array = NDArray[np.float64]

_ITERATIONS = 5000
_FARTHEST_PX = 1e7  # a coordinate beyond this is a bug or a failed undistortion, and its square has lost its digits
_STILL_PX = 0.1  # when nine of ten matches move less than this, noise would pass for a geometry
_PARALLAX_PX = 0.5
_CHEIRALITY = 1000  # inliers at most that choose among the four poses


@dataclass(frozen=True, eq=False)
class EpipolarEstimate:
    """What the matches of a pair say about its epipolar geometry.

    Attributes:
        model: ``E`` (calibrated), ``F`` (uncalibrated) or ``none`` (could not be estimated).
        matrix: fundamental matrix ``(3, 3)`` in pixels (for ``E`` those of the ideal pinhole), Frobenius norm 1.
        essential: essential matrix ``(3, 3)`` for model ``E``, singular values 1, 1, 0; else None.
        inliers: ``(N,)`` bool, error at most the threshold; all False without a model.
        error: ``(N,)`` epipolar distance in pixels, NaN if unknown.
        message: one line for a person: the estimate, or why there is none.
    """

    model: Literal["E", "F", "none"]
    matrix: Array | None
    essential: Array | None
    inliers: NDArray[np.bool_]
    error: Array
    message: str


def estimate_epipolar(
    points0: NDArray[np.floating],
    points1: NDArray[np.floating],
    camera: Camera | None = None,
    threshold: float = 1.0,
    confidence: float = 0.999,
    min_matches: int = 8,
) -> EpipolarEstimate:
    """Robust essential (with ``camera``) or fundamental matrix of a pair.

    Args:
        points0: ``(N, 2)`` pixels of the reference.
        points1: ``(N, 2)`` pixels of the current image.
        camera: of both images; its distortion is removed from the points first.
        threshold: MAGSAC's inlier threshold, pixels.
        confidence: wanted probability of an outlier-free sample.
        min_matches: with fewer matches nothing is estimated (at least 8).

    Returns:
        An estimate; few, degenerate or non-finite matches give model ``none`` with the reason, never an exception.
    """
    p0, p1 = (np.asarray(p, np.float64).reshape(-1, 2) for p in (points0, points1))
    count, needed = len(p0), max(8, min_matches)
    if camera is not None:
        p0, p1 = camera.undistort(p0), camera.undistort(p1)
    with np.errstate(invalid="ignore"):
        usable = ((np.abs(p0) < _FARTHEST_PX) & (np.abs(p1) < _FARTHEST_PX)).all(axis=1)
    if usable.sum() < needed:
        return _none(count, f"{int(usable.sum())} matches, {needed} are needed")
    q0, q1 = p0[usable], p1[usable]
    if float(np.percentile(np.linalg.norm(q1 - q0, axis=1), 90)) < _STILL_PX:
        return _none(count, "the images hardly differ: without motion there is no epipolar geometry")
    try:
        essential, fundamental = _magsac(q0, q1, camera, threshold, confidence)
    except cv2.error as problem:
        return _none(count, f"OpenCV found no epipolar geometry ({str(problem).strip().splitlines()[-1]})")
    if fundamental is None:
        return _none(count, "no epipolar geometry fits the matches")
    error = np.full(count, np.nan)
    error[usable] = epipolar_distance(fundamental, q0, q1)
    inliers = np.nan_to_num(error, nan=np.inf) <= threshold
    reason = _undetermined(p0[inliers], p1[inliers], needed, threshold)
    if reason:
        return _none(count, reason)
    message = f"{int(inliers.sum())} of {count} matches within {threshold:g} px"
    return EpipolarEstimate("F" if camera is None else "E", fundamental, essential, inliers, error, message)


def recover_relative_pose(
    estimate: EpipolarEstimate, points0: NDArray[np.floating], points1: NDArray[np.floating], camera: Camera
) -> Array | None:
    """``camera1_from_camera0`` ``(4, 4)``, unit translation, from an ``E`` estimate; ``None`` if it is undecided.

    Of the four poses of an essential matrix the one with most inliers before both cameras is taken (cheirality; of more
    than 1000 inliers every k-th one is asked).
    Undecided are: less than half of the inliers in front, and a motion that rotation alone explains (median parallax
    below half a pixel), since the direction of translation is then a guess.
    """
    if estimate.essential is None:
        return None
    # Evenly from the list: which of four poses it is shows in far fewer matches than there are.
    chosen = evenly(estimate.inliers, _CHEIRALITY)
    rays0, rays1 = camera.rays(np.asarray(points0)[chosen]), camera.rays(np.asarray(points1)[chosen])
    # A large depth limit: distant points count too, the default of 50 baselines would drop slow motion altogether.
    front, rotation, translation, _, _ = cv2.recoverPose(
        estimate.essential, rays0[:, :2].copy(), rays1[:, :2].copy(), np.eye(3), distanceThresh=1e6
    )
    if front < 0.5 * len(rays0) or not np.isfinite(rotation).all() or not np.isfinite(translation).all():
        return None
    turned = rays0 @ rotation.T
    parallax = (turned[:, :2] / turned[:, 2:] - rays1[:, :2]) @ camera.matrix[:2, :2].T
    if np.median(np.linalg.norm(parallax, axis=1)) < _PARALLAX_PX:
        return None
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, translation.ravel() / np.linalg.norm(translation)
    return pose


def evenly(which: NDArray[np.bool_], most: int) -> NDArray[np.intp]:
    """Positions of what is True in ``(N,)``; where that is more than ``most``, every k-th of them."""
    chosen = np.flatnonzero(which)
    return chosen[:: max(1, -(-len(chosen) // most))]


def _magsac(
    q0: Array, q1: Array, camera: Camera | None, threshold: float, confidence: float
) -> tuple[Array | None, Array | None]:
    """Essential (with a camera) and fundamental matrix, None without a solution.

    OpenCV's USAC samples from a generator of its own with a fixed seed: the same matches give the same answer.
    """
    if camera is None:
        matrix, _ = cv2.findFundamentalMat(q0, q1, cv2.USAC_MAGSAC, threshold, confidence, _ITERATIONS)
        return None, _unit(matrix)
    # Square pixels without skew, so that OpenCV's conversion of the threshold holds in every direction.
    focal = float(np.sqrt(camera.matrix[0, 0] * camera.matrix[1, 1]))
    straighten = focal * np.linalg.inv(camera.matrix[:2, :2]).T
    r0, r1 = ((q - camera.matrix[:2, 2]) @ straighten for q in (q0, q1))
    pinhole = np.diag([focal, focal, 1.0])
    raw, _ = cv2.findEssentialMat(r0, r1, pinhole, cv2.USAC_MAGSAC, confidence, threshold, _ITERATIONS)
    scaled = _unit(raw)
    if scaled is None:
        return None, None
    u, _, vt = np.linalg.svd(scaled)
    essential = np.asarray(u @ np.diag([1.0, 1.0, 0.0]) @ vt)
    return essential, fundamental_from_essential(essential, camera.matrix, camera.matrix)


def _unit(matrix: NDArray[np.generic] | None) -> Array | None:
    """The matrix with Frobenius norm 1; None unless it is 3×3, finite and not zero."""
    if matrix is None or matrix.shape != (3, 3):
        return None
    out = np.asarray(matrix, np.float64)
    if not np.isfinite(out).all() or not out.any():
        return None
    out = out / np.abs(out).max()  # OpenCV scales by the last element: the others may be 1e17
    return np.asarray(out / np.linalg.norm(out))


def _undetermined(inliers0: Array, inliers1: Array, needed: int, threshold: float) -> str:
    """Why these inliers do not determine an epipolar geometry; empty if they do."""
    for inliers in (inliers0, inliers1):
        # Tenths of a pixel, one number per place: rows of an array are slow to compare.
        if len(np.unique(np.round(10 * inliers) @ [1.0, 2.0**26])) < needed:
            return f"only {len(inliers)} matches agree on an epipolar geometry, {needed} at different points are needed"
        narrow = np.linalg.svd(inliers - inliers.mean(axis=0), compute_uv=False)[1] / np.sqrt(len(inliers))
        if narrow < threshold:
            return "the matches that agree lie on one line"
    return ""


def _none(count: int, message: str) -> EpipolarEstimate:
    return EpipolarEstimate("none", None, None, np.zeros(count, bool), np.full(count, np.nan), message)
