"""Operating points against the exact truth, cameras, memory over many frames."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from endomatch_ros.bench import soak
from endomatch_ros.bench.scaling import measure_cameras, measure_points
from endomatch_ros.bench.soak import measure_soak
from endomatch_ros.bench.stream import Stream
from endomatch_ros.data.synthetic import SceneConfig, SyntheticEndoscope, SyntheticSequence
from endomatch_ros.matching import Matcher
from endomatch_ros.processes import Usage


@pytest.fixture(scope="module")
def stream() -> Stream:
    sequence = SyntheticSequence(SyntheticEndoscope(SceneConfig(seed=3, width=192, height=160)), 5)
    return Stream("a scene", list(sequence), sequence)


@pytest.fixture(scope="module")
def matcher() -> Matcher:
    return Matcher.from_pretrained(device="cpu")


def test_points_keep_to_their_settings_and_are_judged_by_the_scene(matcher, stream):
    points = measure_points(matcher, stream, (96, 192), (100, 4000))
    assert [(p.resolution, p.max_keypoints) for p in points] == [(96, 100), (96, 4000), (192, 100), (192, 4000)]
    for point in points:
        assert point.matches <= point.max_keypoints
        assert 0.8 < point.pck1 <= point.pck3 <= 1
        assert 0.8 < point.p1 <= 1
        assert 0 < point.milliseconds["p50"] <= point.milliseconds["p95"]
    assert points[1].matches > points[0].matches


def test_points_without_truth_have_time_and_matches_alone(matcher, stream):
    class Blind:
        def __len__(self):
            return 5

    frames = [replace(frame, pose=None, depth=None) for frame in stream.frames]
    (point,) = measure_points(matcher, Stream("blind", frames, Blind()), (96,), (100,))
    assert point.p1 is point.pck1 is point.pck3 is None
    assert point.matches > 10


def test_cameras_share_a_pass_of_the_network(matcher, stream):
    one, two = measure_cameras(matcher.with_config(resolution=96), stream.images, (1, 2))
    assert (one.cameras, two.cameras) == (1, 2)
    for each in (one, two):
        assert 0 < each.network["p50"] < each.milliseconds["p50"]
        assert each.ratio > 0


def test_the_soak_tells_the_slope_of_the_memory(matcher, stream, monkeypatch):
    pushed = []
    grown = iter(range(1000))
    monkeypatch.setattr(soak, "usage", lambda: Usage(0.0, 500 + 0.25 * next(grown)))
    corner = [np.ascontiguousarray(image[:64, :64]) for image in stream.images]
    figures = measure_soak(matcher.with_config(resolution=64), corner, 20, pushed.append)
    assert pushed == list(range(1, 21))
    assert figures.slope == pytest.approx(250)  # a quarter of a MiB with each frame
    assert figures.end - figures.start == pytest.approx(0.25 * 18, abs=0.2)
