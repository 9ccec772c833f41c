"""Pictures of an evaluation: curves over threshold and gap, and what each method sees in the same pair of frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from endomatch_ros.data.frames import FrameSequence
from endomatch_ros.drawing import draw_flow
from endomatch_ros.evaluation.methods.interface import OURS
from endomatch_ros.evaluation.metrics import share_within
from endomatch_ros.evaluation.pair import write_image
from endomatch_ros.evaluation.report import MIN_MATCHES, Row
from endomatch_ros.matching.view import bounding_box

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from endomatch_ros.evaluation.score import PairScore

PRECISION_PX = 3.0
"""Epipolar error beyond which a match is drawn as wrong; the precision of the curves over the gap."""
PCK_PX = (5.0, 10.0)

_OURS_COLOUR = "#D55E00"
COLOURS = ("#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D1F", "#5D3A9B")
"""Okabe and Ito's palette, which remains distinct with colour blindness; markers tell lines apart in grey, too."""
MARKERS = "sv^DPX*o"
"""One for each colour."""
_TICKS = (0.25, 0.5, 1, 2, 3, 5, 10)
_PANEL_WIDTH = 640
_GAP_PX = 6
_FAINT = 0.3
Image = NDArray[np.uint8]


def write_curves(folder: Path, rows: Sequence[Row]) -> list[Path]:
    """Draw the curves that the figures allow into ``folder``, which is made if need be.

    - ``precision_threshold.png``: precision over epipolar threshold, and PCK over end-point threshold where 3D truth
      exists, one panel per gap
    - ``precision_gap.png``: precision at 3 px, PCK at 5 and 10 px and the number of matches over the gap, where there
      are several gaps

    Returns:
        The files written; none where neither poses nor 3D truth are known.
    """
    quantities = {
        "share of matches within\nepipolar error (P)": lambda row: row.precision_curve,
        "share of points within\nend-point error (PCK)": lambda row: row.pck_curve,
    }
    known = {name: of for name, of in quantities.items() if any(np.isfinite([*of(row).values()]).any() for row in rows)}
    if not known:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    figures = {"precision_threshold.png": _threshold_figure(rows, known)}
    if len({row.gap for row in rows}) > 1:
        figures["precision_gap.png"] = _gap_figure(rows)
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=120)
    return [folder / name for name in figures]


def write_overlays(folder: Path, scored: Sequence[tuple[FrameSequence, Sequence[PairScore]]]) -> list[Path]:
    """Draw the matches of all methods in one pair per gap, side by side, as ``overlay_gap_N.jpg`` into ``folder``.

    The pair is the median one of all recordings (see :func:`median_pair`), so that nobody chooses it.

    Args:
        folder: where to; made if need be.
        scored: recordings, and the scores of all methods and pairs of each.

    Returns:
        The files written, one per gap.
    """
    paths = []
    for gap in sorted({score.prediction.gap for _, scores in scored for score in scores}):
        groups: dict[tuple[int, int, int], list[PairScore]] = {}
        for number, (_, scores) in enumerate(scored):
            for score in scores:
                if score.prediction.gap == gap:
                    groups.setdefault((number, *score.prediction.positions), []).append(score)
        number, _, position = chosen = median_pair(groups)
        frame = scored[number][0][position]
        paths.append(folder / f"overlay_gap_{gap}.jpg")
        write_image(paths[-1], draw_overlay(frame.image, groups[chosen], frame.mask))
    return paths


def median_pair(groups: Mapping[tuple[int, int, int], Sequence[PairScore]]) -> tuple[int, int, int]:
    """The key of the pair that is neither easy nor hard: the median in precision at 3 px, averaged over the methods.

    Without known motion the middle one in time. Of an even number it is the harder one of the middle two.
    """
    means = {key: float(np.mean([precision(score) for score in groups[key]])) for key in sorted(groups)}
    order = sorted((key for key in means if not np.isnan(means[key])), key=means.__getitem__) or list(means)
    return order[(len(order) - 1) // 2]


def precision(score: PairScore) -> float:
    """Share (0 to 1) of a pair's matches within 3 px; 0 without matches, NaN where the true motion is unknown."""
    silent = score.motion_known and len(score.epipolar) == 0
    return share_within([np.inf] if silent else score.epipolar, (PRECISION_PX,))[PRECISION_PX]


def draw_overlay(image: Image, scores: Sequence[PairScore], mask: NDArray[np.bool_] | None = None) -> Image:
    """The flow of several methods on the current image of a pair, one panel each, named and counted.

    Args:
        image: RGB uint8 ``(H, W, 3)``, the second frame of the pair.
        scores: of this pair, one per method; ``identity``, which has no flow, is left out beside others.
        mask: ``(H, W)`` bool, True inside the view; what lies outside its bounding box is cut off.

    Returns:
        RGB uint8; panels of up to 640 px width in up to three columns. Lines are coloured by the true epipolar error,
        magenta beyond 3 px, grey where it is unknown.
    """
    shown = [score for score in scores if score.prediction.method != "identity"] or scores
    panels = [_panel(image, score, _bounds(image, mask)) for score in shown]
    columns = min(len(panels), 2 if len(panels) in (2, 4) else 3)
    height, width = panels[0].shape[:2]
    lines = -(-len(panels) // columns)
    size = (lines * (height + _GAP_PX) - _GAP_PX, columns * (width + _GAP_PX) - _GAP_PX, 3)
    canvas = np.full(size, 255, np.uint8)
    for index, panel in enumerate(panels):
        top, left = index // columns * (height + _GAP_PX), index % columns * (width + _GAP_PX)
        canvas[top : top + height, left : left + width] = panel
    return canvas


def _bounds(image: Image, mask: NDArray[np.bool_] | None) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the view, the last two exclusive."""
    if mask is None or not mask.any():
        return 0, 0, image.shape[1], image.shape[0]
    x, y, width, height = bounding_box(mask)
    return x, y, x + width, y + height


def _panel(image: Image, score: PairScore, bounds: tuple[int, int, int, int]) -> Image:
    """One method's flow within the bounds (left, top, right, bottom) of the view."""
    left, top, right, bottom = bounds
    prediction, share = score.prediction, precision(score)
    matches, corner = prediction.matches, np.array([left, top], np.float32)
    cut = replace(matches, keypoints0=matches.keypoints0 - corner, keypoints1=matches.keypoints1 - corner)
    known = "" if np.isnan(share) else f", P@{PRECISION_PX:g} {share:.2f}"
    caption = [f"{prediction.method}, gap {prediction.gap}", f"{len(matches)} matches{known}"]
    scale = min(1.0, _PANEL_WIDTH / (right - left))
    inliers = ~(score.epipolar > PRECISION_PX)
    view = image[top:bottom, left:right]
    return draw_flow(view, cut, score.epipolar, inliers, caption, scale, full_scale_px=PRECISION_PX)


def _threshold_figure(rows: Sequence[Row], quantities: Mapping[str, Callable[[Row], Mapping[float, float]]]) -> Figure:
    """One column per gap, one line of panels per quantity, over the threshold on a logarithmic scale."""
    gaps = sorted({row.gap for row in rows})
    figure, axes = panels(len(quantities), len(gaps))
    for line, (label, of) in zip(axes, quantities.items(), strict=True):
        for axis, gap in zip(line, gaps, strict=True):
            for row in (row for row in rows if row.gap == gap):
                thresholds, shares = zip(*of(row).items(), strict=True)
                marked = [index for index, t in enumerate(thresholds) if t in _TICKS]
                alpha = _FAINT if _is_faint(row) else 1.0
                style = _style(row.method, rows)
                axis.plot(thresholds, shares, label=row.method, markevery=marked, alpha=alpha, **style)
            axis.set(xscale="log", ylim=(0, 1.02), xlim=(_TICKS[0], _TICKS[-1]))
            axis.set_xticks(_TICKS, [f"{tick:g}" for tick in _TICKS])
            axis.minorticks_off()
        line[0].set_ylabel(label)
    for axis, gap in zip(axes[0], gaps, strict=True):
        axis.set_title(f"gap {gap}")
    for axis in axes[-1]:
        axis.set_xlabel("threshold [px]")
    _legend(figure, axes[0][0], rows)
    return figure


def _gap_figure(rows: Sequence[Row]) -> Figure:
    """One panel a quantity, over the gap."""
    gaps = sorted({row.gap for row in rows})
    quantities = {f"P@{PRECISION_PX:g}": _at("precision_curve", PRECISION_PX)}
    quantities |= {f"PCK@{threshold:g}": _at("pck_curve", threshold) for threshold in PCK_PX}
    quantities = {name: of for name, of in quantities.items() if np.isfinite([of(row) for row in rows]).any()}
    quantities["matches per pair"] = lambda row: row.matches
    figure, axes = panels(1, len(quantities))
    for axis, (label, of) in zip(axes[0], quantities.items(), strict=True):
        for method in dict.fromkeys(row.method for row in rows):
            own = sorted((row for row in rows if row.method == method), key=lambda row: row.gap)
            x, y, style = [row.gap for row in own], [of(row) for row in own], _style(method, rows)
            axis.plot(x, y, label=method, alpha=_FAINT, **style)
            axis.plot(x, np.where([_is_faint(row) for row in own], np.nan, y), **style)
        axis.set_title(label)
        axis.set_xlabel("gap [frames]")
        axis.set_xticks(gaps)
        axis.set_ylim(0, 1.02)
    highest = max(1.0, *(row.matches for row in rows))
    axes[0][-1].set(yscale="log", ylim=(1, 2 * highest))
    _legend(figure, axes[0][0], rows)
    return figure


def _at(curve: str, threshold: float) -> Callable[[Row], float]:
    return lambda row: float(getattr(row, curve).get(threshold, np.nan))


def panels(lines: int, columns: int) -> tuple[Figure, NDArray[Any]]:
    """A figure and its ``(lines, columns)`` axes."""
    from matplotlib.figure import Figure  # not pyplot: no window, no global state

    figure = Figure(figsize=(3.1 * columns + 0.6, 2.7 * lines + 0.9), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    for axis in axes.flat:
        axis.grid(color="0.9", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _legend(figure: Figure, axis: Axes, rows: Sequence[Row]) -> None:
    handles, labels = axis.get_legend_handles_labels()
    title = f"faint: fewer than {MIN_MATCHES} matches per pair on average" if any(map(_is_faint, rows)) else None
    legend = figure.legend(
        handles,
        labels,
        title=title,
        title_fontsize="small",
        loc="outside lower center",
        ncols=min(len(labels), 6),
        frameon=False,
    )
    for line in legend.get_lines():
        line.set_alpha(1)


def _is_faint(row: Row) -> bool:
    """Whether a method finds so little that its shares must not catch the eye."""
    return row.matches < MIN_MATCHES


def _style(method: str, rows: Sequence[Row]) -> dict[str, Any]:
    """How a method is drawn, the same in all panels: ours strong, identity dashed and grey, the others distinct."""
    if method == "identity":
        return {"color": "0.55", "linestyle": "--", "linewidth": 1.2, "zorder": 1}
    methods = dict.fromkeys(row.method for row in rows if row.method != "identity")
    ours = [name for name in methods if name.startswith(OURS)]
    index = (ours if method in ours else [name for name in methods if name not in ours]).index(method)
    style = {"marker": MARKERS[index % len(MARKERS)], "color": COLOURS[index % len(COLOURS)], "zorder": 2}
    if method in ours:  # several are variants of one: one colour, other lines
        lines = {"linestyle": ("-", "-.", ":")[index % 3], "linewidth": 2.6 if index == 0 else 1.8}
        return style | lines | {"color": _OURS_COLOUR, "markersize": 4.5, "zorder": 3}
    return style | {"linewidth": 1.3, "markersize": 4}
