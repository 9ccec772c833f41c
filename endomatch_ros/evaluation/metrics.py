"""What is measured of matches: pure functions of predictions and truth, no state."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from endomatch_ros.geometry.camera import Camera
from endomatch_ros.geometry.epipolar import epipolar_distance

Array = NDArray[np.float64]


def epipolar_errors(
    fundamental: ArrayLike,
    points0: ArrayLike,
    points1: ArrayLike,
    camera0: Camera | None = None,
    camera1: Camera | None = None,
) -> Array:
    """Epipolar distance ``(N,)`` px of matches ``(N, 2)`` under the true fundamental matrix ``(3, 3)``.

    With cameras, the points are undistorted first. NaN where a line is degenerate or a point cannot be undistorted.
    """
    pixels0, pixels1 = np.asarray(points0, np.float64), np.asarray(points1, np.float64)
    pixels0 = camera0.undistort(pixels0) if camera0 else pixels0
    pixels1 = camera1.undistort(pixels1) if camera1 else pixels1
    return epipolar_distance(np.asarray(fundamental, np.float64), pixels0, pixels1)


def share_within(errors: ArrayLike, thresholds: Sequence[float]) -> dict[float, float]:
    """For each threshold the share (0 to 1) of the known errors at or below it; NaN if no error is known.

    Precision when the errors are epipolar distances; PCK when they are end-point errors. NaN errors do not count.
    """
    values = np.asarray(errors, np.float64)
    known = values[~np.isnan(values)]
    return {t: float((known <= t).mean()) if len(known) else float("nan") for t in thresholds}


def end_point_errors(predicted: ArrayLike, target: ArrayLike, visible: ArrayLike | None = None) -> Array:
    """Distances ``(N,)`` px between predicted and true positions ``(N, 2)``; NaN where not ``visible`` ``(N,)``."""
    distance = np.linalg.norm(np.asarray(predicted, np.float64) - np.asarray(target, np.float64), axis=1)
    return distance if visible is None else np.where(np.asarray(visible, bool), distance, np.nan)


def predict_at(points: ArrayLike, keypoints0: ArrayLike, keypoints1: ArrayLike, radius: float = 8.0) -> Array:
    """Where matches say that other points move: each takes the displacement of the nearest match.

    Args:
        points: ``(P, 2)`` pixels of image 0.
        keypoints0: ``(N, 2)`` pixels of the matches in image 0.
        keypoints1: ``(N, 2)`` their partners in image 1.
        radius: px; a point without a match this near gets NaN.

    Returns:
        ``(P, 2)`` float64 pixels of image 1.
    """
    places = np.asarray(points, np.float64).reshape(-1, 2)
    first, second = (np.asarray(k, np.float64).reshape(-1, 2) for k in (keypoints0, keypoints1))
    out = np.full(places.shape, np.nan)
    if len(first) == 0:
        return out
    for begin in range(0, len(places), 256):  # in blocks: all distances at once may fill the memory
        block = places[begin : begin + 256]
        distance = np.linalg.norm(block[:, None] - first[None], axis=2)
        nearest = distance.argmin(axis=1)
        near = distance[np.arange(len(block)), nearest] <= radius
        out[begin : begin + 256][near] = block[near] + (second - first)[nearest[near]]
    return out


def relative_pose_errors(estimated: ArrayLike, true: ArrayLike) -> tuple[float, float]:
    """Rotation angle and angle between translation directions, degrees, of two relative poses ``(4, 4)``.

    The translation's sign counts: backwards for forwards is 180. NaN where a translation is zero.
    """
    a, b = np.asarray(estimated, np.float64), np.asarray(true, np.float64)
    # From sine and cosine: arccos of the trace loses half the digits at small angles.
    turn = a[:3, :3].T @ b[:3, :3]
    axis = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
    rotation = np.arctan2(np.linalg.norm(axis) / 2, (np.trace(turn) - 1) / 2)
    s, t = a[:3, 3], b[:3, 3]
    if not s.any() or not t.any():
        return float(np.degrees(rotation)), float("nan")
    s, t = s / np.abs(s).max(), t / np.abs(t).max()  # the squares of a very short translation would underflow
    direction = np.arctan2(np.linalg.norm(np.cross(s, t)), s @ t)
    return float(np.degrees(rotation)), float(np.degrees(direction))


def pose_auc(errors: ArrayLike, limits: Sequence[float]) -> dict[float, float]:
    """For each limit the area under the recall curve of pose errors up to it, divided by the limit: 0 to 1.

    The curve runs straight from (0, 0) through (e_k, k/n), e_k the k-th smallest of n errors, and stays level behind
    the last error below the limit. Its integral is exact. SuperGlue's definition (Sarlin et al., CVPR 2020; their
    published code), which LightGlue and others took over, so that figures can be compared with theirs.

    Args:
        errors: ``(n,)`` degrees, not negative; a failure (no pose found) is ``inf`` or anything beyond the limits. NaN
            is unknown and does not count.
        limits: degrees, positive.

    Returns:
        The areas; NaN if no error is known.
    """
    values = np.asarray(errors, np.float64)
    values = np.sort(values[~np.isnan(values)])
    out = {}
    for limit in limits:
        inside = values[values < limit]
        recall = np.arange(len(inside) + 1) / max(1, len(values))
        x, y = np.array([0.0, *inside, limit]), np.append(recall, recall[-1])
        area = float(np.diff(x) @ (y[1:] + y[:-1])) / 2
        out[limit] = area / limit if len(values) else float("nan")
    return out
