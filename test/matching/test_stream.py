"""Frames through the network together, regions, keyframes, and matches with another camera: against exact truth."""

import numpy as np
import pytest
import torch

from endomatch_ros.data.synthetic import SceneConfig, SyntheticEndoscope
from endomatch_ros.device import half_type
from endomatch_ros.errors import ConfigError, ImageError
from endomatch_ros.matching import Matcher, StreamMatcher
from endomatch_ros.matching.keyframes import KeyframeRules, KeyframeWatch
from endomatch_ros.matching.preparation import share_size

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"))]
TIMES = (0.0, 0.1, 0.2, 0.3)


@pytest.fixture(scope="module")
def scene():
    return SyntheticEndoscope(SceneConfig(seed=20100, kind="tunnel", width=400, height=320))


@pytest.fixture(scope="module")
def frames(scene):
    return [scene.render(t) for t in TIMES]


@pytest.fixture(scope="module", params=DEVICES)
def matcher(request):
    return Matcher.from_pretrained(device=request.param, resolution=320)


class TestTogether:
    def test_a_batch_is_one_pass_and_gives_what_single_passes_give(self, matcher, frames):
        calls = []
        handle = matcher.network.backbone.register_forward_hook(lambda _, args, __: calls.append(len(args[0])))
        # Masks of one extent, so that the batch needs no other windows than the single frames.
        mask = frames[0].mask
        try:
            together = matcher.describe([matcher.prepare(frame.image, mask) for frame in frames[:2]])
        finally:
            handle.remove()
        assert calls == [2]
        for frame, features in zip(frames, together, strict=False):
            alone = matcher.extract(frame.image, mask)
            assert features.window == alone.window
            # Half precision where there is some; other batches take other kernels.
            atol = 2e-4 if half_type(matcher.device.type) is None else 2e-2
            torch.testing.assert_close(features.descriptors, alone.descriptors, atol=atol, rtol=0)

    def test_views_of_different_extent_still_share_a_pass(self, matcher, scene, frames):
        views = [np.zeros((320, 400), bool) for _ in range(2)]
        views[0][10:300, 20:380] = True
        views[1][40:320, 0:330] = True
        prepared = [matcher.prepare(frame.image, view) for frame, view in zip(frames, views, strict=False)]
        shared = share_size(prepared)
        assert shared[0].window.net_width == shared[1].window.net_width
        for frame, view in zip(shared, views, strict=True):
            window = frame.window
            assert 0 <= window.x <= 400 - window.width
            assert 0 <= window.y <= 320 - window.height
            assert view[window.area].sum() == view.sum()  # nothing of the view is lost
        matches = matcher.match_features(*matcher.describe(prepared))
        truth, visible = scene.correspondence(TIMES[0], TIMES[1], matches.keypoints0)
        assert len(matches) > 200
        assert np.median(np.linalg.norm(matches.keypoints1 - truth, axis=1)[visible]) < 1.0

    def test_images_of_different_sizes_go_one_by_one(self, matcher, frames):
        small = np.ascontiguousarray(frames[0].image[:200, :260])
        features = matcher.describe([matcher.prepare(image) for image in (frames[0].image, small, frames[1].image)])
        assert [f.size for f in features] == [(400, 320), (260, 200), (400, 320)]


class TestRegion:
    def test_points_stay_inside(self, matcher, frames):
        region = (60, 50, 200, 160)
        stream = StreamMatcher(matcher)
        stream.push(frames[0].image, roi=region)
        matches = stream.push(frames[1].image, roi=region)
        assert len(matches) > 100
        for points in (matches.keypoints0, matches.keypoints1):
            assert (points >= np.array(region[:2]) - 0.5).all()
            assert (points <= np.array(region[:2]) + region[2:] - 0.5).all()

    def test_the_view_still_counts_inside_the_region(self, matcher, frames):
        mask = np.zeros((320, 400), np.uint8)
        mask[:, :200] = 1
        prepared = matcher.prepare(frames[0].image, mask, (100, 0, 200, 320))
        assert prepared.view[:, 100:200].all()
        assert not prepared.view[:, :100].any()
        assert not prepared.view[:, 200:].any()

    def test_without_auto_everything_may_be_matched(self, matcher, frames):
        image = frames[0].image.copy()
        image[100:110, 100:110] = 255
        assert matcher.prepare(image, auto=False).usable.all()
        assert not matcher.prepare(image, auto=True).usable[105, 105]
        assert np.array_equal(matcher.prepare(image).usable, matcher.prepare(image, auto=True).usable)

    @pytest.mark.parametrize("region", [(300, 0, 200, 100), (-1, 0, 100, 100), (0, 0, 20, 100), (0, 300, 100, 100)])
    def test_what_does_not_fit_is_refused(self, matcher, frames, region):
        with pytest.raises(ImageError, match="400x320"):
            matcher.prepare(frames[0].image, None, region)


class TestKeyframe:
    def test_every_frame_is_matched_with_the_same_points_of_the_keyframe(self, matcher, scene, frames):
        stream = StreamMatcher(matcher, reference="keyframe")
        results = [stream.push(frame.image, index) for index, frame in enumerate(frames)]
        assert results[0] is None
        places = {}
        for time, matches in zip(TIMES[1:], results[1:], strict=True):
            assert matches.stamp0 == 0
            truth, visible = scene.correspondence(0.0, time, matches.keypoints0)
            error = np.linalg.norm(matches.keypoints1 - truth, axis=1)[visible]
            assert np.median(error) < 1.0
            for name, point in zip(matches.track_ids.tolist(), matches.keypoints0, strict=True):
                assert np.array_equal(places.setdefault(name, point), point)
        kept = np.isin(results[3].track_ids, results[1].track_ids).mean()
        assert kept > 0.7
        assert len(places) < 1.5 * len(results[1])  # no new names for old points

    def test_track_ids_live_on_through_a_change_of_keyframe(self, matcher, frames):
        stream = StreamMatcher(matcher, reference="keyframe")
        for index, frame in enumerate(frames[:3]):
            before = stream.push(frame.image, index)
        assert stream.set_keyframe()
        after = stream.push(frames[3].image, 3)
        assert (before.stamp0, after.stamp0) == (0, 2)
        _, i, j = np.intersect1d(before.track_ids, after.track_ids, return_indices=True)
        assert len(i) > 0.4 * len(before)
        assert np.array_equal(before.keypoints1[i], after.keypoints0[j])

    def test_track_lengths_count_frames(self, matcher, frames):
        stream = StreamMatcher(matcher)
        assert len(stream.track_lengths) == 0
        seen: dict[int, int] = {}
        for frame in frames:
            matches = stream.push(frame.image)
            ids = [] if matches is None else matches.track_ids.tolist()
            seen = {name: seen.get(name, 1) + 1 for name in ids}
        assert sorted(stream.track_lengths.tolist()) == sorted(seen.values())
        assert max(seen.values()) == len(frames)

    def test_an_empty_stream_has_no_keyframe_to_set(self, matcher):
        assert not StreamMatcher(matcher, reference="keyframe").set_keyframe()

    def test_unknown_reference(self, matcher):
        with pytest.raises(ConfigError, match="previous or keyframe"):
            StreamMatcher(matcher, reference="first")


class TestOtherCamera:
    def test_stereo_matches_carry_the_tracks_of_the_stream(self, matcher, scene, frames):
        stream = StreamMatcher(matcher)
        stream.push(frames[0].image, 0)
        temporal = stream.push(frames[1].image, 1)
        # Another camera of the moment: the same scene from somewhere else.
        other = matcher.extract(frames[2].image)
        stereo = stream.match_newest(other, 7)
        assert (stereo.stamp0, stereo.stamp1) == (1, 7)
        _, i, j = np.intersect1d(temporal.track_ids, stereo.track_ids, return_indices=True)
        assert len(i) > 0.4 * len(temporal)
        assert np.array_equal(temporal.keypoints1[i], stereo.keypoints0[j])
        truth, visible = scene.correspondence(TIMES[1], TIMES[2], stereo.keypoints0)
        assert np.median(np.linalg.norm(stereo.keypoints1 - truth, axis=1)[visible]) < 1.0
        # No step of the stream: the next frame is matched with the newest of its own camera, under the same names.
        after = stream.push(frames[2].image, 2)
        assert after.stamp0 == 1
        _, i, j = np.intersect1d(stereo.track_ids, after.track_ids, return_indices=True)
        assert len(i) > 0.8 * len(stereo)
        assert np.array_equal(stereo.keypoints0[i], after.keypoints0[j])

    def test_before_the_first_frame_there_is_nothing_to_match_with(self, matcher, frames):
        with pytest.raises(ConfigError, match="push a frame"):
            StreamMatcher(matcher).match_newest(matcher.extract(frames[0].image))


class TestKeyframeRules:
    RULES = KeyframeRules(min_overlap=0.5, min_inlier_ratio=0.4, min_matches=30, lost_frames=3)

    def due(self, watch, matches=100, coverage=0.8, ratio=0.9):
        return watch.due(matches, coverage, ratio, self.RULES)

    def test_overlap_is_relative_to_the_best_of_this_keyframe(self):
        watch = KeyframeWatch()
        assert [self.due(watch, coverage=c) for c in (0.3, 0.6, 0.31)] == ["", "", ""]
        assert self.due(watch, coverage=0.29) == "overlap"
        watch.restart()
        assert self.due(watch, coverage=0.29) == ""

    def test_inliers_count_only_where_there_is_a_geometry(self):
        watch = KeyframeWatch()
        assert self.due(watch, ratio=0.4) == ""
        assert self.due(watch, ratio=0.39) == "inliers"
        assert self.due(watch, ratio=float("nan")) == ""

    def test_only_a_row_of_lost_frames_gives_a_keyframe_up(self):
        watch = KeyframeWatch()
        lost = [self.due(watch, matches=n) for n in (29, 0, 30, 5, 5, 5)]
        assert lost == ["", "", "", "", "", "lost"]

    @pytest.mark.parametrize("values", [{"min_overlap": 1.1}, {"min_inlier_ratio": -0.1}, {"lost_frames": 0}])
    def test_rules_out_of_range(self, values):
        with pytest.raises(ConfigError, match=next(iter(values))):
            KeyframeRules(**values)
