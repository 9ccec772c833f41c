"""Tables of an evaluation: for the terminal, for a document, for a program."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """Figures of one method at one gap; NaN where unknown.

    Attributes:
        gap: frames between the two of a pair.
        method: its name.
        pairs: how many pairs were measured.
        matches: mean number of matches a pair; ``matches_min`` that of the pair with fewest.
        coverage: mean share (0 to 1) of the view's cells with a match.
        precision: by threshold in px, share of matches within it under the true epipolar geometry.
        epipolar_mean: px, over all matches; ``epipolar_median`` likewise.
        pck: by threshold in px, share of the measured landmarks (matches, on synthetic data) within it.
        end_point_mean: px, of the same; ``end_point_median`` likewise.
        landmarks: positions with a known partner; ``landmarks_measured`` of them had a prediction.
        flow: mean true motion, px.
        pose_error_median: degrees, larger one of rotation and translation direction.
        time_p50: milliseconds a pair; ``time_p95`` likewise.
    """

    gap: int
    method: str
    pairs: int
    matches: float
    matches_min: int
    coverage: float
    precision: Mapping[float, float]
    epipolar_mean: float
    epipolar_median: float
    pck: Mapping[float, float]
    end_point_mean: float
    end_point_median: float
    landmarks: int
    landmarks_measured: int
    flow: float
    pose_error_median: float
    time_p50: float
    time_p95: float


NOTES = """\
Matches: mean a pair; min: of the pair with fewest. P@t: share of matches with an epipolar distance (mean of both
point-to-line distances) of at most t px under the true camera motion, mean over pairs (a pair without matches counts
0). Epi: that distance in px, mean and median over all matches. PCK@t and EPE: end-point error in px where 3D truth
exists; on SfM data at the sparse points that both frames see, each taking the displacement of the nearest match within
8 px (3D: points with such a match / points), on synthetic data at the matches themselves (3D: matches whose partner is
visible / matches). Cover: share of the view's cells (16 x 16 over the image) that hold a match. Flow: mean true motion
in px. Pose: median over pairs of the larger angle error of rotation and translation direction in degrees (180: no pose
found). Time: ms a pair."""


def print_table(rows: Sequence[Row], console: Console | None = None) -> None:
    """Show the figures in the terminal."""
    console = console or Console()
    if not console.is_terminal:
        console = Console(width=200, file=console.file)  # a file has no edge to wrap at
    table = Table(caption=NOTES, caption_justify="left")
    columns = _columns(rows)
    for name in columns:
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    gap = rows[0].gap if rows else 0
    for row in rows:
        if row.gap != gap:
            table.add_section()
            gap = row.gap
        table.add_row(*(text(row) for text in columns.values()))
    console.print(table)


def markdown(rows: Sequence[Row]) -> str:
    """The figures as a Markdown table."""
    columns = _columns(rows)
    lines = [list(columns), ["---" if name == "method" else "---:" for name in columns]]
    lines += [[text(row) for text in columns.values()] for row in rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def write_report(folder: Path, rows: Sequence[Row], about: Mapping[str, Any]) -> None:
    """Write ``evaluation.md`` and ``evaluation.json`` into ``folder``, which is made if need be.

    Args:
        folder: where to.
        rows: the figures.
        about: what was measured with what; goes into both files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    facts = "".join(f"- {name}: {_fact(value)}\n" for name, value in about.items() if value is not None)
    text = f"# Evaluation\n\n{facts}\n{markdown(rows)}\n{NOTES}\n"
    (folder / "evaluation.md").write_text(text, encoding="utf-8")
    content = {"about": dict(about), "notes": NOTES, "rows": [_plain(asdict(row)) for row in rows]}
    (folder / "evaluation.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _columns(rows: Sequence[Row]) -> dict[str, Callable[[Row], str]]:
    """Heading and text of each column."""
    precision = list(rows[0].precision) if rows else []
    pck = list(rows[0].pck) if rows else []
    return {
        "gap": lambda r: str(r.gap),
        "method": lambda r: r.method,
        "pairs": lambda r: str(r.pairs),
        "matches": lambda r: f"{r.matches:.0f}",
        "min": lambda r: f"{r.matches_min}",
        "cover": lambda r: _number(r.coverage),
        **{f"P@{t:g}": _share("precision", t) for t in precision},
        "epi mean": lambda r: _number(r.epipolar_mean),
        "median": lambda r: _number(r.epipolar_median),
        **{f"PCK@{t:g}": _share("pck", t) for t in pck},
        "EPE mean": lambda r: _number(r.end_point_mean),
        "EPE median": lambda r: _number(r.end_point_median),
        "3D": lambda r: f"{r.landmarks_measured}/{r.landmarks}",
        "flow": lambda r: _number(r.flow, 1),
        "pose": lambda r: _number(r.pose_error_median, 1),
        "ms p50": lambda r: f"{r.time_p50:.0f}",
        "ms p95": lambda r: f"{r.time_p95:.0f}",
    }


def _share(name: str, threshold: float) -> Callable[[Row], str]:
    return lambda row: _number(getattr(row, name)[threshold])


def _number(value: float, digits: int = 2) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _plain(value: Any) -> Any:
    """As JSON can say it: None for NaN, text for numbers that are keys."""
    if isinstance(value, dict):
        return {f"{key:g}" if isinstance(key, float) else key: _plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
