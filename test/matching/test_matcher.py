"""Matcher and StreamMatcher on scenes with exact truth."""

import cv2
import numpy as np
import pytest
import torch
from support.flow import coarse_matches, tensor

from endomatch_ros.data.synthetic import SceneConfig, SyntheticEndoscope
from endomatch_ros.errors import CheckpointError, ConfigError, ImageError
from endomatch_ros.matching import Matcher, MatcherConfig, StreamMatcher
from endomatch_ros.matching.keypoints import detect, thin
from endomatch_ros.matching.refiners.engine import make_engine
from endomatch_ros.matching.refiners.photometric import refine
from endomatch_ros.models import PRESETS, MatcherNetwork, ModelInfo
from endomatch_ros.models.backbones.registry import build_backbone

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"))]
# Seeds that neither training (1000 …) nor validation (10000 …) has seen.
SCENE = SceneConfig(seed=20100, kind="tunnel", width=400, height=320)


@pytest.fixture(scope="module", params=DEVICES)
def matcher(request):
    return Matcher.from_pretrained(device=request.param, resolution=320)


@pytest.fixture(scope="module")
def scene():
    return SyntheticEndoscope(SCENE)


@pytest.fixture(scope="module")
def frames(scene):
    return [scene.render(t) for t in (0.0, 0.2, 0.4)]


def test_targets_are_right(matcher, scene, frames):
    matches = matcher.match(frames[0].image, frames[1].image)
    truth, visible = scene.correspondence(0.0, 0.2, matches.keypoints0)
    error = np.where(visible, np.linalg.norm(matches.keypoints1 - truth, axis=1), np.inf)
    still = np.linalg.norm(matches.keypoints0 - truth, axis=1)
    assert len(matches) >= 300
    assert (error < 1).mean() > 0.8
    assert (error < 5).mean() > 0.95
    assert (still[visible] < 1).mean() < 0.2  # the scene does move
    assert matches.coverage > 0.6


def test_shapes_types_and_ranges(matcher, frames):
    matches = matcher.match(frames[0].image, frames[1].image)
    n = len(matches)
    assert matches.keypoints0.shape == matches.keypoints1.shape == (n, 2)
    assert matches.keypoints0.dtype == matches.keypoints1.dtype == matches.similarity.dtype == np.float32
    assert matches.track_ids.dtype == np.uint32
    assert len(set(matches.track_ids.tolist())) == n
    assert (matches.similarity >= matcher.config.similarity_threshold).all()
    assert matches.similarity.max() <= 1.0 + 1e-5
    assert matches.size0 == (400, 320)
    assert set(matches.timings) == {"backbone", "matching", "refinement"}
    half = matches.select(np.arange(n) % 2 == 0)
    assert len(half) == (n + 1) // 2
    assert half.size1 == matches.size1


def test_the_same_input_gives_the_same_output(matcher, frames):
    a, b = (matcher.match(frames[0].image, frames[2].image) for _ in range(2))
    assert np.array_equal(a.keypoints0, b.keypoints0)
    assert np.array_equal(a.keypoints1, b.keypoints1)


def test_an_image_matches_itself_in_place(matcher, frames):
    matches = matcher.match(frames[0].image, frames[0].image)
    assert len(matches) > 500
    # The coarse flow is not exactly zero, and the refinement has to find the way back through an interpolated image.
    off = np.linalg.norm(matches.keypoints1 - matches.keypoints0, axis=1)
    assert np.percentile(off, 99) < 0.15
    assert np.median(off) < 0.04
    assert matches.similarity.min() > 0.99


def test_a_known_similarity_transform_is_measured_to_a_tenth_of_a_pixel(matcher, frames):
    image = frames[0].image
    matrix = cv2.getRotationMatrix2D((199.5, 159.5), 4.0, 1.05) + np.array([[0, 0, 6.3], [0, 0, -3.7]])
    moved = cv2.warpAffine(image, matrix, (400, 320), flags=cv2.INTER_CUBIC)
    matches = matcher.match(image, moved)
    expected = matches.keypoints0 @ matrix[:, :2].T + matrix[:, 2]
    error = np.linalg.norm(matches.keypoints1 - expected, axis=1)
    assert len(matches) > 500
    assert np.median(error) < 0.1
    assert np.percentile(error, 95) < 0.5


def test_sizes_may_differ(matcher, frames):
    image = frames[0].image
    large = cv2.resize(image, (800, 640), interpolation=cv2.INTER_CUBIC)
    matches = matcher.match(image, large)
    error = np.linalg.norm(matches.keypoints1 - ((matches.keypoints0 + 0.5) * 2 - 0.5), axis=1)
    assert len(matches) > 300
    assert np.median(error) < 0.3
    assert matches.size0 == (400, 320)
    assert matches.size1 == (800, 640)


def test_without_refinement_matches_are_right_to_a_cell(matcher, scene, frames):
    matches = matcher.with_config(refinement="none").match(frames[0].image, frames[1].image)
    truth, visible = scene.correspondence(0.0, 0.2, matches.keypoints0)
    error = np.linalg.norm(matches.keypoints1 - truth, axis=1)[visible]
    assert len(matches) >= 300
    assert np.median(error) < 4.0


def test_nothing_outside_the_view_or_on_highlights(matcher, frames):
    image = frames[0].image.copy()
    image[150:180, 180:215] = 255
    for refinement in ("photometric", "none"):
        matches = matcher.with_config(refinement=refinement).match(image, frames[1].image)
        x, y = np.round(matches.keypoints0).astype(int).T
        assert frames[0].mask[y, x].all()
        assert not ((x >= 180) & (x < 215) & (y >= 150) & (y < 180)).any()
        x, y = np.round(matches.keypoints1).astype(int).T
        assert frames[1].mask[y, x].all()


def test_masks_override_the_automatic_one(matcher, frames):
    left = np.zeros((320, 400), bool)
    left[:, :200] = True
    matches = matcher.match(frames[0].image, frames[1].image, left & frames[0].mask, frames[1].mask)
    assert len(matches) > 100
    assert (matches.keypoints0[:, 0] < 200).all()
    nothing = matcher.match(frames[0].image, frames[1].image, np.zeros((320, 400), bool))
    assert len(nothing) == 0
    with pytest.raises(ImageError, match="mask"):
        matcher.match(frames[0].image, frames[1].image, left[:-1])


def test_settings_take_effect(matcher, frames):
    images = frames[0].image, frames[1].image
    few = matcher.with_config(max_keypoints=50)
    assert 0 < len(few.match(*images)) <= 50
    assert 0 < len(few.with_config(refinement="none").match(*images)) <= 50
    assert len(matcher.with_config(max_keypoints=2000, similarity_threshold=1.0).match(*images)) == 0
    before = matcher.config
    with pytest.raises(ConfigError):
        matcher.with_config(max_keypoints=10, similarity_threshold=7.0)
    with pytest.raises(ConfigError, match="unknown setting 'speed'"):
        matcher.with_config(speed=3)
    assert matcher.config == before
    with pytest.raises(AttributeError):
        matcher.config = few.config


def test_settings_of_one_do_not_reach_another_of_the_same_network(matcher, frames):
    """Two of one network, used in turn, give bit for bit what two that were loaded apart give."""
    choices = {"resolution": 224, "max_keypoints": 300}, {"similarity_threshold": 0.7, "refinement": "none"}
    device = str(matcher.device)
    streams = [StreamMatcher(matcher.with_config(**chosen)) for chosen in choices]
    apart = [StreamMatcher(Matcher.from_pretrained(device=device, **{"resolution": 320, **c})) for c in choices]
    assert streams[0].matcher.network is streams[1].matcher.network is matcher.network
    results = [[stream.push(frame.image) for stream in streams] for frame in frames]
    for expected, position in zip(apart, range(2), strict=True):
        for frame, found in zip(frames, results, strict=True):
            one, other = found[position], expected.push(frame.image)
            assert (one is None) == (other is None)
            if one is not None:
                assert np.array_equal(one.keypoints0, other.keypoints0)
                assert np.array_equal(one.keypoints1, other.keypoints1)
                assert np.array_equal(one.track_ids, other.track_ids)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_images_without_texture_match_nothing_and_break_nothing(matcher, frames, level):
    flat = np.full((320, 400, 3), level, np.uint8)
    for pair in ((flat, flat), (flat, frames[0].image), (frames[0].image, flat)):
        matches = matcher.match(*pair)
        assert np.isfinite(matches.keypoints1).all()
        assert len(matches) < 30


def test_different_scenes_do_not_match(matcher, frames):
    other = SyntheticEndoscope(SceneConfig(seed=20200, kind="cavity", width=400, height=320)).render(0.0)
    matches = matcher.match(frames[0].image, other.image)
    assert len(matches) < 0.2 * len(matcher.match(frames[0].image, frames[1].image))


def test_thin_and_tiny_images(matcher):
    rng = np.random.default_rng(0)
    for size in ((32, 32), (40, 600), (600, 40)):
        image = rng.integers(50, 200, (*size, 3), dtype=np.uint8)
        assert np.isfinite(matcher.match(image, image).keypoints1).all()
    with pytest.raises(ImageError, match="at least 32x32"):
        matcher.match(np.zeros((20, 20, 3), np.uint8), np.zeros((20, 20, 3), np.uint8))


def test_refinement_moves_targets_only_and_finds_the_true_warp(matcher, frames):
    """Coarse matches with noise of half a cell and a fifth of outliers around a known affine motion."""
    image = frames[0].image
    matrix = np.array([[1.02, -0.05, 9.0], [0.04, 0.98, -6.0]])
    moved = cv2.warpAffine(image, matrix, (400, 320), flags=cv2.INTER_CUBIC)
    a, b = (
        matcher.extract(image),
        matcher.extract(moved, cv2.warpAffine(frames[0].mask.astype(np.uint8), matrix, (400, 320))),
    )
    points = detect(a, 600)
    rng = np.random.default_rng(0)
    grid = rng.uniform([60, 20], [340, 300], (900, 2))
    target = grid @ matrix[:, :2].T + matrix[:, 2] + rng.normal(0, a.cell_px / 2, (900, 2))
    target[:180] += rng.normal(0, 40, (180, 2))
    copy = points.copy()
    device, coarse = matcher.device, coarse_matches(grid, target, matcher.device)
    engine = make_engine(matcher.config.engine_on(device.type))
    found, good = (part.cpu().numpy() for part in refine(a, b, tensor(points).to(device), coarse, 1.0, engine))
    assert np.array_equal(points, copy)
    error = np.linalg.norm(found - (points @ matrix[:, :2].T + matrix[:, 2]), axis=1)
    assert good.mean() > 0.7
    assert np.median(error[good]) < 0.15
    assert np.percentile(error[good], 97) < 1.0


def test_detected_points_are_usable_spread_and_keep_their_distance(matcher, frames):
    features = matcher.extract(frames[0].image)
    first = detect(features, 200)
    x, y = np.round(first).astype(int).T
    assert features.usable[y, x].all()
    more = detect(features, 200, first[:100])
    gap = np.linalg.norm(more[:, None] - first[None, :100], axis=2).min(1)
    assert gap.min() > 3.0
    assert len(detect(features, 0)) == 0


def test_crowded_points_are_thinned_oldest_first(matcher, frames):
    features = matcher.extract(frames[0].image)
    crowd = np.random.default_rng(0).uniform(180, 200, (300, 2)).astype(np.float32)
    lone = np.array([[100.0, 100.0], [250.0, 220.0]], np.float32)
    kept = thin(features, np.concatenate([crowd, lone]), 500)
    assert kept[0] == 0
    assert {300, 301} <= set(kept.tolist())
    assert len(kept) < 40
    assert (np.diff(kept) > 0).all()
    assert len(thin(features, crowd[:0], 500)) == 0


class TestStream:
    def test_one_backbone_pass_a_frame(self, matcher, frames):
        calls = []
        handle = matcher.network.backbone.register_forward_hook(lambda *_: calls.append(1))
        try:
            stream = StreamMatcher(matcher)
            results = [stream.push(f.image, f.stamp) for f in frames]
        finally:
            handle.remove()
        assert len(calls) == len(frames)
        assert results[0] is None
        assert all(len(r) > 300 for r in results[1:])

    def test_stamps_and_timings(self, matcher, frames):
        stream = StreamMatcher(matcher)
        stream.push(frames[0].image, 1_700_000_000_123_456_789)
        matches = stream.push(frames[1].image, 1_700_000_000_223_456_789)
        assert matches.stamp0 == 1_700_000_000_123_456_789
        assert matches.stamp1 == 1_700_000_000_223_456_789
        assert set(matches.timings) == {"backbone", "matching", "refinement"}
        assert all(v > 0 for v in matches.timings.values())

    def test_tracks_live_on_through_their_refined_targets(self, matcher, scene, frames):
        stream = StreamMatcher(matcher)
        stream.push(frames[0].image)
        first = stream.push(frames[1].image)
        second = stream.push(frames[2].image)
        _, i, j = np.intersect1d(first.track_ids, second.track_ids, return_indices=True)
        assert len(i) > 0.4 * len(first)
        assert np.array_equal(first.keypoints1[i], second.keypoints0[j])
        assert (
            second.track_ids[~np.isin(second.track_ids, first.track_ids)].min(initial=2**32 - 1) > first.track_ids.max()
        )
        truth, visible = scene.correspondence(0.0, 0.4, first.keypoints0[i])
        error = np.linalg.norm(second.keypoints1[j] - truth, axis=1)[visible]
        assert np.median(error) < 1.0

    def test_a_withdrawing_scope_stays_covered(self, matcher):
        """Points run together in the far lumen; new ones must still be found on the near wall."""
        scene = SyntheticEndoscope(SceneConfig(seed=20107, width=400, height=320, speed=0.0, wobble=0.0))
        image = scene.render(0.0).image
        stream = StreamMatcher(matcher)
        zoomed = [
            cv2.warpAffine(image, cv2.getRotationMatrix2D((200, 160), 0, 1.6 / 1.06**k), (400, 320)) for k in range(12)
        ]
        results = [stream.push(z) for z in zoomed]
        assert results[-1].coverage > 0.6
        assert results[-1].coverage > 0.8 * results[1].coverage

    def test_reset_forgets_and_never_reuses_an_id(self, matcher, frames):
        stream = StreamMatcher(matcher)
        stream.push(frames[0].image)
        first = stream.push(frames[1].image)
        stream.reset()
        assert stream.push(frames[0].image) is None
        second = stream.push(frames[1].image)
        assert second.track_ids.min() > first.track_ids.max()

    def test_a_change_of_size_starts_anew(self, matcher, frames):
        stream = StreamMatcher(matcher)
        stream.push(frames[0].image)
        stream.push(frames[1].image)
        assert stream.push(cv2.resize(frames[2].image, (320, 256))) is None
        assert stream.push(cv2.resize(frames[2].image, (320, 256))) is not None

    def test_a_bad_frame_changes_nothing(self, matcher, frames):
        stream = StreamMatcher(matcher)
        stream.push(frames[0].image, 0)
        with pytest.raises(ImageError):
            stream.push(frames[1].image[..., :2], 1)
        assert stream.push(frames[1].image, 2).stamp0 == 0

    def test_a_black_frame_between_gives_no_matches_and_the_stream_goes_on(self, matcher, frames):
        stream = StreamMatcher(matcher)
        stream.push(frames[0].image)
        assert len(stream.push(np.zeros_like(frames[0].image))) == 0
        assert len(stream.push(frames[1].image)) == 0
        assert len(stream.push(frames[2].image)) > 300

    def test_a_stream_takes_over_without_using_an_id_again(self, matcher, frames):
        """As where the settings of a camera change: another matcher of the network, the same numbers go on."""
        stream = matcher.stream()
        stream.push(frames[0].image)
        first = stream.push(frames[1].image)
        stream.push(frames[2].image)  # names that nobody has seen count, too
        after = matcher.with_config(max_keypoints=200).stream("keyframe", stream)
        assert after.reference == "keyframe"
        assert after.push(frames[0].image) is None
        second = after.push(frames[1].image)
        assert second.track_ids.min() == stream.next_id > first.track_ids.max()
        assert after.next_id > second.track_ids.max()

    def test_unrefined_streams_give_fresh_ids(self, matcher, frames):
        stream = StreamMatcher(matcher.with_config(refinement="none"))
        results = [stream.push(f.image) for f in frames]
        assert not np.isin(results[2].track_ids, results[1].track_ids).any()


class TestFromPretrained:
    def test_the_embedded_model_describes_itself(self):
        matcher = Matcher.from_pretrained(device="cpu")
        assert matcher.info.name == "embedded"
        assert matcher.info.device == "cpu"
        assert len(matcher.info.sha256) == 64
        assert 1e5 < matcher.info.parameters < 6e6

    def test_a_dinov2_sized_model_matches_through_the_same_path(self, scene, frames):
        torch.manual_seed(0)
        config = PRESETS["dinov2-small"]
        network = MatcherNetwork(config, build_backbone(config))
        matcher = Matcher(network, ModelInfo("test", "random", "0" * 64, 0, "cpu"), MatcherConfig(resolution=280))
        matches = matcher.match(frames[0].image, frames[0].image)
        assert len(matches) > 300
        assert np.percentile(np.linalg.norm(matches.keypoints1 - matches.keypoints0, axis=1), 99) < 0.15

    def test_bad_arguments(self):
        with pytest.raises(ConfigError, match="unknown model 'dinov7'"):
            Matcher.from_pretrained("dinov7")
        with pytest.raises(ConfigError, match="device 'tpu0'"):
            Matcher.from_pretrained(device="tpu0")
        with pytest.raises(ConfigError, match="device 'mps'"):
            Matcher.from_pretrained(device="mps")
        with pytest.raises(ConfigError, match="'cuda:9' was asked for, but PyTorch sees"):
            Matcher.from_pretrained(device="cuda:9")
        with pytest.raises(ConfigError, match="resolution=3"):
            Matcher.from_pretrained(device="cpu", resolution=3)
        with pytest.raises(CheckpointError, match="no checkpoint at"):
            Matcher.from_pretrained("/nowhere/model.safetensors")

    def test_warmup_runs_the_whole_path(self, matcher):
        matcher.warmup((160, 120))
