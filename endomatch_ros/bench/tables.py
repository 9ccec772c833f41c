"""The figures of a benchmark as tables, one way for the terminal, for ``bench.md`` and for the documentation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

BUDGET_MS = {"backbone": 30.0, "matching": 10.0, "refinement": 40.0}
"""What each stage of a push may take at the median."""
LEFT = ("method", "stage", "run", "drops")
"""Headings of columns that hold text."""
_QUANTILES = ("p50", "p95", "p99")
_UNKNOWN = "–"
_NODE_S_OWN = ("decode", "geometry", "publish")
"""Stages of the node that a push has not."""


@dataclass(frozen=True)
class Table:
    """A table: title, headings and rows of text."""

    title: str
    headings: tuple[str, ...]
    rows: list[list[str]]


def tables(report: Mapping[str, Any]) -> list[Table]:
    """Those of every part that the content of a ``bench.json`` has."""
    return [table for part, make in _MAKERS.items() if part in report for table in make(report[part])]


def number(value: float | None, digits: int = 0) -> str:
    """A figure as text; a dash where it is unknown."""
    return _UNKNOWN if value is None else f"{value:.{digits}f}"


def _matcher(part: Mapping[str, Any]) -> Iterator[Table]:
    names = dict.fromkeys((*BUDGET_MS, *part["stages"]))
    rows = [[name, number(BUDGET_MS.get(name)), *_spread(part["stages"].get(name))] for name in names]
    rows.append(["whole push", number(sum(BUDGET_MS.values())), *_spread(part["milliseconds"])])
    yield Table("Bare matcher by stage", ("stage", "budget", *_headings("ms")), rows)
    own = ["endomatch", *_spread(part["milliseconds"]), number(part["matches"]), ""]
    others = [
        [name, *_spread(each["milliseconds"]), number(each["matches"]), number(each["ratio"], 2)]
        for name, each in part["peers"].items()
    ]
    yield Table("Beside others", ("method", *_headings("ms"), "matches", "endomatch takes, times"), [own, *others])
    figures = [number(part["cpu_percent"]), number(part["rss_mib"]), number(part["device_mib"])]
    yield Table("Load of the bare matcher", ("CPU %", "memory MiB", "GPU memory MiB"), [figures])


def _node(part: Mapping[str, Any]) -> Iterator[Table]:
    runs = {run_name(run): run for run in (part["in_step"], *part["runs"])}
    rows = [
        [
            name,
            f"{run['answered']} of {run['sent']}",
            number(run["answers_hz"], 1),
            *_spread(run["latency"]),
            *_spread(run["arrival"], 2),
            ", ".join(f"{cause} {count}" for cause, count in run["drops"].items()) or "none",
        ]
        for name, run in runs.items()
    ]
    headings = ("run", "answers", "per s", *_headings("latency"), *_headings("stamp to arrival", 2), "drops")
    yield Table("Node", headings, rows)
    stages = dict.fromkeys(stage for run in runs.values() for stage in run["stages"])
    rows = [[stage, *("/".join(_spread(run["stages"].get(stage))) for run in runs.values())] for stage in stages]
    rows.append(["latency", *("/".join(_spread(run["latency"])) for run in runs.values())])
    yield Table("Node by stage, ms p50/p95/p99", ("stage", *runs), rows)
    rows = [
        [name, number(run["cpu_percent"]), number(run["rss_start"]), number(run["rss_end"])]
        for name, run in runs.items()
    ]
    yield Table("Load of the node's process", ("run", "CPU %", "MiB at start", "MiB at end"), rows)
    bare, step = part["bare"], part["in_step"]
    own = [step["stages"].get(stage) for stage in _NODE_S_OWN]
    alone = sum(spread["p50"] for spread in own) if all(own) else None
    row = [
        number(step["working"], 1),
        number(bare and bare["p50"], 1),
        number(part["overhead_ms"], 1),
        number(alone, 1),
    ]
    headings = ("node, in step", "bare push", "difference", ", ".join(_NODE_S_OWN))
    yield Table("Overhead of the node, ms p50", headings, [row])


def run_name(run: Mapping[str, Any]) -> str:
    """What a run of the node is called."""
    name = f"{run['rate']:g} Hz" if run["rate"] else "in step"
    return f"{name}, {run['beside']} busy" if run["beside"] else name


def _scaling(part: Mapping[str, Any]) -> Iterator[Table]:
    truths = [name for name in ("p1", "pck1", "pck3") if any(point[name] is not None for point in part["points"])]
    rows = [
        [
            str(point["resolution"]),
            str(point["max_keypoints"]),
            *_spread(point["milliseconds"], 2),
            number(point["matches"]),
            *(number(point[name], 3) for name in truths),
        ]
        for point in part["points"]
    ]
    shown = {"p1": "P@1", "pck1": "PCK@1", "pck3": "PCK@3"}
    headings = ("resolution", "max_keypoints", *_headings("ms", 2), "matches", *(shown[name] for name in truths))
    yield Table("Operating points", headings, rows)
    rows = [
        [
            str(each["cameras"]),
            *_spread(each["milliseconds"], 2),
            number(each["milliseconds"]["p50"] / each["cameras"]),
            number(each["network"]["p50"]),
            number(each["ratio"], 2),
        ]
        for each in part["cameras"]
    ]
    headings = ("cameras", *_headings("ms", 2), "ms per camera", "network pass", "to one by one")
    yield Table("Cameras", headings, rows)


def _soak(part: Mapping[str, Any]) -> Iterator[Table]:
    headings = ["frames", "MiB at start", "MiB at end", "MiB per 1000 frames"]
    row = [str(part["frames"]), number(part["start"]), number(part["end"]), number(part["slope"], 2)]
    if part["device_start"] is not None:
        headings += ["GPU MiB at start", "GPU MiB at end"]
        row += [number(part["device_start"]), number(part["device_end"])]
    yield Table("Soak", tuple(headings), [row])


_MAKERS = {"matcher": _matcher, "node": _node, "scaling": _scaling, "soak": _soak}


def _headings(what: str, count: int = 3) -> list[str]:
    return [f"{what} {quantile}" for quantile in _QUANTILES[:count]]


def _spread(values: Mapping[str, float] | None, count: int = 3) -> list[str]:
    return [number(None if values is None else values[quantile], 1) for quantile in _QUANTILES[:count]]
