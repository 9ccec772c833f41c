"""Where in an image tissue can be matched: inside the scope's view, outside saturated highlights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from endomatch_ros.errors import ImageError

_WORK_SIDE = 320  # the view's outline is smooth: it is found on a small copy
_DARK = 16  # 8-bit level; the surround of a scope's view is darker, also with sensor noise
_SATURATED = 235
_RIM = 0.01  # of the longer side: the edge of the view glares and moves with the scope


def check_image(image: NDArray[np.uint8], name: str = "image") -> NDArray[np.uint8]:
    """The image itself if it is RGB uint8 ``(H, W, 3)`` of at least 32 × 32 pixels, else :class:`ImageError`."""
    if not isinstance(image, np.ndarray):
        raise ImageError(f"{name} is a {type(image).__name__}: give a numpy array, RGB uint8 (H, W, 3)")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ImageError(f"{name} has shape {image.shape} and type {image.dtype}: give RGB uint8 (H, W, 3)")
    if min(image.shape[:2]) < 32:
        raise ImageError(f"{name} is {image.shape[1]}x{image.shape[0]} pixels: at least 32x32 are needed")
    return image


def check_mask(mask: NDArray[np.generic], image: NDArray[np.uint8], name: str = "mask") -> NDArray[np.bool_]:
    """``mask`` as bool ``(H, W)``; raises :class:`ImageError` if its shape or type does not fit the image."""
    if not isinstance(mask, np.ndarray) or mask.dtype not in (np.dtype(bool), np.dtype(np.uint8)):
        raise ImageError(f"{name} must be a numpy array of bool or uint8 (non-zero = use)")
    if mask.shape != image.shape[:2]:
        raise ImageError(f"{name} has shape {mask.shape}, its image {image.shape[:2]}: they must agree")
    return mask.astype(bool)


def check_roi(roi: Sequence[int], image: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """``(x, y, width, height)``; raises :class:`ImageError` unless it is in the image, 32 pixels per side at least."""
    x, y, width, height = (int(value) for value in roi)
    rows, columns = image.shape[:2]
    if min(x, y) < 0 or min(width, height) < 32 or x + width > columns or y + height > rows:
        raise ImageError(
            f"roi (x, y, width, height) = {(x, y, width, height)} does not fit an image of {columns}x{rows} pixels: it "
            "must lie inside and be at least 32x32"
        )
    return x, y, width, height


def bounding_box(view: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """``(x, y, width, height)`` of what is True in ``(H, W)``; all zero for nothing."""
    columns, rows = np.flatnonzero(view.any(axis=0)), np.flatnonzero(view.any(axis=1))
    if not len(columns):
        return 0, 0, 0, 0
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y


def view_mask(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The scope's view in an RGB image ``(H, W, 3)``: ``(H, W)`` bool, False on the dark surround.

    The bright regions' convex hull, so that a dark lumen inside the view belongs to it. An image without dark
    surround is view throughout; an image without anything bright is view nowhere.
    """
    height, width = image.shape[:2]
    scale = min(1.0, _WORK_SIDE / max(height, width))
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR) if scale < 1 else image
    # Opening removes overlay text and noise; what is left counts if it is large.
    brightest = cv2.max(cv2.max(small[..., 0], small[..., 1]), small[..., 2])
    lit = (brightest > _DARK).astype(np.uint8)
    bright = cv2.morphologyEx(lit, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(bright)
    large = [k for k in range(1, count) if stats[k, cv2.CC_STAT_AREA] >= 0.01 * bright.size]
    if not large:
        return np.zeros((height, width), bool)
    kept = np.isin(labels, large)
    ys = np.flatnonzero(kept.any(axis=1))
    # The hull of a region is that of its rows' ends.
    ends = [kept[ys].argmax(axis=1), kept.shape[1] - 1 - kept[ys, ::-1].argmax(axis=1)]
    hull = cv2.convexHull(np.column_stack([np.concatenate(ends), np.tile(ys, 2)]).astype(np.int32))
    view: NDArray[Any] = np.zeros(bright.shape, np.uint8)
    cv2.fillConvexPoly(view, hull, 1)
    if view.mean() < 0.995:
        # The rim is blurred and often glares: keep a hundredth of the image away from it, but not from the border.
        margin = 2 * max(1, round(0.01 * max(view.shape))) + 1
        view = cv2.erode(view, np.ones((margin, margin), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=1)
    else:
        view[:] = 1
    return cv2.resize(view, (width, height), interpolation=cv2.INTER_NEAREST).astype(bool)


def highlight_mask(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Saturated highlights of an RGB image, with a margin for their blurred edges: ``(H, W)`` bool, True on them."""
    # All channels high: red alone saturates on perfectly good tissue.
    saturated = cv2.inRange(image, (_SATURATED,) * 3, (255,) * 3)
    side = 2 * max(1, round(max(image.shape[:2]) / 320)) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    return cv2.dilate(saturated, kernel).astype(bool)


def without_rim(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A view ``(H, W)`` without its edge, which would be matched as tissue; a view that fills the image has none."""
    if mask.all():
        return mask
    side = 2 * max(1, round(_RIM * max(mask.shape))) + 1
    kernel = np.ones((side, side), np.uint8)
    return cv2.erode(mask.astype(np.uint8), kernel, borderType=cv2.BORDER_REPLICATE).astype(bool)


def lookup(mask: NDArray[np.bool_], points: NDArray[np.floating]) -> NDArray[np.bool_]:
    """``mask`` at the nearest pixels of ``points`` ``(N, 2)``; False outside the image and for non-finite points."""
    finite = np.isfinite(points).all(axis=1)
    x, y = np.round(np.where(finite[:, None], points, -1)).astype(np.int64).T
    inside = (x >= 0) & (y >= 0) & (x < mask.shape[1]) & (y < mask.shape[0])
    out = np.zeros(len(points), bool)
    out[inside] = mask[y[inside], x[inside]]
    return out
