"""The overlay: matches as flow on the current image, for the node, the command line and the demo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from endomatch_ros.matching.types import Matches

MAX_LINES = 1500
"""More lines than this hide the picture; the rest is left out, evenly over the image."""

_SHIFT = 4  # OpenCV draws at 1/16 px with this
_OUTLIER = (255, 60, 200)  # magenta: neither tissue nor in the colour scale
_UNKNOWN = (200, 200, 200)
_FONT = cv2.FONT_HERSHEY_DUPLEX
_Point = tuple[int, int]


def draw_flow(
    image: NDArray[np.uint8],
    matches: Matches,
    error: NDArray[np.float64] | None = None,
    inliers: NDArray[np.bool_] | None = None,
    lines: Sequence[str] = (),
    scale: float = 1.0,
    full_scale_px: float = 2.0,
) -> NDArray[np.uint8]:
    """Draw each match as a line from its reference position to a dot at its current position.

    Inliers are coloured by their epipolar error (cyan: 0, yellow: ``full_scale_px`` and more), outliers are thin and
    magenta, matches of unknown error grey.

    Args:
        image: current frame (image 1), RGB uint8 ``(H, W, 3)``; not changed.
        matches: positions in source pixels.
        error: ``(N,)`` epipolar error in px, NaN where unknown; None: unknown for all.
        inliers: ``(N,)`` bool; None: all.
        lines: text of the panel in the top-left corner, one string a line; none: no panel.
        scale: size of the result relative to the image.
        full_scale_px: error at the end of the colour scale.

    Returns:
        RGB uint8 ``(round(H * scale), round(W * scale), 3)``.
    """
    height, width = image.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if size != (width, height) else image
    # A little darker, so that the lines stand out.
    canvas = np.asarray(cv2.convertScaleAbs(resized, alpha=0.85), np.uint8)
    known = np.full(len(matches), np.nan) if error is None else np.asarray(error, np.float64)
    good = np.ones(len(matches), bool) if inliers is None else np.asarray(inliers, bool)
    chosen = _spread(matches.keypoints1, MAX_LINES)
    factor = np.array(size) / (width, height)
    start = _fixed(matches.keypoints0[chosen], factor)
    end = _fixed(matches.keypoints1[chosen], factor)
    colours = _colours(known[chosen], full_scale_px)
    unit = max(1.0, min(size) / 540)  # line width of 1 up to 540 rows, 2 at 1080
    for index in np.flatnonzero(~good[chosen]):
        cv2.line(canvas, tuple(start[index]), tuple(end[index]), _OUTLIER, max(1, int(unit / 2)), cv2.LINE_AA, _SHIFT)
    _draw_inliers(canvas, start, end, colours, np.flatnonzero(good[chosen]), unit)
    if lines:
        _draw_panel(canvas, lines, unit)
    if np.isfinite(known).any():
        _draw_scale(canvas, full_scale_px, unit)
    return canvas


def _draw_inliers(
    canvas: NDArray[np.uint8],
    start: NDArray[np.int32],
    end: NDArray[np.int32],
    colours: NDArray[np.uint8],
    indices: NDArray[np.intp],
    unit: float,
) -> None:
    """Lines and dots, over a dark rim that keeps them legible on bright tissue."""
    width, radius = max(1, round(unit)), round(2.1 * unit * (1 << _SHIFT))
    rim = round(0.8 * unit * (1 << _SHIFT))
    for index in indices:
        a, b = tuple(map(int, start[index])), tuple(map(int, end[index]))
        cv2.line(canvas, a, b, (20, 20, 20), width + 2, cv2.LINE_AA, _SHIFT)
        cv2.circle(canvas, b, radius + rim, (20, 20, 20), -1, cv2.LINE_AA, _SHIFT)
    for index in indices:
        a, b = tuple(map(int, start[index])), tuple(map(int, end[index]))
        colour = tuple(map(int, colours[index]))
        cv2.line(canvas, a, b, colour, width, cv2.LINE_AA, _SHIFT)
        cv2.circle(canvas, b, radius, colour, -1, cv2.LINE_AA, _SHIFT)


def _draw_panel(canvas: NDArray[np.uint8], lines: Sequence[str], unit: float) -> None:
    """Text on a darkened box in the top-left corner."""
    font = 0.5 * unit
    sizes = [cv2.getTextSize(line, _FONT, font, 1)[0] for line in lines]
    step, pad = round(1.7 * max(height for _, height in sizes)), round(9 * unit)
    right, bottom = max(width for width, _ in sizes) + 3 * pad, step * len(lines) + 2 * pad
    _shade(canvas, (pad, pad), (right, pad + bottom - pad // 2))
    for row, line in enumerate(lines):
        origin = (2 * pad, 2 * pad + row * step + sizes[0][1])
        _write(canvas, line, origin, font, unit)


def _draw_scale(canvas: NDArray[np.uint8], full_scale_px: float, unit: float) -> None:
    """The colour scale, bottom left, and the outliers' colour beside it."""
    font, pad = 0.42 * unit, round(9 * unit)
    bar_width, bar_height = round(90 * unit), round(8 * unit)
    left_text, right_text, outlier_text = "0", f"{full_scale_px:g} px", "outlier"
    widths = [cv2.getTextSize(text, _FONT, font, 1)[0][0] for text in (left_text, right_text, outlier_text)]
    total = sum(widths) + bar_width + bar_height * 2 + 6 * pad
    if total > canvas.shape[1]:
        return  # a thumbnail has no room for it
    bottom = canvas.shape[0] - pad
    _shade(canvas, (pad, bottom - bar_height - 2 * pad), (pad + total, bottom))
    x, y = 2 * pad, bottom - pad
    _write(canvas, left_text, (x, y), font, unit)
    x += widths[0] + pad // 2
    ramp = _colours(np.linspace(0, full_scale_px, bar_width), full_scale_px)
    canvas[y - bar_height : y, x : x + bar_width] = ramp[None]
    x += bar_width + pad // 2
    _write(canvas, right_text, (x, y), font, unit)
    x += widths[1] + 2 * pad
    cv2.line(canvas, (x, y - bar_height // 2), (x + 2 * bar_height, y - bar_height // 2), _OUTLIER, max(1, int(unit)))
    _write(canvas, outlier_text, (x + 2 * bar_height + pad // 2, y), font, unit)


def _write(canvas: NDArray[np.uint8], text: str, origin: _Point, font: float, unit: float) -> None:
    cv2.putText(canvas, text, origin, _FONT, font, (245, 245, 245), max(1, round(unit * 0.8)), cv2.LINE_AA)


def _shade(canvas: NDArray[np.uint8], top_left: _Point, bottom_right: _Point) -> None:
    """Darken a rectangle so that text on it can be read."""
    box = canvas[top_left[1] : bottom_right[1], top_left[0] : bottom_right[0]]
    box[:] = cv2.convertScaleAbs(box, alpha=0.35) if box.size else box


def _colours(error: NDArray[np.float64], full_scale_px: float) -> NDArray[np.uint8]:
    """RGB ``(N, 3)``: cyan over green to yellow with growing error, grey where unknown."""
    anchors = np.array([(0, 225, 255), (60, 255, 130), (255, 235, 40), (255, 150, 20)], np.float64)
    position = np.clip(np.nan_to_num(error) / full_scale_px, 0, 1) * (len(anchors) - 1)
    colours = np.stack([np.interp(position, np.arange(len(anchors)), anchors[:, c]) for c in range(3)], axis=1)
    colours[np.isnan(error)] = _UNKNOWN
    return colours.astype(np.uint8)


def _fixed(points: NDArray[np.float32], factor: NDArray[np.float64]) -> NDArray[np.int32]:
    """Source pixels to the canvas's, as OpenCV's fixed-point numbers."""
    return np.round(((points + 0.5) * factor - 0.5) * (1 << _SHIFT)).astype(np.int32)


def _spread(points: NDArray[np.float32], limit: int) -> NDArray[np.intp]:
    """Indices of at most ``limit`` points, evenly over the image: one a cell per round, the same for the same input."""
    if len(points) <= limit:
        return np.arange(len(points))
    cells = np.floor(points / max(1.0, float(points.max()) / 48)).astype(np.int64)
    _, cell = np.unique(cells, axis=0, return_inverse=True)
    order = np.argsort(cell, kind="stable")
    counts = np.bincount(cell)
    turn = np.arange(len(points)) - np.repeat(np.cumsum(counts) - counts, counts)  # place within the cell
    return np.sort(order[np.argsort(turn, kind="stable")[:limit]])
