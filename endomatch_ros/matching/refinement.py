"""Photometric refinement: where in the source image, to a fraction of a pixel, a point has gone.

The coarse matches become a smooth flow field; the current image is warped by it towards the reference; pyramidal
Lucas–Kanade (Bouguet 2000) on locally normalised intensities finds the small rest; a forward–backward check and the
agreement of neighbours decide. Source points stay where they are: only targets move.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from endomatch_ros.matching.coarse import CoarseMatches
from endomatch_ros.matching.features import FrameFeatures, Window
from endomatch_ros.matching.flow_field import FlowField
from endomatch_ros.matching.mask import lookup

_LK_WINDOW = 35  # pixels at source resolution
_LARGEST_CORRECTION = 0.75  # descriptor cells; chosen on validation scenes, where it tells wrong targets best
MIN_COARSE = 8  # fewer coarse matches than this say nothing about the motion


def detect(features: FrameFeatures, count: int, taken: NDArray[np.floating] | None = None) -> NDArray[np.float32]:
    """Up to ``count`` well-textured points ``(N, 2)`` in source pixels, spread over the usable view.

    Args:
        features: the frame.
        count: most points wanted.
        taken: ``(M, 2)`` points that exist already; new ones keep the same distance from them as from each other.
    """
    w = features.window
    mask = features.usable[w.area].astype(np.uint8)
    if count <= 0 or not mask.any():
        return np.zeros((0, 2), np.float32)
    distance = _spacing(features, count + (0 if taken is None else len(taken)))
    if taken is not None and len(taken):
        spots = np.zeros_like(mask)
        x, y = np.round(taken - np.array([w.x, w.y])).astype(int).T
        inside = (x >= 0) & (y >= 0) & (x < w.width) & (y < w.height)
        spots[y[inside], x[inside]] = 1
        side = 2 * int(distance) + 1
        mask[cv2.dilate(spots, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))) > 0] = 0
    corners = cv2.goodFeaturesToTrack(features.normalised, count, 0.005, distance, mask=mask, blockSize=9)
    if corners is None:
        return np.zeros((0, 2), np.float32)
    return corners.reshape(-1, 2).astype(np.float32) + np.array([w.x, w.y], np.float32)


def thin(features: FrameFeatures, points: NDArray[np.floating], total: int) -> NDArray[np.intp]:
    """Positions of the points to keep where they crowd: the first of each square cell, ascending.

    Tracks run together when the scope withdraws; left alone they would use up all points and leave the rest of the view
    bare.

    Args:
        features: the frame.
        points: ``(N, 2)`` source pixels, the most valuable first.
        total: number of points wanted over the whole view, which sets the size of the cells.
    """
    cells = np.floor(points / _spacing(features, total)).astype(np.int64)
    return np.sort(np.unique(cells, axis=0, return_index=True)[1])


def _spacing(features: FrameFeatures, total: int) -> float:
    """Distance in source pixels at which about twice ``total`` points fit the view: corners do not lie evenly."""
    return max(3.0, 0.6 * float(np.sqrt(np.count_nonzero(features.usable) / max(1, total))))


def coarse_field(coarse: CoarseMatches, features: FrameFeatures) -> FlowField:
    """Smooth flow over the reference's window from its coarse matches, nodes two descriptor cells apart."""
    w = features.window
    spacing = 2 * int(features.cell_px) + 1
    return FlowField(
        coarse.points0 - np.array([w.x, w.y]),
        coarse.points1 - coarse.points0,
        (w.width, w.height),
        spacing,
        tolerance=features.cell_px,
    )


def refine(
    features0: FrameFeatures,
    features1: FrameFeatures,
    points: NDArray[np.float32],
    coarse: CoarseMatches,
    forward_backward_px: float,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Targets of ``points`` in the current frame.

    Args:
        features0: the reference frame, in which ``points`` lie.
        features1: the current frame.
        points: ``(N, 2)`` source pixels of the reference.
        coarse: the coarse matches, at least ``MIN_COARSE``.
        forward_backward_px: largest distance of the way there and back, source pixels.

    Returns:
        ``(N, 2)`` float32 targets in source pixels and ``(N,)`` bool, which of them passed all checks.
    """
    if len(points) == 0 or len(coarse.points0) < MIN_COARSE:
        return points.copy(), np.zeros(len(points), bool)
    window0, window1 = features0.window, features1.window
    origin = np.array([window0.x, window0.y], np.float32)
    local = points - origin
    field = coarse_field(coarse, features0)
    warped, inside = _warp(features1, window1, field.dense(window0.width, window0.height), origin)
    found, ok_forward = _lucas_kanade(features0.normalised, warped, local)
    back, ok_backward = _lucas_kanade(warped, features0.normalised, found)
    good = ok_forward & ok_backward
    good &= np.linalg.norm(back - local, axis=1) < forward_backward_px
    # The coarse flow is right to a fraction of a cell; a larger correction is a jump to similar texture.
    good &= np.linalg.norm(found - local, axis=1) < _LARGEST_CORRECTION * features0.cell_px
    good &= lookup(inside, found)
    targets = (found + field(found) + origin).astype(np.float32)
    good &= lookup(features1.usable, targets)
    return targets, _agree(points, targets, good, features0)


def _lucas_kanade(
    image0: NDArray[np.uint8], image1: NDArray[np.uint8], points: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """``points`` ``(N, 2)`` of image 0 in image 1, and which of them could be followed."""
    found, status, _ = cv2.calcOpticalFlowPyrLK(
        image0,
        image1,
        points[:, None],
        None,  # type: ignore[call-overload]  # OpenCV's stubs do not know that the guess is optional
        winSize=(_LK_WINDOW, _LK_WINDOW),
        maxLevel=2,
        criteria=(cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 20, 0.01),
        minEigThreshold=1e-4,
    )
    return np.asarray(found, np.float32)[:, 0], np.asarray(status)[:, 0] > 0


def _warp(
    features: FrameFeatures, window: Window, flow: NDArray[np.float32], origin: NDArray[np.float32]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The current frame's normalised image seen from the reference, and where it has pixels at all."""
    height, width = flow.shape[:2]
    shift = origin - np.array([window.x, window.y], np.float32)
    map_x = flow[..., 0] + (np.arange(width, dtype=np.float32) + shift[0])
    map_y = flow[..., 1] + (np.arange(height, dtype=np.float32)[:, None] + shift[1])
    warped = cv2.remap(features.normalised, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    inside = (map_x >= 0) & (map_y >= 0) & (map_x <= window.width - 1) & (map_y <= window.height - 1)
    return np.asarray(warped, np.uint8), np.asarray(inside)


def _agree(
    points: NDArray[np.float32], targets: NDArray[np.float32], good: NDArray[np.bool_], features: FrameFeatures
) -> NDArray[np.bool_]:
    """Drop matches that contradict the smooth motion of their neighbours."""
    if good.sum() < MIN_COARSE:
        return np.zeros_like(good)
    w = features.window
    origin = np.array([w.x, w.y], np.float32)
    spacing = max(w.width, w.height) / 24.0
    flow = targets[good] - points[good]
    field = FlowField(points[good] - origin, flow, (w.width, w.height), spacing, sigma=1.5, tolerance=2.0)
    # Neighbours differ more where the motion is larger: parallax and deformation grow with it.
    limit = np.maximum(3.0, 3.0 * np.median(field.residual)) + 0.1 * np.linalg.norm(flow, axis=1)
    out = good.copy()
    out[good] = field.residual < limit
    return out
