"""What holds for every refiner and check that is registered, on a pair with exact truth; and how one is added."""

import subprocess
import sys

import numpy as np
import pytest
from support.flow import coarse_matches
from support.tissue import HEIGHT, WIDTH, deformation, deformed, tissue

from endomatch_ros.errors import ConfigError
from endomatch_ros.matching import Matcher, MatcherConfig, StreamMatcher, refiners
from endomatch_ros.matching.coarse import match_coarse
from endomatch_ros.matching.keypoints import detect
from endomatch_ros.matching.refiners import CHECKS, REFINERS, Entry
from endomatch_ros.matching.refiners.engine import make_engine
from endomatch_ros.matching.refiners.interface import Pair, Refined
from endomatch_ros.matching.view import lookup


@pytest.fixture(scope="module")
def loaded():
    """With a head, so that every refiner can work."""
    return Matcher.from_pretrained("embedded-dense", "cpu", mask="none", resolution=WIDTH, max_keypoints=800)


@pytest.fixture(scope="module")
def images():
    return tissue(), deformed(tissue())


@pytest.fixture(scope="module")
def frames(loaded, images):
    return [loaded.extract(image) for image in images]


def refine(matcher, frames, points=None, coarse=None):
    """The refiner's own answer, before the matcher selects from it."""
    refiner, _ = refiners.build(matcher.config, matcher.network)
    coarse = match_coarse(*frames, matcher.config.similarity_threshold) if coarse is None else coarse
    pair = Pair(matcher.network, matcher.config, *frames, coarse, make_engine("opencv"), points)
    found = refiner.refine(pair)
    arrays = [part.cpu().numpy() for part in (found.points0, found.points1, found.good)]
    return refiner, pair, Refined(*arrays, found.dropped)


@pytest.fixture(params=list(REFINERS))
def name(request):
    return request.param


@pytest.fixture
def matcher(loaded, name):
    return loaded.with_config(refinement=name)


def test_points_stay_where_they_are_or_lie_on_the_coarse_matches(matcher, frames):
    points = detect(frames[0], 300)
    copy = points.copy()
    refiner, pair, found = refine(matcher, frames, points)
    assert np.array_equal(points, copy)
    if refiner.keeps_points:
        assert np.array_equal(found.points0, points)
    else:
        coarse = {tuple(point) for point in pair.coarse.points0.tolist()}
        assert {tuple(point) for point in found.points0.tolist()} <= coarse
        assert len(found.points0) <= matcher.config.max_keypoints


def test_shapes_and_types(matcher, frames):
    _, _, found = refine(matcher, frames)
    count = len(found.points0)
    assert count > 100
    assert found.points0.shape == found.points1.shape == (count, 2)
    assert found.points0.dtype == found.points1.dtype == np.float32
    assert found.good.shape == (count,)
    assert found.good.dtype == bool
    assert np.isfinite(found.points1[found.good]).all()


def test_targets_that_count_lie_on_usable_pixels_of_the_image(matcher, images):
    masks = [np.ones((HEIGHT, WIDTH), bool) for _ in range(2)]
    masks[0][:, :40] = masks[1][90:150, 60:200] = False
    frames = [matcher.extract(image, mask) for image, mask in zip(images, masks, strict=True)]
    _, _, found = refine(matcher, frames)
    assert found.good.sum() > 100
    for mask, points in zip(masks, (found.points0, found.points1), strict=True):
        assert lookup(mask, points[found.good]).all()


def test_the_same_pair_gives_the_same_bits(matcher, frames):
    a, b = (refine(matcher, frames)[2] for _ in range(2))
    for one, other in ((a.points0, b.points0), (a.points1, b.points1), (a.good, b.good)):
        assert np.array_equal(one, other)


def test_targets_are_as_right_as_is_claimed(matcher, frames):
    refiner, _, found = refine(matcher, frames)
    matches = matcher.match_features(*frames)
    error = np.linalg.norm(matches.keypoints1 - matches.keypoints0 - deformation(matches.keypoints0), axis=1)
    assert len(matches) > 200
    assert np.median(error) < (0.15 if refiner.subpixel else 0.5 * frames[0].cell_px)
    assert (error < (1.0 if refiner.subpixel else 2 * frames[0].cell_px)).mean() > 0.95
    assert len(matches) <= found.good.sum()  # the matcher only selects


def test_without_coarse_matches_and_without_points_there_is_nothing(matcher, frames):
    none = coarse_matches(np.zeros((0, 2)), np.zeros((0, 2)))
    assert not refine(matcher, frames, coarse=none)[2].good.any()
    refiner, _, found = refine(matcher, frames, points=np.zeros((0, 2), np.float32))
    assert len(found.points0) == 0 or not refiner.keeps_points


def test_it_reports_what_the_registry_says(matcher, name, frames):
    _, pair, found = refine(matcher, frames)
    assert set(pair.seconds) <= set(REFINERS[name].stages)
    assert set(found.dropped) <= set(REFINERS[name].drops)
    timings = matcher.match_features(*frames).timings
    assert set(timings) == {"matching", "refinement", *pair.seconds}
    assert set(timings) <= {"matching", "refinement", *refiners.timing_stages()}
    assert all(took > 0 for took in timings.values())


def test_streams_track_where_points_are_kept(matcher, images):
    stream = StreamMatcher(matcher)
    refiner, _ = refiners.build(matcher.config, matcher.network)
    still = images[0], images[1], images[1]
    _, first, second = (stream.push(image) for image in still)
    kept = np.isin(second.track_ids, first.track_ids)
    assert kept.mean() > 0.5 if refiner.keeps_points else not kept.any()
    assert len(set(second.track_ids.tolist())) == len(second)


def test_what_a_model_lacks_is_said_at_set_up(loaded, name):
    plain = Matcher.from_pretrained("embedded", "cpu")
    refiner, _ = refiners.build(MatcherConfig(refinement=name), loaded.network)
    if refiner.lacks(plain.network):
        with pytest.raises(ConfigError, match=rf"refinement='{name}' needs a model .*: use "):
            plain.with_config(refinement=name)
    else:
        assert plain.with_config(refinement=name).config.refinement == name


@pytest.mark.parametrize("check", CHECKS)
def test_a_check_drops_matches_of_any_refiner_and_counts_them(matcher, check, frames):
    before = matcher.match_features(*frames)
    assert before.dropped.keys() <= set(REFINERS[matcher.config.refinement].drops)
    entry = CHECKS[check]
    strict, loose = (matcher.with_config(**{entry.setting: value}).match_features(*frames) for value in (0.02, 100.0))
    assert 0 < strict.dropped[check] == len(before) - len(strict)
    assert loose.dropped == {**before.dropped, check: 0}
    assert np.array_equal(loose.keypoints1, before.keypoints1)
    kept = np.isin(before.track_ids, strict.track_ids)
    assert np.array_equal(strict.keypoints1, before.keypoints1[kept])
    assert set(strict.timings) <= {"matching", "refinement", *entry.stages, *REFINERS[matcher.config.refinement].stages}


def test_what_refiner_and_check_share_is_made_once(loaded, frames, monkeypatch):
    calls = []
    register = loaded.network.register
    monkeypatch.setattr(loaded.network, "register", lambda *maps: calls.append(1) or register(*maps))
    loaded.with_config(refinement="dense", dense_consistency_cells=1.0).match_features(*frames)
    assert len(calls) == 1


def test_the_registry_is_light_and_names_what_there_is():
    code = "import sys, endomatch_ros.matching.refiners as r; print(*r.names()); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.split() == list(refiners.names()) == list(REFINERS)
    assert {"photometric", "dense", "none"} <= set(REFINERS)
    assert set(CHECKS) <= set(refiners.drop_causes())
    for name, entry in REFINERS.items():
        assert MatcherConfig(refinement=name).refinement == name
        assert f"{name} ({entry.text})" in refiners.described()


TOY = '''
"""A refiner that takes everything to be at rest."""

import torch

from endomatch_ros.matching.refiners.interface import Pair, Refined, Refiner


class Still(Refiner):
    subpixel = False

    def refine(self, pair: Pair) -> Refined:
        counted = pair.once("resting", lambda: len(pair.points))
        return Refined(pair.start, pair.start.clone(), torch.ones(counted, dtype=torch.bool), {"asleep": 3})


STAGE: Refiner = Still()
'''


def test_a_new_refiner_is_a_file_and_a_line(loaded, images, tmp_path, monkeypatch):
    (tmp_path / "still.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="refinement='still' is unknown"):
        MatcherConfig(refinement="still")
    monkeypatch.setitem(REFINERS, "still", Entry("still", "as if at rest", stages=("resting",), drops=("asleep",)))
    try:
        assert MatcherConfig(refinement="still").refinement == "still"
        matcher = loaded.with_config(refinement="still", similarity_threshold=0.0)
        matches = matcher.match(*images)
        assert len(matches) > 100
        assert np.array_equal(matches.keypoints0, matches.keypoints1)
        assert set(matches.timings) == {"backbone", "matching", "refinement", "resting"}
        assert matches.dropped == {"asleep": 3}
        stream = StreamMatcher(matcher)
        _, first, second = (stream.push(image) for image in (*images, images[0]))
        assert np.isin(second.track_ids, first.track_ids).mean() > 0.5
        checked = matcher.with_config(dense_consistency_cells=1.0).match(*images)
        assert checked.dropped["dense_consistency"] > 0
        assert {"asleep", "dense_consistency"} <= set(refiners.drop_causes())
        assert "resting" in refiners.timing_stages()
    finally:
        sys.modules.pop("still", None)
