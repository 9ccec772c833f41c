"""Pictures of an evaluation: that they show the figures, in the right places and colours."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from endomatch_ros.data.frames import Frame
from endomatch_ros.evaluation.plots import draw_overlay, median_pair, precision, write_curves, write_overlays
from endomatch_ros.evaluation.report import MIN_MATCHES, Row
from endomatch_ros.evaluation.score import CURVE_PX, PairScore, Prediction, summarise
from endomatch_ros.matching.types import Matches

SIZE = (320, 240)
MAGENTA, CYAN, GREY = (255, 60, 200), (0, 225, 255), (200, 200, 200)


def pair_score(
    method: str = "klt", errors: tuple[float, ...] = (0.0,), gap: int = 1, start: int = 0, flow: float = 20.0
) -> PairScore:
    """Matches one below the other, at x = 100, that move to the right."""
    points = np.float32([[100, 60 + 30 * k] for k in range(len(errors))]).reshape(-1, 2)
    ones = np.ones(len(errors), np.float32)
    moved = points + np.float32([flow, 0])
    matches = Matches(points, moved, ones, np.arange(len(errors), dtype=np.uint32), SIZE, SIZE)
    prediction = Prediction(method, gap, (start, start + gap), matches, 1.0)
    return PairScore(prediction, True, np.array(errors), np.zeros(0), 0, flow, 0.0)


def row(method: str, gap: int, level: float, matches: float = 500.0, pck: bool = True) -> Row:
    """Both curves rise from 0 to ``level``."""
    (template,) = summarise([pair_score(method, gap=gap)])
    curve = {t: level * t / 10 for t in CURVE_PX}
    other = {t: level * t / 20 if pck else math.nan for t in CURVE_PX}
    return replace(template, precision_curve=curve, pck_curve=other, matches=matches)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """The figures by file name, as they are saved."""
    figures: dict[str, Figure] = {}
    save = Figure.savefig

    def keep(self: Figure, path: Path, **options: object) -> None:
        figures[path.name] = self
        save(self, path, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def lines(axis: object) -> dict[str, object]:
    return {line.get_label(): line for line in axis.get_lines()}


def test_threshold_curves_are_those_of_the_rows(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    rows = [row(m, gap, 0.1 * k + gap / 20) for gap in (1, 5) for k, m in enumerate(("endomatch", "identity", "klt"))]
    paths = write_curves(tmp_path / "new", rows)
    assert [path.name for path in paths] == ["precision_threshold.png", "precision_gap.png"]
    for path in paths:
        picture = cv2.imread(str(path))
        assert min(picture.shape[:2]) > 200
        assert picture.std() > 5
    axes = drawn["precision_threshold.png"].axes
    assert [axis.get_title() for axis in axes] == ["gap 1", "gap 5", "", ""]
    for position, axis in enumerate(axes):
        shown = lines(axis)
        for given in rows[:3] if position % 2 == 0 else rows[3:]:
            curve = given.precision_curve if position < 2 else given.pck_curve
            np.testing.assert_allclose(shown[given.method].get_xydata(), list(curve.items()))
    legend = drawn["precision_threshold.png"].legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["endomatch", "identity", "klt"]


def test_gap_curves_are_those_of_the_rows(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    levels = {1: 0.9, 5: 0.8, 20: 0.5}
    write_curves(tmp_path, [row("klt", gap, levels[gap], matches=gap * 100) for gap in (20, 1, 5)])
    axes = {axis.get_title(): axis for axis in drawn["precision_gap.png"].axes}
    expected = {
        "P@3": {gap: level * 0.3 for gap, level in levels.items()},
        "PCK@5": {gap: level * 0.25 for gap, level in levels.items()},
        "PCK@10": {gap: level * 0.5 for gap, level in levels.items()},
        "matches per pair": {1: 100, 5: 500, 20: 2000},
    }
    assert list(axes) == list(expected)
    for title, values in expected.items():
        np.testing.assert_allclose(lines(axes[title])["klt"].get_xydata(), list(values.items()))
        low, high = axes[title].get_ylim()
        assert all(low <= value <= high for value in values.values())


def test_what_is_not_known_is_not_drawn(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    (path,) = write_curves(tmp_path, [row("klt", 5, 0.5, pck=False)])
    assert path.name == "precision_threshold.png"  # a single gap makes no curve over the gap
    assert len(drawn["precision_threshold.png"].axes) == 1
    blind = replace(row("klt", 5, 0.5, pck=False), precision_curve=dict.fromkeys(CURVE_PX, math.nan))
    assert write_curves(tmp_path / "nothing", [blind, replace(blind, gap=6)]) == []
    assert not (tmp_path / "nothing").exists()


def test_ours_is_strong_identity_dashed_and_few_matches_faint(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    names = ["identity", "akaze", "endomatch", "endomatch:dinov2-small", "klt", "loftr", "orb", "sift", "xfeat"]
    rows = [row(name, gap, 0.5) for gap in (1, 5) for name in names]
    write_curves(
        tmp_path, [replace(r, matches=MIN_MATCHES - 1) if r.method == "orb" and r.gap == 5 else r for r in rows]
    )
    first, second = (lines(axis) for axis in drawn["precision_threshold.png"].axes[:2])
    assert first["identity"].get_linestyle() == "--"
    assert first["endomatch"].get_linewidth() > 1.5 * first["klt"].get_linewidth()
    assert (first["orb"].get_alpha(), second["orb"].get_alpha()) == (1, pytest.approx(0.3))
    looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in first.values()}
    assert len(looks) == len(names)
    others = [first[name].get_color() for name in names if not name.startswith("endomatch")]
    assert len({first["endomatch"].get_color(), *others}) == len(names) - 1
    legend = drawn["precision_threshold.png"].legends[0]
    assert f"{MIN_MATCHES} matches" in legend.get_title().get_text()
    assert {line.get_alpha() for figure in drawn.values() for line in figure.legends[0].get_lines()} == {1}
    # Over the gap only the part with enough matches is strong.
    strong = [line for line in drawn["precision_gap.png"].axes[0].get_lines() if line.get_alpha() is None]
    shown = [line.get_ydata() for line in strong if line.get_color() == first["orb"].get_color()]
    np.testing.assert_array_equal(np.isfinite(shown), [[True, False]])


def test_precision_of_a_pair() -> None:
    assert precision(pair_score(errors=(0.5, 3.0, 3.1, 90.0))) == 0.5
    assert precision(pair_score(errors=())) == 0
    assert math.isnan(precision(pair_score(errors=(math.nan, math.nan))))
    assert math.isnan(precision(replace(pair_score(errors=()), motion_known=False)))


def test_the_pair_that_is_shown_is_the_median_one() -> None:
    def group(*shares: int) -> list[PairScore]:
        return [pair_score(errors=(0.0,) * share + (9.0,) * (10 - share)) for share in shares]

    groups = {(0, 0, 5): group(9, 10), (0, 3, 8): group(1, 1), (0, 6, 11): group(2, 10), (1, 0, 5): group(10, 10)}
    assert median_pair(groups) == (0, 6, 11)
    assert median_pair(groups | {(2, 0, 5): group(10, 10)}) == (0, 0, 5)
    unknown = {(0, k, k + 5): [pair_score(errors=(math.nan,))] for k in (4, 0, 8)}
    assert median_pair(unknown) == (0, 4, 9)
    assert median_pair(unknown | {(1, 1, 6): group(7)}) == (1, 1, 6)


def has(picture: np.ndarray, colour: tuple[int, int, int], tolerance: int = 40) -> bool:
    return bool((np.abs(picture.astype(int) - colour).max(axis=-1) <= tolerance).any())


def test_an_overlay_shows_each_method_in_a_panel_of_its_own() -> None:
    image = np.full((SIZE[1], SIZE[0], 3), 90, np.uint8)
    scores = [
        pair_score("right", (0.0,) * 4),
        pair_score("wrong", (9.0,) * 4),
        pair_score("identity", (0.0,) * 4, flow=0),
        pair_score("unknown", (math.nan,) * 4),
    ]
    picture = draw_overlay(image, scores)
    width, height = SIZE
    assert picture.shape == (height, 3 * width + 2 * 6, 3)
    # Below the caption, above the colour scale, where the matches' lines are.
    panels = [picture[80:180, 95 + k * (width + 6) : 130 + k * (width + 6)] for k in range(3)]
    for colour, expected in (
        (CYAN, [True, False, False]),
        (MAGENTA, [False, True, False]),
        (GREY, [False, False, True]),
    ):
        assert [has(panel, colour) for panel in panels] == expected
    assert draw_overlay(image, scores[2:3]).shape == (height, width, 3)  # identity alone is shown
    assert draw_overlay(image, [scores[0]] * 4).shape == (2 * height + 6, 2 * width + 6, 3)


def test_an_overlay_is_cut_to_the_view() -> None:
    image = np.full((SIZE[1], SIZE[0], 3), 90, np.uint8)
    mask = np.zeros((SIZE[1], SIZE[0]), bool)
    mask[50:200, 80:300] = True
    picture = draw_overlay(image, [pair_score(errors=(0.0,) * 4)], mask)
    assert picture.shape == (150, 220, 3)
    whole = draw_overlay(image, [pair_score(errors=(0.0,) * 4)])
    # The last match's dot, at (120, 150) in the image; the caption lies above it, the colour scale below.
    np.testing.assert_array_equal(picture[90:110, 15:45], whole[140:160, 95:125])
    assert has(picture[98:103, 38:43], CYAN)
    large = draw_overlay(np.full((1000, 2000, 3), 90, np.uint8), [pair_score()])
    assert large.shape == (320, 640, 3)


class Recording:
    """Frames whose brightness tells their position, in view up to their last ten columns."""

    def __init__(self, first: int) -> None:
        self.first = first

    def __len__(self) -> int:
        return 20

    def __getitem__(self, position: int) -> Frame:
        view = np.ones(SIZE[::-1], bool)
        view[:, -10:] = False
        return Frame(np.full((*view.shape, 3), self.first + position, np.uint8), 0.0, position, mask=view)


def test_one_overlay_a_gap_shows_the_second_frame_of_its_pair(tmp_path: Path) -> None:
    good, bad = (0.0,) * 4, (9.0,) * 4
    easy = [pair_score(m, good, gap, start=2) for gap in (1, 5) for m in ("klt", "sift")]
    hard = [pair_score("klt", bad, 1, start=2), pair_score("sift", good, 1, start=2)]
    paths = write_overlays(tmp_path / "new", [(Recording(40), easy), (Recording(100), hard)])
    assert [path.name for path in paths] == ["overlay_gap_1.jpg", "overlay_gap_5.jpg"]
    # draw_flow darkens to 85 %.
    for path, level in zip(paths, (100 + 3, 40 + 7), strict=True):
        picture = cv2.imread(str(path))
        assert picture.shape == (SIZE[1], 2 * (SIZE[0] - 10) + 6, 3)
        assert picture[120, 250].mean() == pytest.approx(0.85 * level, abs=2)
