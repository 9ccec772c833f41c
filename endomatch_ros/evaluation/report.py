"""Tables of an evaluation: for the terminal, for a document, for a program."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from endomatch_ros.evaluation.unrelated import UnrelatedRow

MIN_MATCHES = 100
"""Mean matches per pair from which on a method's figures are compared: a handful of sure points tracks no camera."""


@dataclass(frozen=True)
class Row:
    """Figures of one method at one gap; NaN where unknown.

    Attributes:
        gap: frames between the two of a pair.
        method: its name.
        pairs: how many pairs were measured.
        matches: mean number of matches per pair; ``matches_min`` that of the pair with fewest.
        coverage: mean share (0 to 1) of the view's cells with a match.
        precision: by threshold in px, share of matches within it under the true epipolar geometry.
        epipolar_mean: px, over all matches; ``epipolar_median`` likewise.
        pck: by threshold in px, share of the measured landmarks (matches, where the truth is dense) within it.
        end_point_mean: px, of the same; ``end_point_median`` likewise.
        landmarks: positions with a known partner; ``landmarks_measured`` of them had a prediction.
        flow: mean true motion, px.
        match_flow: median displacement of a pair's matches, mean over the pairs, px.
        pose_error_median: degrees, larger one of rotation and translation direction.
        pose_auc: by limit in degrees, area (0 to 1) under the curve of the share of pairs within an error up to it.
        precision_curve: as ``precision``, at the thresholds of the curves.
        pck_curve: as ``pck``, at the same thresholds.
        time_p50: milliseconds per pair; ``time_p95`` likewise.
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
    match_flow: float
    pose_error_median: float
    pose_auc: Mapping[float, float]
    precision_curve: Mapping[float, float]
    pck_curve: Mapping[float, float]
    time_p50: float
    time_p95: float


NOTES = f"""\
Matches: mean per pair; min: of the pair with fewest. Cover: share of the view's cells (16 x 16 over the image) that
hold a match. P@t: share of matches with an epipolar distance (mean of both point-to-line distances) of at most t px
under the true camera motion, mean over pairs (a pair without matches counts 0). Epi: that distance in px, mean and
median over all matches. Pose: median over pairs of the larger angle error of rotation and translation direction in
degrees (180: no pose found); AUC@t: area under the share of pairs with such an error of at most 0 to t degrees. Flow:
mean true motion in px; match flow: median displacement of a pair's matches, mean over the pairs; a method that finds
little of the flow measures nothing, however small its epipolar error. PCK@t and EPE: end-point error in px where 3D
truth exists; on SfM data at the sparse points that both frames see, each taking the displacement of the nearest match
within 8 px (3D: points with such a match / points), where the truth is dense at the matches themselves (3D: matches
whose partner is visible / matches). Time: ms per pair. Bold: the best of a gap among the methods with {MIN_MATCHES}
matches per pair or more on average; never identity, which measures nothing."""

UNRELATED_NOTES = """\
Frames of different scenes: every match is wrong. Inliers: matches that the robust epipolar estimate of the node keeps
nevertheless. Accepted: share of pairs with so many of them that a user would take the pair for matched; 0 is right."""


@dataclass(frozen=True)
class _Column:
    """A column: its heading, what it says of a row, and which figure of a gap is best, if any is.

    Attributes:
        heading: its title.
        value: number or text.
        digits: after the point.
        best: ``max``, ``min`` or None where figures are not ranked.
    """

    heading: str
    value: Callable[[Row], float | str]
    digits: int = 0
    best: Callable[[Sequence[float]], float] | None = None

    def text(self, row: Row) -> str:
        value = self.value(row)
        if isinstance(value, str):
            return value
        return "-" if math.isnan(value) else f"{value:.{self.digits}f}"

    def is_best(self, row: Row, rows: Sequence[Row]) -> bool:
        """Whether the row's figure is the best of its gap, as printed: equal text is equally good."""
        rivals = [other for other in rows if other.gap == row.gap and other.method != "identity"]
        compared = [other for other in rivals if other.matches >= MIN_MATCHES]
        values = [value for other in compared if not math.isnan(value := float(self.value(other)))] if self.best else []
        if self.best is None or not values or len(rivals) < 2 or row not in compared:
            return False
        return self.text(row) == f"{self.best(values):.{self.digits}f}"


def print_table(rows: Sequence[Row], console: Console | None = None, unrelated: Sequence[UnrelatedRow] = ()) -> None:
    """Show the figures in the terminal: the tables of :func:`markdown`, the best of each gap in bold."""
    console = console or Console()
    if not console.is_terminal:
        console = Console(width=200, file=console.file)  # a file has no edge to wrap at
    for title, columns in _tables(rows).items():
        table = empty_table(title, [column.heading for column in columns])
        for index, row in enumerate(rows):
            if index and row.gap != rows[index - 1].gap:
                table.add_section()
            table.add_row(*_cells(columns, row, rows, "[bold]{}[/bold]"))
        console.print(table)
    if unrelated:
        table = empty_table("Unrelated pairs", list(_UNRELATED))
        for other in unrelated:
            table.add_row(*(text(other) for text in _UNRELATED.values()))
        console.print(table)
    console.print("\n\n".join([NOTES, *([UNRELATED_NOTES] if unrelated else [])]), highlight=False)


def markdown(rows: Sequence[Row]) -> str:
    """The figures as Markdown tables, narrow enough to be read: epipolar geometry and pose, then 3D truth and time."""
    parts = []
    for title, columns in _tables(rows).items():
        lines = [_cells(columns, row, rows, "**{}**") for row in rows]
        parts.append(f"### {title}\n\n{markdown_table([column.heading for column in columns], lines)}")
    return "\n".join(parts)


def unrelated_markdown(rows: Sequence[UnrelatedRow]) -> str:
    """What methods find between frames that show different scenes, as a Markdown table."""
    return markdown_table(list(_UNRELATED), [[text(row) for text in _UNRELATED.values()] for row in rows])


def write_report(
    folder: Path,
    rows: Sequence[Row],
    about: Mapping[str, Any],
    unrelated: Sequence[UnrelatedRow] = (),
    pictures: Sequence[Path] = (),
) -> None:
    """Write ``evaluation.md`` and ``evaluation.json`` into ``folder``, which is made if need be.

    The JSON file holds every field of every row, so also the full curves; unknown figures are null.

    Args:
        folder: where to.
        rows: the figures.
        about: what was measured with what; goes into both files.
        unrelated: the figures of unrelated pairs, if these were measured.
        pictures: files in ``folder`` that the document shall show.
    """
    folder.mkdir(parents=True, exist_ok=True)
    facts = "".join(f"- {name}: {_fact(value)}\n" for name, value in about.items() if value is not None)
    text = f"# Evaluation\n\n{facts}\n{markdown(rows)}\n{NOTES}\n"
    if unrelated:
        text += f"\n### Unrelated pairs\n\n{unrelated_markdown(unrelated)}\n{UNRELATED_NOTES}\n"
    text += "".join(f"\n![{path.stem.replace('_', ' ')}]({path.relative_to(folder).as_posix()})\n" for path in pictures)
    (folder / "evaluation.md").write_text(text, encoding="utf-8")
    content = {"about": dict(about), "notes": NOTES, "rows": [_plain(asdict(row)) for row in rows]}
    if unrelated:
        content |= {"unrelated_notes": UNRELATED_NOTES, "unrelated": [_plain(asdict(row)) for row in unrelated]}
    (folder / "evaluation.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _tables(rows: Sequence[Row]) -> dict[str, list[_Column]]:
    """The columns of each table by its title; what is unknown of all rows is left out."""
    key = [_Column("gap", lambda r: r.gap), _Column("method", lambda r: r.method)]
    first = rows[0] if rows else None
    epipolar = [
        _Column("pairs", lambda r: r.pairs),
        _Column("matches", lambda r: r.matches),
        _Column("min", lambda r: r.matches_min),
        _Column("cover", lambda r: r.coverage, 2),
        *_shares("P", "precision", first),
        _Column("epi mean", lambda r: r.epipolar_mean, 2, min),
        _Column("epi median", lambda r: r.epipolar_median, 2, min),
        _Column("pose", lambda r: r.pose_error_median, 1, min),
        *_shares("AUC", "pose_auc", first),
    ]
    points = [
        _Column("flow", lambda r: r.flow, 1),
        _Column("match flow", lambda r: r.match_flow, 1),
        _Column("3D", lambda r: f"{r.landmarks_measured}/{r.landmarks}" if r.landmarks else math.nan),
        *_shares("PCK", "pck", first),
        _Column("EPE mean", lambda r: r.end_point_mean, 2, min),
        _Column("EPE median", lambda r: r.end_point_median, 2, min),
        _Column("ms p50", lambda r: r.time_p50),
        _Column("ms p95", lambda r: r.time_p95),
    ]
    tables = {"Matches, epipolar error and pose": epipolar, "Motion, end-point error and time": points}
    return {
        title: [*key, *(column for column in columns if any(column.text(row) != "-" for row in rows))]
        for title, columns in tables.items()
    }


def _shares(letter: str, name: str, first: Row | None) -> list[_Column]:
    """A column for each threshold of a row's shares."""

    def column(threshold: float) -> _Column:
        return _Column(f"{letter}@{threshold:g}", lambda row: getattr(row, name)[threshold], 3, max)

    return [] if first is None else [column(threshold) for threshold in getattr(first, name)]


def _cells(columns: Sequence[_Column], row: Row, rows: Sequence[Row], bold: str) -> list[str]:
    return [bold.format(c.text(row)) if c.is_best(row, rows) else c.text(row) for c in columns]


_UNRELATED: dict[str, Callable[[UnrelatedRow], str]] = {
    "method": lambda r: r.method,
    "pairs": lambda r: str(r.pairs),
    "matches mean": lambda r: f"{r.matches_mean:.0f}",
    "max": lambda r: str(r.matches_max),
    "inliers mean": lambda r: f"{r.inliers_mean:.0f}",
    "inliers max": lambda r: str(r.inliers_max),
    "accepted": lambda r: f"{r.accepted:.2f}",
}


def markdown_table(headings: Sequence[str], lines: Sequence[Sequence[str]], left: Collection[str] = ("method",)) -> str:
    """A Markdown table; the columns named in ``left`` are text, the others numbers."""
    ruler = ["---" if name in left else "---:" for name in headings]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [headings, ruler, *lines])


def empty_table(title: str, headings: Sequence[str], left: Collection[str] = ("method",)) -> Table:
    """The same for the terminal, without rows yet."""
    table = Table(title=title, title_justify="left")
    for name in headings:
        table.add_column(name, justify="left" if name in left else "right", no_wrap=True)
    return table


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _plain(value: Any) -> Any:
    """As JSON can say it: None for NaN, text for numbers that are keys."""
    if isinstance(value, dict):
        return {f"{key:g}" if isinstance(key, float) else key: _plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
