"""SCARED from end to end: one command on a stand-in whose figures are known in closed form.

A plane that faces the camera, which moves along it (x) and rolls about its optical axis. With 0 and 1 rolled back,
epipolar lines are horizontal: the error of a match is the difference in y of its ends.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.scared import frame_data, pack, points_of, tiff, write_still, write_video

from endomatch_ros.cli import main as cli
from endomatch_ros.data.frames import Frame
from endomatch_ros.data.readers.scared import ScaredKeyframe
from endomatch_ros.evaluation.methods.baselines import identity
from endomatch_ros.evaluation.run import run_evaluation
from endomatch_ros.geometry.camera import Camera

FOCAL, SIZE, CENTRE = 250.0, (256, 208), np.array([131.0, 100.0])
CAMERA = Camera(np.array([[FOCAL, 0, CENTRE[0]], [0, FOCAL, CENTRE[1]], [0, 0, 1]]), np.zeros(5), "plumb_bob", SIZE)
DEPTH, STEP, ROLL = 0.1, 0.0016, 0.02  # metres, metres a frame (4 px), radians a frame
COUNT, GAPS = 4, (1, 2)


def rotation(angle: float) -> np.ndarray:
    return cv2.Rodrigues(np.array([0.0, 0.0, angle]))[0]


def texture(seed: int) -> np.ndarray:
    """Smooth noise of several scales, RGB uint8, 600 × 600."""
    rng = np.random.default_rng(seed)
    layers = [cv2.GaussianBlur(rng.normal(size=(600, 600)), None, sigma) * sigma for sigma in (1.5, 4, 12)]
    grey = cv2.normalize(np.sum(layers, axis=0), None, 30, 220, cv2.NORM_MINMAX)
    return np.stack([grey, 0.7 * grey, 0.6 * grey], -1).astype(np.uint8)


def render(k: int, surface: np.ndarray) -> Frame:
    """Frame ``k``; a texture's pixel is as large as the image's."""
    to_texture = np.eye(3)
    to_texture[:2, :2] = rotation(k * ROLL)[:2, :2].T
    to_texture[:2, 2] = (250 + k * STEP * FOCAL / DEPTH, 250) - to_texture[:2, :2] @ CENTRE
    image = cv2.warpPerspective(surface, to_texture, SIZE, flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)
    pose = np.eye(4)
    pose[:3, :3] = rotation(k * ROLL)
    pose[:3, 3] = pose[:3, :3] @ [-k * STEP, 0, 0]
    return Frame(image, k / 5, k, camera=CAMERA, pose=pose, depth=np.full(SIZE[::-1], DEPTH, np.float32))


def write_keyframe(folder: Path, seed: int, roll_sign: float = 1.0, without_pose: int = -1) -> None:
    surface = texture(seed)
    frames = [render(k, surface) for k in range(COUNT)]
    (folder / "data").mkdir(parents=True)
    write_video(folder / "data" / "rgb.mp4", [np.concatenate([f.image, f.image]) for f in frames])
    entries = {f"frame_data{f.index:06d}.json": frame_data(f) for f in frames if f.index != without_pose}
    for entry in entries.values():
        pose = np.array(entry["camera-pose"])
        pose[[0, 1], [1, 0]] *= roll_sign
        entry["camera-pose"] = pose.tolist()
    pack(folder / "data" / "frame_data.tar.gz", {name: json.dumps(entry).encode() for name, entry in entries.items()})
    (folder / "data" / "scene_points").mkdir()
    for frame in frames:
        both = np.concatenate([points_of(frame, 0)] * 2)
        (folder / "data" / "scene_points" / f"scene_points{frame.index:06d}.tiff").write_bytes(tiff(both))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two data sets to measure, a keyframe without video, a frame without pose, and a data set with a wrong roll."""
    folder = tmp_path_factory.mktemp("SCARED")
    write_keyframe(folder / "dataset_1" / "keyframe_1", seed=1)
    write_still(folder / "dataset_1" / "keyframe_2", render(0, texture(1)))
    write_keyframe(folder / "dataset_2" / "keyframe_1", seed=2, without_pose=3)
    write_keyframe(folder / "dataset_4" / "keyframe_1", seed=3, roll_sign=-1)
    return folder


def errors_of_standing_still(root: Path, gap: int) -> np.ndarray:
    """Closed form of the epipolar error of points that stay where they are, px, over all pairs of a gap."""
    found = []
    for name, count in (("dataset_1", COUNT), ("dataset_2", COUNT - 1)):
        recording = ScaredKeyframe(root / name / "keyframe_1")
        for k in range(count - gap):
            points = identity(recording[k].image, recording[k].image).keypoints0 - CENTRE
            before, after = (points @ rotation(angle * ROLL)[:2, :2] for angle in (k, k + gap))
            found.append(np.abs(before[:, 1] - after[:, 1]))
    return np.concatenate(found)


@pytest.fixture(scope="module")
def report(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What the command writes."""
    output = tmp_path_factory.mktemp("results")
    methods = ["endomatch", "identity", "klt", "sift"]
    arguments = ["--protocol", "scared", "--gaps", *map(str, GAPS), "--methods", *methods, "--output", str(output)]
    arguments += ["--cache", str(tmp_path_factory.mktemp("cache"))]
    assert cli(["evaluate", "--data", str(root), *arguments]) == 0
    return {"folder": output, **json.loads((output / "evaluation.json").read_text())}


def row(report: dict[str, object], method: str, gap: int) -> dict[str, object]:
    return next(row for row in report["rows"] if (row["method"], row["gap"]) == (method, gap))


@pytest.mark.parametrize("gap", GAPS)
def test_standing_still_has_the_error_of_the_closed_form(gap: int, root: Path, report: dict[str, object]) -> None:
    expected = errors_of_standing_still(root, gap)
    measured = row(report, "identity", gap)
    assert measured["pairs"] == (COUNT - gap) + (COUNT - 1 - gap)  # not dataset_4, no still, not the frame without pose
    assert measured["matches"] * measured["pairs"] == pytest.approx(len(expected))
    assert expected.mean() > 0.5 * gap
    assert measured["epipolar_mean"] == pytest.approx(expected.mean(), rel=1e-3)
    assert measured["epipolar_median"] == pytest.approx(np.median(expected), rel=1e-3)
    # The plane moves by 4 px a frame and turns.
    assert measured["end_point_mean"] > 3.5 * gap
    assert measured["match_flow"] == 0


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("method", ["endomatch", "klt", "sift"])
def test_methods_that_follow_the_tissue_have_small_errors(method: str, gap: int, report: dict[str, object]) -> None:
    measured = row(report, method, gap)
    assert measured["matches"] > 50
    assert measured["epipolar_median"] < 0.2
    assert measured["epipolar_mean"] < 0.4 * row(report, "identity", gap)["epipolar_mean"]
    assert measured["precision"]["1"] > 0.95
    assert measured["pck"]["1"] > 0.9
    assert measured["end_point_median"] < 0.4
    # What leaves the picture has no partner, everything else has: the depth is known everywhere.
    assert 0.8 * measured["landmarks"] < measured["landmarks_measured"] <= measured["landmarks"]
    assert measured["flow"] == pytest.approx(measured["match_flow"], rel=0.25)


def test_the_report_says_what_was_measured(report: dict[str, object]) -> None:
    about, folder = report["about"], report["folder"]
    assert about["protocol"].startswith("scared: ")
    assert "8.63" in about["published"]
    assert "1 of 3 recordings" in str(about["left out"])
    assert about["max_pairs"] == 10
    text = (folder / "evaluation.md").read_text()
    for name in ("precision_threshold.png", "precision_gap.png", "overlay_gap_1.jpg", "overlay_gap_2.jpg"):
        assert f"({name})" in text
        assert cv2.imread(str(folder / name)) is not None
    assert "epi mean" in text
    assert "8.63" in text


def test_a_data_set_that_is_named_itself_is_measured_though_faulty(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--protocol", "scared", "--gaps", "1", "--methods", "klt", "--max-pairs", "2"]
    arguments += ["--cache", str(tmp_path / "cache")]
    assert cli(["evaluate", "--data", str(root / "dataset_4"), *arguments, "--output", str(tmp_path)]) == 0
    (measured,) = json.loads((tmp_path / "evaluation.json").read_text())["rows"]
    assert measured["pairs"] == 2
    assert measured["epipolar_mean"] > 0.5  # its roll is said to be the other way round
    capsys.readouterr()
    assert cli(["evaluate", "--data", str(tmp_path), *arguments]) == 2
    assert "is not SCARED" in capsys.readouterr().err


def test_frames_are_read_once_and_in_order(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # To go back in a packed recording means to unpack it from its beginning.
    read: list[tuple[str, int]] = []
    plain = ScaredKeyframe.__getitem__

    def noted(self: ScaredKeyframe, position: int) -> Frame:
        read.append((str(self.folder), position))
        return plain(self, position)

    monkeypatch.setattr(ScaredKeyframe, "__getitem__", noted)
    rows = run_evaluation(str(root), ["identity", "klt"], GAPS)
    assert [row.pairs for row in rows] == [5, 5, 3, 3]
    assert read == sorted(set(read))
    assert len(read) == 2 * COUNT
