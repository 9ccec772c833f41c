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


@dataclass(frozen=True)
class EpipolarEstimate:
    """What the matches of a pair say about its epipolar geometry.

    Attributes:
        model: ``E`` (calibrated), ``F`` (uncalibrated) or ``none`` (could not be estimated).
        matrix: fundamental matrix ``(3, 3)`` in pixels (for ``E`` those of the ideal pinhole), Frobenius norm 1.
        essential: essential matrix ``(3, 3)`` for model ``E``.
        inliers: ``(N,)`` bool.
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
    count = len(p0)
    finite = np.isfinite(p0).all(1) & np.isfinite(p1).all(1)
    needed = max(8, min_matches)
    if finite.sum() < needed:
        return _none(count, f"{int(finite.sum())} matches, {needed} are needed")
    if camera is not None:
        p0[finite], p1[finite] = camera.undistort(p0[finite]), camera.undistort(p1[finite])
        finite &= np.isfinite(p0).all(1) & np.isfinite(p1).all(1)
    q0, q1 = p0[finite], p1[finite]
    if len(np.unique(np.round(q0, 1), axis=0)) < needed or len(np.unique(np.round(q1, 1), axis=0)) < needed:
        return _none(count, "the matches lie on too few different points")
    if float(np.median(np.linalg.norm(q1 - q0, axis=1))) < 0.05:
        return _none(count, "the images hardly differ: without motion there is no epipolar geometry")
    try:
        essential, fundamental = _magsac(q0, q1, camera, threshold, confidence)
    except cv2.error as error:
        return _none(count, f"OpenCV found no epipolar geometry ({str(error).strip().splitlines()[-1]})")
    if fundamental is None:
        return _none(count, "no epipolar geometry fits the matches")
    error = np.full(count, np.nan)
    error[finite] = epipolar_distance(fundamental, q0, q1)
    inliers = error < threshold
    if inliers.sum() < needed:
        return _none(count, f"only {int(inliers.sum())} matches agree on an epipolar geometry")
    message = f"{int(inliers.sum())} of {count} matches within {threshold:g} px"
    return EpipolarEstimate("F" if camera is None else "E", fundamental, essential, inliers, error, message)


def _magsac(
    q0: Array, q1: Array, camera: Camera | None, threshold: float, confidence: float
) -> tuple[Array | None, Array | None]:
    # The same matches must give the same answer: OpenCV samples from its global generator.
    cv2.setRNGSeed(0)
    if camera is None:
        matrix, _ = cv2.findFundamentalMat(q0, q1, cv2.USAC_MAGSAC, threshold, confidence, 2000)
        if matrix is None or matrix.shape != (3, 3) or not np.isfinite(matrix).all() or not matrix.any():
            return None, None
        return None, np.asarray(matrix / np.linalg.norm(matrix))
    essential, _ = cv2.findEssentialMat(q0, q1, camera.matrix, cv2.USAC_MAGSAC, confidence, threshold, 2000)
    if essential is None or essential.shape != (3, 3) or not np.isfinite(essential).all() or not essential.any():
        return None, None
    essential = np.asarray(essential / np.linalg.norm(essential) * np.sqrt(2.0))
    return essential, fundamental_from_essential(essential, camera.matrix, camera.matrix)


def _none(count: int, message: str) -> EpipolarEstimate:
    return EpipolarEstimate("none", None, None, np.zeros(count, bool), np.full(count, np.nan), message)


def recover_relative_pose(
    estimate: EpipolarEstimate, points0: NDArray[np.floating], points1: NDArray[np.floating], camera: Camera
) -> Array | None:
    """``camera1_from_camera0`` ``(4, 4)``, unit translation, from an ``E`` estimate; ``None`` if it is undecided.

    Of the four poses of an essential matrix the one with most inliers before both cameras is taken (cheirality).
    """
    if estimate.model != "E" or estimate.essential is None or estimate.inliers.sum() < 5:
        return None
    q0 = camera.undistort(np.asarray(points0)[estimate.inliers])
    q1 = camera.undistort(np.asarray(points1)[estimate.inliers])
    # A large depth limit: distant points count too, the default of 50 baselines would drop slow motion altogether.
    result = cv2.recoverPose(estimate.essential, q0, q1, camera.matrix, distanceThresh=1e4)
    front, rotation, translation = result[0], result[1], result[2]
    if front < 0.5 * len(q0) or not np.isfinite(rotation).all() or not np.isfinite(translation).all():
        return None
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, translation.ravel() / np.linalg.norm(translation)
    return pose
