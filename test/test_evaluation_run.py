"""The evaluation as a whole: figures that are known in advance, real and synthetic data, reports, bad input."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console

from endomatch_ros.cli import main as cli
from endomatch_ros.data.frames import Frame
from endomatch_ros.data.sources import CompletedSequence, SubSequence, open_sequence
from endomatch_ros.data.synthetic import SceneConfig, SyntheticEndoscope, SyntheticSequence
from endomatch_ros.errors import ConfigError, DataError
from endomatch_ros.evaluation.baselines import BASELINES, identity
from endomatch_ros.evaluation.report import NOTES, markdown, print_table, write_report
from endomatch_ros.evaluation.run import evaluate, pairs_with_gap, run_evaluation, summarise
from endomatch_ros.evaluation.truth import pair_truth
from endomatch_ros.geometry.camera import Camera
from endomatch_ros.matching.types import Matches

CAMERA = Camera(np.array([[100.0, 0, 80], [0, 100.0, 60], [0, 0, 1]]), np.zeros(5), "plumb_bob", (160, 120))


class Sideways:
    """A camera that moves along x before a plane at depth 10, by 4 px a frame."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, position: int) -> Frame:
        image = np.random.default_rng(position).integers(0, 255, (120, 160, 3), np.uint8)
        pose = np.eye(4)
        pose[0, 3] = -0.4 * position
        return Frame(image, position / 30, position, camera=CAMERA, pose=pose)

    def __iter__(self) -> Iterator[Frame]:
        return (self[k] for k in range(len(self)))


def method_with(offsets: list[tuple[float, float]]) -> object:
    """A method whose matches are displaced by the offsets, whatever the images show."""

    def method(image0: np.ndarray, image1: np.ndarray, mask0: object, mask1: object) -> Matches:
        points = np.float32([[30 + 10 * k, 40 + 5 * k] for k in range(len(offsets))]).reshape(-1, 2)
        moved = points + np.float32(offsets).reshape(-1, 2)
        size = (160, 120)
        ones = np.ones(len(points), np.float32)
        return Matches(points, moved, ones, np.arange(len(points), dtype=np.uint32), size, size, coverage=0.25)

    return method


def test_figures_of_a_motion_that_is_known() -> None:
    # Sideways motion has horizontal epipolar lines: the error is the difference in y.
    methods = {"made up": method_with([(-4, 0), (-4, 0.5), (9, 2), (-4, 4), (0, 10.5)]), "silent": method_with([])}
    rows = summarise(evaluate(Sideways(), methods, [1, 2], max_pairs=3))
    assert [(row.gap, row.method, row.pairs) for row in rows] == [
        (1, "made up", 3),
        (1, "silent", 3),
        (2, "made up", 3),
        (2, "silent", 3),
    ]
    row, silent = rows[:2]
    assert row.matches == 5
    assert row.coverage == 0.25
    assert row.precision == {1: pytest.approx(0.4), 3: pytest.approx(0.6), 5: pytest.approx(0.8)}
    assert row.epipolar_mean == pytest.approx(17 / 5)
    assert row.epipolar_median == pytest.approx(2)
    assert row.pose_error_median == 180  # five matches give no pose
    assert np.isnan(row.pck[5])
    assert row.landmarks == 0
    assert silent.precision == {1: 0, 3: 0, 5: 0}
    assert np.isnan(silent.epipolar_mean)


def test_frames_without_poses_give_counts_only() -> None:
    class Blind(Sideways):
        def __getitem__(self, position: int) -> Frame:
            return Frame(super().__getitem__(position).image, 0.0, position)

    (row,) = summarise(evaluate(Blind(), {"made up": method_with([(1, 1)] * 9)}, [1]))
    assert row.matches == 9
    assert np.isnan(row.precision[3])
    assert np.isnan(row.pose_error_median)


def test_a_still_camera_has_no_epipolar_truth() -> None:
    class Still(Sideways):
        def __getitem__(self, position: int) -> Frame:
            return super().__getitem__(0)

    (row,) = summarise(evaluate(Still(), {"identity": identity}, [1]))
    assert np.isnan(row.precision[3])


@pytest.fixture(scope="module")
def scene() -> SyntheticSequence:
    return SyntheticSequence(SyntheticEndoscope(SceneConfig(seed=5, width=160, height=128)), count=12, rate=6)


def test_synthetic_truth_is_consistent(scene: SyntheticSequence) -> None:
    frame0, frame1 = scene[0], scene[6]
    truth = pair_truth(scene, 0, 6, frame0, frame1)
    assert len(truth.landmarks) > 10
    assert truth.flow > 1
    lines = cv2.computeCorrespondEpilines(truth.landmarks[:, None], 1, truth.fundamental).reshape(-1, 3)
    distance = np.abs((lines[:, :2] * truth.targets).sum(axis=1) + lines[:, 2])
    assert distance.max() < 1e-3


def test_a_part_of_a_sequence_has_the_truth_of_the_whole(scene: SyntheticSequence) -> None:
    part = CompletedSequence(SubSequence(scene, 3, 10))
    whole, cut = pair_truth(scene, 4, 9, scene[4], scene[9]), pair_truth(part, 1, 6, part[1], part[6])
    np.testing.assert_array_equal(cut.landmarks, whole.landmarks)
    np.testing.assert_array_equal(cut.targets, whole.targets)
    np.testing.assert_array_equal(cut.fundamental, whole.fundamental)


def test_an_oracle_is_perfect_on_the_synthetic_scene_and_identity_is_not(scene: SyntheticSequence) -> None:
    images = {frame.image.tobytes(): position for position, frame in enumerate(scene)}

    def oracle(image0: np.ndarray, image1: np.ndarray, mask0: np.ndarray, mask1: np.ndarray) -> Matches:
        still = identity(image0, image1, mask0, mask1)
        pair = images[image0.tobytes()], images[image1.tobytes()]
        targets, visible = scene.correspondence(*pair, still.keypoints0.astype(np.float64))
        moved = Matches(
            still.keypoints0, targets.astype(np.float32), still.similarity, still.track_ids, still.size0, still.size1
        )
        return moved.select(visible)

    best, still = summarise(evaluate(scene, {"oracle": oracle, "identity": identity}, [6], max_pairs=2))
    assert best.precision[1] == best.pck[1] == 1
    assert best.end_point_mean < 0.01
    assert best.landmarks_measured == best.landmarks > 20
    assert best.pose_error_median < 3
    assert still.pck[1] < 0.5
    assert still.end_point_mean == pytest.approx(still.flow, rel=0.7)
    assert still.pose_error_median == 180


def test_real_recording_ranks_klt_above_identity(sinus: Path) -> None:
    methods = {name: BASELINES[name] for name in ("identity", "klt")}
    still, tracked = summarise(evaluate(open_sequence(str(sinus)), methods, [5], max_pairs=2))
    assert tracked.precision[3] > still.precision[3]
    assert tracked.pck[5] > 0.7 > 0.3 > still.pck[5]
    assert 0 < tracked.landmarks_measured < tracked.landmarks == still.landmarks
    assert still.end_point_mean == pytest.approx(still.flow, rel=0.3)


@pytest.mark.parametrize(("length", "gap", "limit"), [(35, 1, 10), (35, 20, 100), (2, 1, 5), (10, 3, 1)])
def test_pairs_are_spread_over_the_sequence(length: int, gap: int, limit: int) -> None:
    pairs = pairs_with_gap(length, gap, limit)
    assert len(set(pairs)) == len(pairs) == min(limit, length - gap)
    assert all(i >= 0 and j < length and j - i == gap for i, j in pairs)
    if limit > 1:
        assert pairs[0][0] == 0
        assert pairs[-1][1] == length - 1


@pytest.mark.parametrize("gap", [0, -1, 6])
def test_impossible_gaps_are_refused(gap: int) -> None:
    with pytest.raises(ConfigError, match=f"gap {gap}"):
        evaluate(Sideways(), {"identity": identity}, [gap])


def test_reports_say_the_same_and_json_has_no_nan(tmp_path: Path) -> None:
    rows = summarise(evaluate(Sideways(), {"made up": method_with([(-4, 0.5)])}, [1]))
    stream = io.StringIO()
    print_table(rows, Console(file=stream))
    assert "made up" in stream.getvalue()
    assert "P@3" in stream.getvalue()
    write_report(tmp_path / "new", rows, {"data": ["made up"], "model": None})
    text = (tmp_path / "new" / "evaluation.md").read_text()
    assert markdown(rows) in text
    assert NOTES in text
    content = json.loads((tmp_path / "new" / "evaluation.json").read_text(), parse_constant=pytest.fail)
    assert content["rows"][0]["precision"]["3"] == 1.0
    assert content["rows"][0]["end_point_mean"] is None


def test_command_line_writes_a_report(sinus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data", str(sinus), "--methods", "identity", "--gaps", "1", "--max-pairs", "1"]
    assert cli(["evaluate", *arguments, "--output", str(tmp_path / "out")]) == 0
    assert "identity" in capsys.readouterr().out
    assert (tmp_path / "out" / "evaluation.md").is_file()
    assert (tmp_path / "out" / "evaluation.json").is_file()


def test_command_line_measures_the_frames_that_it_is_told_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for k in range(9):
        noise = np.random.default_rng(k).integers(0, 255, (96, 128, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f"{k}.png"), noise)
    arguments = ["evaluate", "--data", str(tmp_path), "--methods", "identity", "--gaps"]
    assert cli([*arguments, "3", "--frames", "5:", "--output", str(tmp_path / "out")]) == 0
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert content["about"]["frames"] == "5:"
    assert content["rows"][0]["pairs"] == 1  # of nine frames there would be six
    assert content["rows"][0]["matches"] > 5
    assert content["rows"][0]["epipolar_mean"] is None
    assert cli([*arguments, "4", "--frames=-4:"]) == 2
    assert "4 frames has gaps 1 to 3" in capsys.readouterr().err
    assert cli([*arguments, "1", "--frames", "abc"]) == 2
    assert "START:STOP" in capsys.readouterr().err
    assert cli([*arguments, "1", "--rate", "0"]) == 2
    assert "rate 0" in capsys.readouterr().err


def test_bad_requests_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no method 'surf'"):
        run_evaluation("synthetic", ["surf"], [1])
    with pytest.raises(ConfigError, match="synthetic:SEED"):
        run_evaluation("synthetic:abc", ["identity"], [1])
    with pytest.raises(ConfigError, match="kind"):
        run_evaluation("synthetic:1,cube", ["identity"], [1])
    with pytest.raises(DataError, match="no file or folder"):
        run_evaluation(str(tmp_path / "missing"), ["identity"], [1])
    with pytest.raises(ConfigError, match="gap 1000"):
        run_evaluation("synthetic:1", ["identity"], [1000])
    with pytest.raises(ConfigError, match="max-pairs 0"):
        run_evaluation("synthetic:1", ["identity"], [1], max_pairs=0)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file"):
        run_evaluation("synthetic:1", ["identity"], [1], output=tmp_path / "file")
    assert cli(["evaluate", "--data", str(tmp_path / "missing")]) == 2
