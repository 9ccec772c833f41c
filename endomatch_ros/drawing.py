"""The overlay: matches as flow on the current image, for the node, the command line and the demo.

The colours are also those of the node's markers (:mod:`endomatch_ros.ros.messages.markers`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from endomatch_ros.matching.types import Matches

MAX_LINES = 1500
"""More lines than this hide the picture whatever its size; the rest is left out, evenly over the image."""

OUTLIER_COLOUR = (255, 60, 200)
"""RGB of outliers: magenta, neither tissue nor in the colour scale."""

UNKNOWN_COLOUR = (200, 200, 200)
"""RGB of matches whose epipolar error is unknown."""

_SCALE = ((0, 225, 255), (60, 255, 130), (255, 235, 40), (255, 150, 20))
_RIM = (20, 20, 20)
_STEPS = 24  # colours told apart in the overlay: OpenCV draws all lines of one colour in one call
_INK = 0.15  # share of the matched region that lines and dots may cover
_PANEL = 0.45  # share of the height that the figures may take
_CELLS = 48  # along the longer side: how finely the matched region is measured
_SHIFT = 4  # OpenCV draws at 1/16 px with this
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

    Inliers are coloured by their epipolar error (:func:`error_colours`), outliers are small and magenta, matches of
    unknown error grey. What would cover too much of the picture is left out, evenly over the image: never more than
    :data:`MAX_LINES` matches are drawn, fewer where they move far or the picture is small.

    Args:
        image: current frame (image 1), RGB uint8 ``(H, W, 3)``; not changed.
        matches: positions in source pixels.
        error: ``(N,)`` epipolar error in px, NaN where unknown; None: unknown for all.
        inliers: ``(N,)`` bool; None: all. Where ``error`` is given and NaN it says nothing: no geometry, no outlier.
        lines: text of the panel in the top-left corner, one string per line; none: no panel.
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
    outlier = np.zeros(len(matches), bool) if inliers is None else ~np.asarray(inliers, bool)
    if error is not None:
        outlier &= np.isfinite(known)
    unit = max(1.0, min(size) / 540)  # line width of 1 up to 540 rows, 2 at 1080
    factor = np.array(size) / (width, height)
    chosen = spread(matches.keypoints1, _legible(matches.keypoints0 * factor, matches.keypoints1 * factor, unit))
    segments = _fixed(np.stack([matches.keypoints0[chosen], matches.keypoints1[chosen]], axis=1), factor)
    outlier = outlier[chosen]
    _draw_outliers(canvas, segments[outlier], unit)
    _draw_inliers(canvas, segments[~outlier], known[chosen][~outlier], full_scale_px, unit)
    text = max(0.65, min(size) / 540)  # smaller pictures, smaller text, as long as it can be read
    if lines:
        _draw_panel(canvas, lines, text)
    if np.isfinite(known).any():
        _draw_scale(canvas, full_scale_px, text)
    return canvas


def error_colours(error: NDArray[np.floating], full_scale_px: float) -> NDArray[np.uint8]:
    """The colour scale of epipolar errors: cyan at 0, over green and yellow to orange at full scale and beyond.

    Args:
        error: ``(N,)`` px; NaN becomes :data:`UNKNOWN_COLOUR`.
        full_scale_px: error at the end of the scale, above 0.

    Returns:
        RGB uint8 ``(N, 3)``.
    """
    anchors = np.array(_SCALE, np.float64)
    position = np.clip(np.nan_to_num(error) / full_scale_px, 0, 1) * (len(anchors) - 1)
    colours = np.stack([np.interp(position, np.arange(len(anchors)), anchors[:, c]) for c in range(3)], axis=1)
    colours[np.isnan(error)] = UNKNOWN_COLOUR
    return colours.astype(np.uint8)


def spread(points: NDArray[np.floating], limit: int) -> NDArray[np.intp]:
    """Choose points evenly over the image: one per cell and round, the same for the same input.

    Args:
        points: ``(N, 2)`` positions, not negative.
        limit: most points to choose, at least 0.

    Returns:
        ``(min(N, limit),)`` positions in ``points``, ascending.
    """
    if len(points) <= limit:
        return np.arange(len(points))
    occupied = len(np.unique(_cells(points, _CELLS)))
    number = _cells(points, max(1, int(_CELLS * (limit / occupied) ** 0.5)))  # about as many cells as are wanted
    _, cell = np.unique(number, return_inverse=True)
    order = np.argsort(cell, kind="stable")
    counts = np.bincount(cell)
    turn = np.arange(len(points)) - np.repeat(np.cumsum(counts) - counts, counts)  # place within the cell
    # The last round is incomplete: cells take part in a scattered order, not from the top.
    scattered = cell[order] * 2654435761 % 2**32
    return np.sort(order[np.lexsort((scattered, turn))[:limit]])


def _legible(start: NDArray[np.floating], end: NDArray[np.floating], unit: float) -> int:
    """How many matches can be drawn without hiding the picture; positions ``(N, 2)`` in the canvas's pixels."""
    if len(end) == 0:
        return 0
    side = max(1.0, float(end.max()) / _CELLS)
    region = len(np.unique(_cells(end, _CELLS))) * side * side
    length = float(np.median(np.linalg.norm(end - start, axis=1)))
    ink = 2 * length * unit + np.pi * (2.9 * unit) ** 2  # a line and a dot, with their rims
    return int(min(MAX_LINES, max(40, _INK * region / ink)))


def _cells(points: NDArray[np.floating], count: int) -> NDArray[np.int64]:
    """The number ``(N,)`` of the cell of each point ``(N, 2)``, ``count`` cells along the longer side."""
    columns, rows = np.floor(points / max(1.0, float(points.max()) / count)).astype(np.int64).T
    return np.asarray(rows * 2**20 + columns)


def _draw_outliers(canvas: NDArray[np.uint8], segments: NDArray[np.int32], unit: float) -> None:
    """Thin lines with a small dot, over a faint rim."""
    width = max(1, int(unit / 2))
    _lines(canvas, segments, _RIM, width + 1)
    _dots(canvas, segments, _RIM, round(3.2 * unit))
    _lines(canvas, segments, OUTLIER_COLOUR, width)
    _dots(canvas, segments, OUTLIER_COLOUR, round(2.2 * unit))


def _draw_inliers(
    canvas: NDArray[np.uint8],
    segments: NDArray[np.int32],
    error: NDArray[np.float64],
    full_scale_px: float,
    unit: float,
) -> None:
    """Lines and dots, over a dark rim that keeps them legible on bright tissue."""
    width = max(1, round(unit))
    _lines(canvas, segments, _RIM, width + 2)
    _dots(canvas, segments, _RIM, round(5.8 * unit))
    step = np.round(np.clip(np.nan_to_num(error, nan=-full_scale_px) / full_scale_px, -1, 1) * _STEPS)
    for value in np.unique(step):
        level = np.nan if value < 0 else value / _STEPS * full_scale_px
        colour = tuple(int(c) for c in error_colours(np.array([level]), full_scale_px)[0])
        _lines(canvas, segments[step == value], colour, width)
        _dots(canvas, segments[step == value], colour, round(4.2 * unit))


def _lines(canvas: NDArray[np.uint8], segments: NDArray[np.int32], colour: tuple[int, ...], width: int) -> None:
    """Segments ``(N, 2, 2)`` in fixed-point pixels."""
    cv2.polylines(canvas, list(segments), False, colour, width, cv2.LINE_AA, _SHIFT)


def _dots(canvas: NDArray[np.uint8], segments: NDArray[np.int32], colour: tuple[int, ...], diameter: int) -> None:
    """A disc at the end of each segment: a line of no length, whose thickness is its diameter."""
    cv2.polylines(canvas, list(segments[:, 1:].repeat(2, axis=1)), False, colour, diameter, cv2.LINE_AA, _SHIFT)


def _fixed(points: NDArray[np.float32], factor: NDArray[np.float64]) -> NDArray[np.int32]:
    """Source pixels to the canvas's, as OpenCV's fixed-point numbers."""
    return np.round(((points + 0.5) * factor - 0.5) * (1 << _SHIFT)).astype(np.int32)


def _draw_panel(canvas: NDArray[np.uint8], lines: Sequence[str], unit: float) -> None:
    """Text on a darkened box in the top-left corner; on a thumbnail only the lines that leave room for the picture."""
    font = 0.5 * unit
    sizes = [cv2.getTextSize(line, _FONT, font, 1)[0] for line in lines]
    step, pad = round(1.7 * max(height for _, height in sizes)), round(9 * unit)
    shown = [size[0] for size in sizes[: max(0, int(_PANEL * canvas.shape[0] - 2 * pad) // step)]]
    right, bottom = max(shown, default=0) + 3 * pad, step * len(shown) + 2 * pad
    if not shown or right > canvas.shape[1]:
        return
    _shade(canvas, (pad, pad), (right, pad + bottom - pad // 2))
    for row, line in enumerate(lines[: len(shown)]):
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
    ramp = error_colours(np.linspace(0, full_scale_px, bar_width), full_scale_px)
    canvas[y - bar_height : y, x : x + bar_width] = ramp[None]
    x += bar_width + pad // 2
    _write(canvas, right_text, (x, y), font, unit)
    x += widths[1] + 2 * pad
    cv2.line(
        canvas, (x, y - bar_height // 2), (x + 2 * bar_height, y - bar_height // 2), OUTLIER_COLOUR, max(1, int(unit))
    )
    _write(canvas, outlier_text, (x + 2 * bar_height + pad // 2, y), font, unit)


def _write(canvas: NDArray[np.uint8], text: str, origin: _Point, font: float, unit: float) -> None:
    cv2.putText(canvas, text, origin, _FONT, font, (245, 245, 245), max(1, round(unit * 0.8)), cv2.LINE_AA)


def _shade(canvas: NDArray[np.uint8], top_left: _Point, bottom_right: _Point) -> None:
    """Darken a rectangle so that text on it can be read."""
    box = canvas[top_left[1] : bottom_right[1], top_left[0] : bottom_right[0]]
    box[:] = cv2.convertScaleAbs(box, alpha=0.35) if box.size else box
