"""Which points of a frame to match: corners spread over the usable view, and tracks thinned where they crowd."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from endomatch_ros.matching.features import FrameFeatures
from endomatch_ros.matching.view import lookup

_QUALITY = 0.003  # of the strongest corner's response
_NEAREST_PX = 3.5  # of the image: points closer than this say the same


def sample(
    features: FrameFeatures, most: int, tracked: NDArray[np.floating] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Points of a frame to match: tracked ones where they do not crowd, new ones where there are none.

    Args:
        features: the frame.
        most: number of points wanted over the whole view.
        tracked: ``(M, 2)`` points to keep if possible, the oldest first.

    Returns:
        Points ``(N, 2)`` in source pixels, the tracked ones first, and the positions in ``tracked`` of those.
    """
    tracked = np.zeros((0, 2), np.float32) if tracked is None else tracked.astype(np.float32)
    kept = thin(features, tracked, most)
    fresh = detect(features, most - len(kept), tracked[kept])
    return np.concatenate([tracked[kept], fresh]), kept


def detect(features: FrameFeatures, count: int, taken: NDArray[np.floating] | None = None) -> NDArray[np.float32]:
    """Up to ``count`` well-textured points ``(N, 2)`` in source pixels, spread over the usable view.

    Args:
        features: the frame.
        count: most points wanted.
        taken: ``(M, 2)`` points that exist already; new ones keep the same distance from them as from each other.
    """
    copy = features.working
    mask = features.usable_copy.astype(np.uint8)
    if count <= 0 or not mask.any():
        return np.zeros((0, 2), np.float32)
    distance = _spacing(features, count + (0 if taken is None else len(taken))) * float(copy.scale.min())
    if taken is not None and len(taken):
        spots = np.zeros_like(mask)
        x, y = np.round(copy.to_cells(taken, 1.0)).astype(int).T
        inside = (x >= 0) & (y >= 0) & (x < copy.net_width) & (y < copy.net_height)
        spots[y[inside], x[inside]] = 1
        side = 2 * int(distance) + 1
        mask[cv2.dilate(spots, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))) > 0] = 0
    corners = cv2.goodFeaturesToTrack(features.normalised, count, _QUALITY, distance, mask=mask, blockSize=3)
    if corners is None:
        return np.zeros((0, 2), np.float32)
    points = copy.to_source(np.asarray(corners, np.float64).reshape(-1, 2), 1.0).astype(np.float32)
    return points[lookup(features.usable, points)]  # the working copy's mask is coarser than the image's


def thin(features: FrameFeatures, points: NDArray[np.floating], total: int) -> NDArray[np.intp]:
    """Positions of the points to keep where they crowd: the first of each square cell, ascending.

    Tracks run together when the scope withdraws; left alone they would use up all points and leave the rest of the view
    bare.

    Args:
        features: the frame.
        points: ``(N, 2)`` source pixels, the most valuable first.
        total: number of points wanted over the whole view, which sets the size of the cells.
    """
    columns, rows = np.floor(points / _spacing(features, total)).astype(np.int64).T
    return np.sort(np.unique(rows << 32 | columns & 0xFFFFFFFF, return_index=True)[1])


def _spacing(features: FrameFeatures, total: int) -> float:
    """Distance in source pixels at which some four times ``total`` points fit the view: corners do not lie evenly."""
    return max(_NEAREST_PX, 0.5 * float(np.sqrt(np.count_nonzero(features.usable) / max(1, total))))
