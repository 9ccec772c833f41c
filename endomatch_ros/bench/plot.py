"""The picture of a benchmark: where the time goes, and what accuracy costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from endomatch_ros.bench.tables import BUDGET_MS, run_name
from endomatch_ros.evaluation.plots import COLOURS, MARKERS, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WAIT = "wait"  # no work
Bars = Mapping[str, Mapping[str, float]]


def write_plot(path: Path, report: Mapping[str, Any]) -> list[Path]:
    """Draw the parts that the content of a ``bench.json`` has.

    - the median of each stage, stacked: of a bare push, and of the node's runs
    - the operating points: matches that are right within 1 px (all, where the truth is unknown) over the median time
    - the time of a moment over the number of cameras

    Returns:
        The file written; nothing where there is nothing to draw.
    """
    parts = [draw for needed, draw in _PANELS if needed(report)]
    if not parts:
        return []
    figure, axes = panels(1, len(parts))
    figure.set_size_inches(4.6 * len(parts), 3.8)
    for axis, draw in zip(axes[0], parts, strict=True):
        draw(axis, report)
    figure.savefig(path, dpi=120)
    return [path]


def stage_bars(report: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Median milliseconds by stage, of each bar."""
    bars = {}
    if "matcher" in report:
        bars["bare"] = _medians(report["matcher"]["stages"])
    if "node" in report:
        for run in (report["node"]["in_step"], *report["node"]["runs"]):
            bars[f"node, {run_name(run)}"] = _medians(run["stages"])
    return bars


def _medians(stages: Mapping[str, Mapping[str, float] | None]) -> dict[str, float]:
    return {stage: values["p50"] for stage, values in stages.items() if values is not None}


def _draw_stages(axis: Axes, report: Mapping[str, Any]) -> None:
    bars: Bars = {"budget": BUDGET_MS, **stage_bars(report)}
    stages = dict.fromkeys(stage for bar in bars.values() for stage in bar if stage != _WAIT)
    colours = {_WAIT: "0.8"} | {stage: COLOURS[index % len(COLOURS)] for index, stage in enumerate(stages)}
    seen = {stage: colour for stage, colour in colours.items() if any(stage in bar for bar in bars.values())}
    for position, bar in enumerate(bars.values()):
        left = 0.0
        for stage, value in bar.items():
            axis.barh(position, value, left=left, color=colours[stage], height=0.7)
            left += value
    axis.set_yticks(range(len(bars)), list(bars))
    axis.set_axisbelow(True)
    axis.invert_yaxis()
    handles = [axis.barh(0, 0, color=colour) for colour in seen.values()]
    axis.legend(handles, list(seen), fontsize="x-small", frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    axis.set(title="stages", xlabel="ms, median")


def _draw_points(axis: Axes, report: Mapping[str, Any]) -> None:
    points = [point for point in report["scaling"]["points"] if point["milliseconds"]]
    known = all(point["pck1"] is not None for point in points)
    for index, resolution in enumerate(dict.fromkeys(point["resolution"] for point in points)):
        own = [point for point in points if point["resolution"] == resolution]
        right = [point["matches"] * (point["pck1"] if known else 1.0) for point in own]
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        axis.plot(_times(own), right, label=f"{resolution} px", color=colour, marker=marker)
        for point, place in zip(own, zip(_times(own), right, strict=True), strict=True):
            label = f"{point['pck1']:.3f}" if known else ""
            axis.annotate(label, place, fontsize=6, color=colour, textcoords="offset points", xytext=(4, -7))
    axis.set_ylim(bottom=0)
    axis.legend(title="resolution", title_fontsize="x-small", fontsize="x-small", frameon=False)
    axis.set(title="operating points" + (", with PCK@1" if known else ""), xlabel="ms per push, median")
    axis.set_ylabel("matches per pair" + (", right within 1 px" if known else ""))


def _draw_cameras(axis: Axes, report: Mapping[str, Any]) -> None:
    each = [one for one in report["scaling"]["cameras"] if one["milliseconds"]]
    counts = [one["cameras"] for one in each]
    axis.plot(counts, _times(each), color=COLOURS[0], marker=MARKERS[0], label="whole moment")
    axis.plot(
        counts, [one["network"]["p50"] for one in each], color=COLOURS[1], marker=MARKERS[1], label="network pass"
    )
    axis.set_ylim(bottom=0)
    axis.set_xticks(counts)
    axis.legend(fontsize="x-small", frameon=False)
    axis.set(title="cameras", xlabel="cameras", ylabel="ms, median")


def _times(figures: Sequence[Mapping[str, Any]]) -> list[float]:
    return [one["milliseconds"]["p50"] for one in figures]


_PANELS = (
    (lambda report: bool(stage_bars(report)), _draw_stages),
    (lambda report: "scaling" in report, _draw_points),
    (lambda report: "scaling" in report, _draw_cameras),
)
