"""What a reader is shown of an evaluation: marks, missing figures, files."""

from __future__ import annotations

import io
import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from rich.console import Console

from endomatch_ros.evaluation.report import MIN_MATCHES, NOTES, Row, markdown, print_table, write_report
from endomatch_ros.evaluation.unrelated import UnrelatedRow

NAN = math.nan
ROW = Row(
    gap=5,
    method="klt",
    pairs=9,
    matches=1786.2,
    matches_min=811,
    coverage=0.891,
    precision={1.0: 0.356, 3.0: 0.683},
    epipolar_mean=3.78,
    epipolar_median=1.42,
    pck={1.0: 0.306, 10.0: 0.978},
    end_point_mean=2.29,
    end_point_median=1.52,
    landmarks=947,
    landmarks_measured=625,
    flow=25.1,
    match_flow=24.6,
    pose_error_median=8.1,
    pose_auc={5.0: 0.1, 20.0: 0.5},
    precision_curve={0.25: 0.1, 10.0: 0.9},
    pck_curve={0.25: NAN, 10.0: 0.978},
    time_p50=236.7,
    time_p95=254.2,
)
BETTER = replace(
    ROW, method="endomatch", precision={1.0: 0.734, 3.0: 0.956}, epipolar_mean=0.83, end_point_mean=2.5, matches=812.0
)
FEW = replace(ROW, method="orb", precision={1.0: 0.9, 3.0: 1.0}, epipolar_mean=0.1, matches=MIN_MATCHES - 0.5)
STILL = replace(ROW, method="identity", precision={1.0: 0.99, 3.0: 0.99}, epipolar_mean=0.2, matches=4000.0)


def cells(text: str, gap: int = 5) -> dict[str, dict[str, str]]:
    """All tables of a Markdown text: method → heading → cell, of one gap."""
    out: dict[str, dict[str, str]] = {}
    headings: list[str] = []
    for line in text.splitlines():
        parts = [part.strip() for part in line.strip("|").split("|")]
        if not line.startswith("|"):
            headings = []
        elif not headings:
            headings = parts
        elif parts[0] == str(gap):
            out.setdefault(parts[1], {}).update(zip(headings, parts, strict=True))
    return out


def test_every_figure_is_shown_in_one_of_the_tables() -> None:
    (row,) = cells(markdown([ROW])).values()
    assert row == {
        "gap": "5",
        "method": "klt",
        "pairs": "9",
        "matches": "1786",
        "min": "811",
        "cover": "0.89",
        "P@1": "0.356",
        "P@3": "0.683",
        "epi mean": "3.78",
        "epi median": "1.42",
        "pose": "8.1",
        "AUC@5": "0.100",
        "AUC@20": "0.500",
        "flow": "25.1",
        "match flow": "24.6",
        "3D": "625/947",
        "PCK@1": "0.306",
        "PCK@10": "0.978",
        "EPE mean": "2.29",
        "EPE median": "1.52",
        "ms p50": "237",
        "ms p95": "254",
    }


def test_the_best_figure_of_a_gap_is_marked_and_no_other() -> None:
    worse_later = [replace(ROW, gap=10), replace(BETTER, gap=10, epipolar_mean=4.0)]
    text = markdown([STILL, ROW, BETTER, FEW, *worse_later])
    table, later = cells(text), cells(text, gap=10)
    assert table["endomatch"]["P@3"] == "**0.956**"
    assert table["klt"]["P@3"] == "0.683"
    assert table["endomatch"]["epi mean"] == "**0.83**"
    assert table["klt"]["EPE mean"] == "**2.29**"
    assert table["endomatch"]["EPE mean"] == "2.50"
    assert later["klt"]["epi mean"] == "**3.78**"
    # Neither more matches nor fewer milliseconds make a method better.
    assert "**" not in "".join(table["klt"][name] for name in ("matches", "min", "cover", "flow", "3D", "ms p50"))


def test_few_matches_and_no_motion_never_look_best() -> None:
    table = cells(markdown([STILL, ROW, BETTER, FEW]))
    assert "**" not in "".join([*table["orb"].values(), *table["identity"].values()])
    assert table["orb"]["P@3"] == "1.000"
    enough = cells(markdown([STILL, ROW, BETTER, replace(FEW, matches=float(MIN_MATCHES))]))
    assert enough["orb"]["P@3"] == "**1.000**"
    assert enough["endomatch"]["P@3"] == "0.956"


def test_equal_figures_share_the_mark_and_one_method_alone_has_none() -> None:
    close = replace(BETTER, method="sift", precision={1.0: 0.73401, 3.0: NAN})
    table = cells(markdown([BETTER, close]))
    assert table["endomatch"]["P@1"] == table["sift"]["P@1"] == "**0.734**"
    assert table["sift"]["P@3"] == "-"
    assert table["endomatch"]["P@3"] == "**0.956**"
    assert "**" not in markdown([STILL, BETTER])


def test_what_nobody_knows_has_no_column() -> None:
    blind = replace(
        ROW,
        precision={1.0: NAN, 3.0: NAN},
        pck={1.0: NAN, 10.0: NAN},
        pose_auc={5.0: NAN, 20.0: NAN},
        landmarks=0,
        flow=NAN,
        **dict.fromkeys(["epipolar_mean", "epipolar_median", "end_point_mean", "end_point_median"], NAN),
        pose_error_median=NAN,
    )
    (row,) = cells(markdown([blind])).values()
    assert list(row) == ["gap", "method", "pairs", "matches", "min", "cover", "match flow", "ms p50", "ms p95"]
    both = cells(markdown([blind, replace(ROW, method="sift")]))
    assert both["klt"]["P@3"] == both["klt"]["3D"] == "-"
    assert markdown([])


UNRELATED = UnrelatedRow(
    method="klt", pairs=4, matches_mean=60.4, matches_max=100, inliers_mean=9.6, inliers_max=14, accepted=0.25
)


def test_terminal_shows_the_same_figures() -> None:
    stream = io.StringIO()
    print_table([ROW, BETTER], Console(file=stream), [UNRELATED])
    text = stream.getvalue()
    for expected in ("P@3", "0.956", "625/947", "AUC@20", "Unrelated pairs", "0.25"):
        assert expected in text
    assert "**" not in text
    assert "[bold]" not in text


def test_files_hold_everything(tmp_path: Path) -> None:
    pictures = [tmp_path / "new" / "precision_gap.png"]
    write_report(tmp_path / "new", [ROW], {"data": ["a", "b"], "model": None}, [UNRELATED], pictures)
    text = (tmp_path / "new" / "evaluation.md").read_text()
    assert markdown([ROW]) in text
    assert NOTES in text
    assert "- data: a, b\n" in text
    assert "model" not in text.split("###")[0]
    assert "| klt | 4 | 60 | 100 | 10 | 14 | 0.25 |" in text
    assert "![precision gap](precision_gap.png)" in text
    content = json.loads((tmp_path / "new" / "evaluation.json").read_text(), parse_constant=pytest.fail)
    (row,) = content["rows"]
    assert row["precision_curve"] == {"0.25": 0.1, "10": 0.9}
    assert row["pck_curve"] == {"0.25": None, "10": 0.978}
    assert row["pose_auc"] == {"5": 0.1, "20": 0.5}
    assert content["about"] == {"data": ["a", "b"], "model": None}
    assert content["unrelated"] == [asdict(UNRELATED)]
    write_report(tmp_path, [ROW], {})
    assert "unrelated" not in json.loads((tmp_path / "evaluation.json").read_text())
