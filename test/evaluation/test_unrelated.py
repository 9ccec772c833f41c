"""Pairs of frames that show different scenes: which they are, and what is counted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from endomatch_ros.cli import main as cli
from endomatch_ros.data.frames import Frame
from endomatch_ros.data.readers.scared import ScaredKeyframe
from endomatch_ros.data.sources import SubSequence
from endomatch_ros.errors import ConfigError, DataError
from endomatch_ros.evaluation.methods.baselines import identity, sift
from endomatch_ros.evaluation.methods.interface import NamedMethod
from endomatch_ros.evaluation.methods.lucas_kanade import klt
from endomatch_ros.evaluation.predictions import Predictor
from endomatch_ros.evaluation.unrelated import MIN_INLIERS, measure_unrelated, plan_unrelated, unrelated_pairs
from endomatch_ros.geometry.camera import Camera
from endomatch_ros.geometry.robust import estimate_epipolar
from endomatch_ros.matching.types import Matches

CAMERA = Camera(np.array([[200.0, 0, 80], [0, 200.0, 60], [0, 0, 1]]), np.zeros(5), "plumb_bob", (160, 120))


class Noise:
    """A recording of smooth noise, the same in every frame; another seed, another scene."""

    def __init__(
        self, seed: int, size: tuple[int, int] = (160, 120), count: int = 5, bad: tuple[int, ...] = ()
    ) -> None:
        noise = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), np.uint8)
        self.image = cv2.normalize(cv2.GaussianBlur(noise, None, 1.5), None, 0, 255, cv2.NORM_MINMAX)
        self.count, self.bad = count, bad
        self.camera = CAMERA if size == CAMERA.size else None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, position: int) -> Frame:
        if position in self.bad:
            raise DataError(f"frame {position} is damaged")
        return Frame(self.image, 0.0, position, camera=self.camera)

    def __iter__(self) -> Iterator[Frame]:
        return (self[k] for k in range(len(self)))


@pytest.mark.parametrize("count", [1, 3, 4, 6, 13, 60])
@pytest.mark.parametrize("lengths", [(40, 30, 20, 50), (100, 100), (9, 80, 70)])
def test_pairs_are_spread_over_recordings_and_time(count: int, lengths: tuple[int, ...]) -> None:
    pairs = unrelated_pairs(range(len(lengths)), lengths, count)
    assert len(set(pairs)) == len(pairs) == count
    for (a, i), (b, j) in pairs:
        assert a != b
        assert 0 <= i < lengths[a]
        assert 0 <= j < lengths[b]
    couples = Counter(frozenset((a, b)) for (a, _), (b, _) in pairs)
    possible = len(lengths) * (len(lengths) - 1) // 2
    assert len(couples) == min(count, possible)
    assert max(couples.values()) - min(couples.values()) <= 1
    if count >= len(lengths) - 1:
        assert {number for pair in pairs for number, _ in pair} == set(range(len(lengths)))
    if count == 3:  # and none of them is in all pairs
        assert max(Counter(number for pair in pairs for number, _ in pair).values()) <= max(2, 6 // len(lengths))
    if count == 60:  # many pairs reach every part of a recording
        positions = [i for pair in pairs for number, i in pair if number == 0]
        assert min(positions) < 0.1 * lengths[0]
        assert max(positions) >= 0.9 * (lengths[0] - 1)


def test_recordings_of_one_scene_are_no_pair() -> None:
    pairs = unrelated_pairs("abab", [10] * 4, 8)
    assert {frozenset((a, b)) for (a, _), (b, _) in pairs} == {frozenset(p) for p in ((0, 1), (0, 3), (1, 2), (2, 3))}
    for scenes in ("a", "aaa", ""):
        with pytest.raises(ConfigError, match=r"at least two scenes.*--data"):
            unrelated_pairs(scenes, [10] * len(scenes), 5)
    with pytest.raises(ConfigError, match="at least 1"):
        unrelated_pairs("ab", [10, 10], 0)


def test_short_recordings_give_each_pair_once() -> None:
    assert unrelated_pairs("ab", [1, 1], 10) == [((0, 0), (1, 0))]
    assert len(unrelated_pairs("ab", [2, 3], 100)) <= 6


def test_keyframes_of_a_scared_data_set_show_one_scene(tmp_path: Path) -> None:
    keyframes = []
    for name in ("dataset_1/keyframe_1", "dataset_1/keyframe_2", "dataset_2/keyframe_1"):
        (tmp_path / name).mkdir(parents=True)
        for file in ("Left_Image.png", "endoscope_calibration.yaml"):
            (tmp_path / name / file).touch()
        keyframes.append(SubSequence(ScaredKeyframe(tmp_path / name), 0, 1))
    pairs = plan_unrelated(keyframes, 10)
    assert {frozenset((a, b)) for (a, _), (b, _) in pairs} == {frozenset((0, 2)), frozenset((1, 2))}
    with pytest.raises(ConfigError, match="two scenes"):
        plan_unrelated(keyframes[:2], 10)


def measure(sequences: list[Noise], methods: list[NamedMethod], count: int = 6) -> list[object]:
    return measure_unrelated(sequences, plan_unrelated(sequences, count), methods, Predictor())


def test_inliers_are_those_of_the_robust_estimate() -> None:
    rng, asked = np.random.default_rng(0), []

    def wild(image0: np.ndarray, image1: np.ndarray, mask0: object, mask1: object) -> Matches:
        points = rng.uniform(0, 120, (2, 60, 2)).astype(np.float32)
        points[1, :20] = points[0, :20] + np.float32([7, 0]) * rng.uniform(1, 2, (20, 1)).astype(np.float32)
        count = 60 - len(asked)
        asked.append(points[:, :count])
        ones = np.ones(count, np.float32)
        return Matches(points[0, :count], points[1, :count], ones, np.arange(count, dtype=np.uint32), *[(160, 120)] * 2)

    (row,) = measure([Noise(1), Noise(2)], [NamedMethod("wild", wild)], count=4)
    given = asked[1:]  # the first one is the call that does not count
    inliers = [estimate_epipolar(*points, CAMERA).inliers.sum() for points in given]
    uncalibrated = [estimate_epipolar(*points).inliers.sum() for points in given]
    assert inliers != uncalibrated
    assert (row.method, row.pairs, row.matches_max) == ("wild", 4, 59)
    assert row.matches_mean == np.mean([59, 58, 57, 56])
    assert (row.inliers_mean, row.inliers_max) == (np.mean(inliers), max(inliers))
    assert row.accepted == np.mean([n >= MIN_INLIERS for n in inliers])
    assert row.accepted > 0


def test_a_method_that_makes_a_scene_up_is_found_out_and_sift_is_not() -> None:
    depth = np.random.default_rng(3).uniform(3, 9, 200)

    def invented(image0: np.ndarray, image1: np.ndarray, mask0: object, mask1: object) -> Matches:
        points = np.random.default_rng(4).uniform((0, 0), (160, 120), (200, 2)).astype(np.float32)
        moved = points + np.float32(np.column_stack([40 / depth, 12 / depth]))
        return Matches(points, moved, np.ones(200, np.float32), np.arange(200, dtype=np.uint32), *[(160, 120)] * 2)

    scenes = [Noise(seed) for seed in range(4)]
    made_up, honest = measure(scenes, [NamedMethod("invented", invented), NamedMethod("sift", sift)])
    assert (made_up.accepted, made_up.matches_mean) == (1, 200)
    assert made_up.inliers_mean > 190
    assert honest.pairs == 6
    assert honest.accepted == 0
    assert honest.inliers_max < MIN_INLIERS


def test_images_of_different_size_are_stretched_to_the_first() -> None:
    sizes = []

    def spy(image0: np.ndarray, image1: np.ndarray, mask0: object, mask1: object) -> Matches:
        sizes.append((image0.shape, image1.shape))
        return identity(image0, image1)

    scenes = [Noise(1, (200, 150)), Noise(2), Noise(3, (96, 128))]
    rows = measure(scenes, [NamedMethod("spy", spy), NamedMethod("klt", klt)], count=3)
    assert {row.pairs for row in rows} == {3}
    assert {first for first, _ in sizes} == {(150, 200, 3), (120, 160, 3)}
    assert all(first == second for first, second in sizes)
    assert rows[0].matches_mean > 20
    assert rows[0].inliers_max == 0  # nothing moves: no geometry, no inliers


def test_damaged_frames_cost_their_pairs(caplog: pytest.LogCaptureFixture) -> None:
    whole, broken = Noise(1), Noise(2, bad=(0, 1, 2))
    method = NamedMethod("identity", identity)
    (row,) = measure([whole, broken], [method], count=5)
    assert row.pairs == 2
    assert caplog.text.count("is damaged") == 3
    with pytest.raises(DataError, match="none of the 5"):
        measure([whole, Noise(2, bad=tuple(range(5)))], [method], count=5)


def test_command_line_measures_unrelated_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, size in ((1, (160, 120)), (2, (128, 160))):
        (tmp_path / str(seed)).mkdir()
        for k in range(3):
            cv2.imwrite(str(tmp_path / str(seed) / f"{k}.png"), Noise(seed, size).image)
    common = ["--methods", "identity", "klt", "sift", "--gaps", "1", "--unrelated", "3", "--cache", str(tmp_path / "c")]
    both = ["evaluate", "--data", str(tmp_path / "1"), str(tmp_path / "2"), *common]
    assert cli([*both, "--output", str(tmp_path / "out")]) == 0
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert [row["method"] for row in content["unrelated"]] == ["identity", "klt", "sift"]
    assert all(row["pairs"] == 3 for row in content["unrelated"])
    assert "nrelated pairs" in (tmp_path / "out" / "evaluation.md").read_text()
    # Two recordings x two pairs, and three unrelated pairs, of three methods; all frames of a recording are the same.
    assert content["about"]["predictions"].startswith("21, 12 of them from the cache")
    capsys.readouterr()
    assert cli(["evaluate", "--data", str(tmp_path / "1"), *common]) == 2
    assert "at least two scenes" in capsys.readouterr().err
    assert cli([*both, "--unrelated", "-1"]) == 2
    assert "--unrelated -1" in capsys.readouterr().err
