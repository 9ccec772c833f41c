"""The evaluation as a whole: figures that are known in advance, real and synthetic data, reports, bad input."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console

from endomatch_ros.cli import main as cli
from endomatch_ros.data.frames import Frame
from endomatch_ros.data.sources import open_sequence
from endomatch_ros.data.synthetic import SceneConfig, SyntheticEndoscope, SyntheticSequence
from endomatch_ros.errors import ConfigError, DataError
from endomatch_ros.evaluation import run
from endomatch_ros.evaluation.methods.baselines import BASELINES, identity
from endomatch_ros.evaluation.methods.interface import NamedMethod
from endomatch_ros.evaluation.predictions import Predictor
from endomatch_ros.evaluation.report import NOTES, markdown, print_table, write_report
from endomatch_ros.evaluation.run import evaluate, pairs_with_gap, run_evaluation
from endomatch_ros.evaluation.score import summarise
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


def named(methods: dict[str, object]) -> list[NamedMethod]:
    return [NamedMethod(name, method) for name, method in methods.items()]


def test_figures_of_a_motion_that_is_known() -> None:
    # Sideways motion has horizontal epipolar lines: the error is the difference in y.
    methods = {"made up": method_with([(-4, 0), (-4, 0.5), (9, 2), (-4, 4), (0, 10.5)]), "silent": method_with([])}
    rows = summarise(evaluate(Sideways(), named(methods), [1, 2], max_pairs=3))
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
    assert row.pose_auc == {5: 0, 10: 0, 20: 0}
    assert row.match_flow == pytest.approx(np.median([4, np.hypot(4, 0.5), np.hypot(9, 2), np.hypot(4, 4), 10.5]))
    assert row.precision_curve[0.5] == pytest.approx(0.4)
    assert row.precision_curve[0.25] == pytest.approx(0.2)
    assert np.isnan(row.pck[5])
    assert row.landmarks == 0
    assert silent.precision == {1: 0, 3: 0, 5: 0}
    assert np.isnan(silent.epipolar_mean)


def test_frames_without_poses_give_counts_only() -> None:
    class Blind(Sideways):
        def __getitem__(self, position: int) -> Frame:
            return Frame(super().__getitem__(position).image, 0.0, position)

    (row,) = summarise(evaluate(Blind(), named({"made up": method_with([(1, 1)] * 9)}), [1]))
    assert row.matches == 9
    assert np.isnan(row.precision[3])
    assert np.isnan(row.pose_error_median)


class Damaged(Sideways):
    """Frames 0 and 3 cannot be read."""

    def __getitem__(self, position: int) -> Frame:
        if position in (0, 3):
            raise DataError(f"frame {position} is damaged")
        return super().__getitem__(position)


def test_a_damaged_frame_costs_its_pairs_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    scores = evaluate(Damaged(), named({"made up": method_with([(-4, 0)])}), [1, 2, 3])
    assert [(s.prediction.gap, *s.prediction.positions) for s in scores] == [
        (1, 1, 2),
        (1, 4, 5),
        (2, 2, 4),
        (3, 1, 4),
        (3, 2, 5),
    ]
    assert caplog.text.count("left out") == 2  # frames
    assert "frame 3 is damaged" in caplog.text


def test_a_pair_is_matched_before_its_truth_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    events = []
    method = method_with([(-4, 0)])
    truth = run.pair_truth
    monkeypatch.setattr(run, "pair_truth", lambda *args: (events.append("truth"), truth(*args))[1])
    spy = NamedMethod("spy", lambda *args: (events.append("method"), method(*args))[1])
    evaluate(Sideways(), [spy], [1], max_pairs=3)
    assert events == ["method", *["method", "truth"] * 3]  # the first call does not count


def test_figures_come_from_the_cache(tmp_path: Path) -> None:
    method = NamedMethod("made up", method_with([(-4, 0.5), (-4, 9)]), "made up")
    scores = evaluate(Sideways(), [method], [1, 2], 2, Predictor(tmp_path))
    silent = NamedMethod("silent", method_with([]), "made up")
    predictor = Predictor(tmp_path)
    again = evaluate(Sideways(), [silent], [1, 2], 2, predictor)
    assert (predictor.computed, predictor.reused) == (0, 4)
    expected = [replace(row, method="silent") for row in summarise(scores)]
    assert repr(summarise(again)) == repr(expected)  # NaN is like NaN


def test_a_still_camera_has_no_epipolar_truth() -> None:
    class Still(Sideways):
        def __getitem__(self, position: int) -> Frame:
            return super().__getitem__(0)

    (row,) = summarise(evaluate(Still(), named({"identity": identity}), [1]))
    assert np.isnan(row.precision[3])


@pytest.fixture(scope="module")
def scene() -> SyntheticSequence:
    return SyntheticSequence(SyntheticEndoscope(SceneConfig(seed=5, width=160, height=128)), count=12, rate=6)


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

    best, still = summarise(evaluate(scene, named({"oracle": oracle, "identity": identity}), [6], max_pairs=2))
    assert best.precision[1] == best.pck[1] == 1
    assert best.end_point_mean < 0.01
    assert best.landmarks_measured == best.landmarks > 20
    assert best.pose_error_median < 3
    assert still.pck[1] < 0.5
    assert still.end_point_mean == pytest.approx(still.flow, rel=0.7)
    assert still.pose_error_median == 180
    assert best.pose_auc[20] > 0.8
    assert still.pose_auc[20] == 0
    assert best.match_flow > 1
    assert still.match_flow == 0


def test_real_recording_ranks_klt_above_identity(sinus: Path) -> None:
    methods = {name: BASELINES[name] for name in ("identity", "klt")}
    still, tracked = summarise(evaluate(open_sequence(str(sinus)), named(methods), [5], max_pairs=2))
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
        evaluate(Sideways(), named({"identity": identity}), [gap])


def test_reports_say_the_same_and_json_has_no_nan(tmp_path: Path) -> None:
    rows = summarise(evaluate(Sideways(), named({"made up": method_with([(-4, 0.5)])}), [1]))
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
    arguments += ["--cache", str(tmp_path / "cache")]
    assert cli(["evaluate", *arguments, "--output", str(tmp_path / "out")]) == 0
    assert "identity" in capsys.readouterr().out
    assert (tmp_path / "out" / "evaluation.md").is_file()
    first = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert cli(["evaluate", *arguments, "--output", str(tmp_path / "again")]) == 0
    again = json.loads((tmp_path / "again" / "evaluation.json").read_text())
    assert again["rows"] == first["rows"]  # times too
    assert first["about"]["predictions"] == "1, 0 of them from the cache"
    assert again["about"]["predictions"].startswith("1, 1 of them from the cache")
    assert cli(["evaluate", *arguments, "--fresh", "--output", str(tmp_path / "fresh")]) == 0
    fresh = json.loads((tmp_path / "fresh" / "evaluation.json").read_text())
    assert fresh["about"]["predictions"] == first["about"]["predictions"]
    assert fresh["rows"][0]["time_p50"] != first["rows"][0]["time_p50"]
    assert fresh["rows"][0]["precision"] == first["rows"][0]["precision"]


def test_command_line_measures_the_frames_that_it_is_told_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for k in range(9):
        noise = np.random.default_rng(k).integers(0, 255, (96, 128, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f"{k}.png"), noise)
    cache = ["--cache", str(tmp_path / "cache")]
    arguments = ["evaluate", "--data", str(tmp_path), *cache, "--methods", "identity", "--gaps"]
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


def write_pictures(folder: Path, count: int) -> None:
    folder.mkdir()
    for k in range(count):
        cv2.imwrite(str(folder / f"{k}.png"), np.random.default_rng(k).integers(0, 255, (96, 128, 3), np.uint8))


def test_recordings_too_short_for_a_gap_are_left_out_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, count in (("long", 5), ("short", 3), ("single", 1)):
        write_pictures(tmp_path / name, count)
    data = [str(tmp_path / name) for name in ("long", "short", "single", "long")]  # named twice, measured once
    rows = run_evaluation(data, ["identity"], [1, 3, 1], output=tmp_path / "out")
    assert [(row.gap, row.pairs) for row in rows] == [(1, 4 + 2), (3, 2)]
    about = json.loads((tmp_path / "out" / "evaluation.json").read_text())["about"]
    expected = ["1 of 3 recordings, too short for gap 1", "2 of 3 recordings, too short for gap 3"]
    assert about["left out"] == expected
    assert all(line in caplog.text for line in expected)
    with pytest.raises(ConfigError, match="gap 5: a sequence of 5 frames has gaps 1 to 4"):
        run_evaluation(data, ["identity"], [1, 5])


def test_nothing_that_can_be_read_is_an_error(tmp_path: Path) -> None:
    write_pictures(tmp_path / "a", 2)
    (tmp_path / "a" / "1.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="no pair of frames"):
        run_evaluation(str(tmp_path / "a"), ["identity"], [1])


def test_several_models_in_one_run(tmp_path: Path) -> None:
    write_pictures(tmp_path / "a", 2)
    names = ["endomatch", "endomatch:refinement=none,max_keypoints=50"]
    rows = run_evaluation(str(tmp_path / "a"), names, [1], tmp_path / "out", device="cpu", cache=tmp_path / "cache")
    assert [row.method for row in rows] == names
    assert rows[1].matches <= 50
    about = json.loads((tmp_path / "out" / "evaluation.json").read_text())["about"]
    assert about["endomatch"]["refinement"] == "photometric"
    assert about[names[1]]["max_keypoints"] == 50
    assert about["endomatch"]["sha256"] == about[names[1]]["sha256"]


def test_help_names_methods_settings_and_protocols(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli(["evaluate", "--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in (*BASELINES, "max_keypoints", "endomatch:[MODEL][,SETTING=VALUE]", "--unrelated", "--fresh", "scared:"):
        assert part in text


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
    with pytest.raises(ConfigError, match="unrelated -1"):
        run_evaluation("synthetic:1", ["identity"], [1], unrelated=-1)
    with pytest.raises(ConfigError, match="at least two scenes"):
        run_evaluation(["synthetic:1", "synthetic:1"], ["identity"], [1], unrelated=3)
    with pytest.raises(ConfigError, match=r"cache.*cannot be made"):
        run_evaluation("synthetic:1", ["identity"], [1], cache=tmp_path / "file")
    assert cli(["evaluate", "--data", str(tmp_path / "missing"), "--methods", "identity"]) == 2
