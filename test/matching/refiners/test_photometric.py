"""The refinement: dense flow, the corrected field, and points whose coarse matches are wrong."""

import cv2
import numpy as np
import pytest
import torch
from support.flow import coarse_matches, fit, tensor

from endomatch_ros.data.synthetic import SceneConfig, SyntheticEndoscope
from endomatch_ros.matching import Matcher
from endomatch_ros.matching.coarse import CoarseMatches
from endomatch_ros.matching.features import FrameFeatures, Window
from endomatch_ros.matching.keypoints import detect
from endomatch_ros.matching.refiners.dense_flow import dense_flow
from endomatch_ros.matching.refiners.field import bilinear
from endomatch_ros.matching.refiners.opencv_engine import residual_flows
from endomatch_ros.matching.refiners.photometric import _agree, _Followed, refine

RNG = np.random.default_rng(11)


def texture(width, height, sigma=3.0):
    noise = cv2.GaussianBlur(RNG.normal(0, 1, (height, width)), (0, 0), sigma)
    return np.clip(128 + 45 * noise / noise.std(), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_dense_flow_finds_a_shift_to_a_fraction_of_a_pixel(level):
    image = texture(320, 256, sigma=2.0 * 2**level)
    shift = np.array([1.375, -2.25])
    moved = cv2.warpAffine(image, np.array([[1, 0, shift[0]], [0, 1, shift[1]]]), (320, 256), flags=cv2.INTER_CUBIC)
    flow = dense_flow(image, moved, level)[32:-32, 32:-32].reshape(-1, 2)
    error = np.linalg.norm(flow - shift, axis=1)
    assert np.median(error) < 0.08 * 2**level
    assert np.percentile(error, 99) < 0.5 * 2**level


def test_dense_flow_gives_the_same_bits_with_any_number_of_threads():
    first, second = texture(320, 256), texture(320, 256)
    threads = cv2.getNumThreads()
    try:
        results = []
        for count in (1, 2, 4):
            cv2.setNumThreads(count)
            results.append(dense_flow(first, second, 1))
    finally:
        cv2.setNumThreads(threads)
    assert all(np.array_equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("size", [(32, 32), (40, 33), (64, 200)])
def test_dense_flow_takes_small_images_at_any_level(size):
    image = texture(*size)
    for level in range(5):
        assert np.isfinite(dense_flow(image, image, level)).all()


def test_bilinear_against_opencv():
    grid = RNG.normal(0, 5, (20, 30, 2)).astype(np.float32)
    points = np.floor(RNG.uniform([0, 0], [29, 19], (500, 2)) * 32) / 32  # OpenCV rounds to 1/32
    expected = cv2.remap(grid, *points.astype(np.float32).T[:, :, None], cv2.INTER_LINEAR)[:, 0]

    def sampled(places):
        return bilinear(tensor(grid).permute(2, 0, 1), tensor(places) + 0.5, (30, 20)).numpy()

    assert np.abs(sampled(points) - expected).max() < 1e-4
    outside = np.array([[-5.0, 3.0], [99.0, 3.0], [4.0, -1.0], [4.0, 77.0]])
    assert np.allclose(sampled(outside), [grid[3, 0], grid[3, 29], grid[0, 4], grid[19, 4]], atol=1e-4)


def test_a_weight_counts_like_repeating_the_match():
    points, flow = RNG.uniform(0, [100, 80], (60, 2)), RNG.normal(0, 4, (60, 2))
    weights = RNG.integers(1, 4, 60)
    weighted, _ = fit(points, flow, (100, 80), spacing=7, weights=weights)
    repeated, _ = fit(np.repeat(points, weights, 0), np.repeat(flow, weights, 0), (100, 80), spacing=7)
    assert torch.allclose(weighted.nodes, repeated.nodes, atol=1e-3)


@pytest.fixture(scope="module")
def pair():
    """Two frames of a rendered scene with their features, exact coarse matches and the truth."""
    scene = SyntheticEndoscope(SceneConfig(seed=10011, kind="cavity", width=640, height=512))
    times = 0.0, 0.4
    frames = [scene.render(t) for t in times]
    matcher = Matcher.from_pretrained("embedded", device="cpu")
    features = [matcher.extract(frame.image, frame.mask) for frame in frames]
    ys, xs = np.nonzero(features[0].usable[::16, ::16])
    grid = np.column_stack([xs, ys]) * 16.0

    def truth(points):
        return scene.correspondence(*times, np.asarray(points, np.float64))

    targets, visible = truth(grid)
    return features, coarse_matches(grid[visible], targets[visible]), truth


def errors(pair, coarse, limit=1.0):
    features, _, truth = pair
    points = detect(features[0], 1500)
    targets, good = (part.numpy() for part in refine(*features, tensor(points), coarse, limit, residual_flows))
    expected, visible = truth(points)
    return np.linalg.norm(targets - expected, axis=1)[good & visible], int(good.sum()), int(visible.sum())


def test_targets_are_right_to_a_fraction_of_a_pixel(pair):
    error, kept, visible = errors(pair, pair[1])
    assert kept > 0.7 * visible
    assert np.median(error) < 0.3
    assert (error < 1.0).mean() > 0.93
    assert (error < 3.0).mean() > 0.99


def test_a_region_of_wrong_coarse_matches_is_reached_from_its_neighbours(pair):
    exact = pair[1]
    hurt = exact.points1.clone()
    # Between its neighbours' pull and its own matches the field is wrong by some 5 pixels here.
    inside = (exact.points0 - tensor([320, 256])).norm(dim=1) < 60
    assert inside.sum() > 20
    hurt[inside] += tensor([6.0, -6.0])
    error, kept, _ = errors(pair, CoarseMatches(exact.points0, hurt, exact.similarity))
    _, before, _ = errors(pair, exact)
    assert kept > 0.95 * before
    assert (error < 1.0).mean() > 0.92


def test_a_smaller_forward_backward_limit_keeps_fewer_and_better_points(pair):
    strict, few, _ = errors(pair, pair[1], 0.1)
    loose, many, _ = errors(pair, pair[1], 2.0)
    assert few < many
    assert (strict < 1).mean() > (loose < 1).mean()


def test_a_zoomed_texture_with_shifted_coarse_matches_against_the_closed_form():
    image = texture(400, 400, sigma=2.5)
    zoom = np.array([[1.25, 0, -50], [0, 1.25, -50]])
    moved = cv2.warpAffine(image, zoom, (400, 400), flags=cv2.INTER_CUBIC)
    everywhere = np.ones((400, 400), bool)
    frames = [
        FrameFeatures(
            image=np.repeat(picture[..., None], 3, axis=2),
            usable=everywhere,
            view=everywhere,
            window=Window(0, 0, 400, 400, 256, 256),
            descriptors=torch.zeros(1, 32, 32),
            cell=8.0,
            temperature=0.1,
            tokens=torch.zeros(1, 8, 8),
        )
        for picture in (image, moved)
    ]
    ys, xs = np.mgrid[48:353:16, 48:353:16]
    grid = np.column_stack([xs.ravel(), ys.ravel()]).astype(np.float64)
    points = RNG.uniform(80, 320, (300, 2)).astype(np.float32)
    # All coarse matches are off: what the flow finds must be added where it was found, not where it started.
    coarse = coarse_matches(grid, grid @ zoom[:, :2].T + zoom[:, 2] + [4, -3])
    targets, good = (part.numpy() for part in refine(*frames, tensor(points), coarse, 1.0, residual_flows))
    error = np.linalg.norm(targets - (points @ zoom[:, :2].T + zoom[:, 2]), axis=1)[good]
    assert good.mean() > 0.9
    assert np.median(error) < 0.25
    assert np.percentile(error, 90) < 0.6


def test_points_of_another_scene_are_refused(pair):
    features, coarse, _ = pair
    other = SyntheticEndoscope(SceneConfig(seed=10020, kind="tunnel", width=640, height=512)).render(0.3)
    strange = Matcher.from_pretrained("embedded", device="cpu").extract(other.image, other.mask)
    points = detect(features[0], 1500)
    _, good = refine(features[0], strange, tensor(points), coarse, 1.0, residual_flows)
    assert good.float().mean() < 0.1


def test_too_few_coarse_matches_give_nothing(pair):
    features, coarse, _ = pair
    points = detect(features[0], 100)
    few = CoarseMatches(coarse.points0[:5], coarse.points1[:5], coarse.similarity[:5])
    targets, good = refine(*features, tensor(points), few, 1.0, residual_flows)
    assert not good.any()
    assert torch.equal(targets, tensor(points))


def test_each_limit_of_a_pass_refuses_on_its_own():
    there_and_back, correction = torch.tensor([0.1, 0.9, 0.1, 0.1]), torch.tensor([1.0, 1.0, 4.0, 1.0])
    inside = torch.tensor([True, True, True, False])
    found = _Followed(torch.zeros(4, 2), there_and_back, correction, inside)
    assert found.within(0.5, 3.0).tolist() == [True, False, False, False]
    assert found.within(1.0, 5.0).tolist() == [True, True, True, False]


def test_a_match_against_the_motion_of_its_neighbours_is_refused(pair):
    features = pair[0][0]
    w = features.window
    points = RNG.uniform([w.x, w.y], [w.x + w.width, w.y + w.height], (600, 2)).astype(np.float32)
    targets = points + np.float32([12, -5]) + 0.02 * points
    wrong = np.arange(600) % 30 == 0
    targets[wrong] += np.float32([25, 25])

    def agreeing(good):
        return _agree(tensor(points), tensor(targets), torch.from_numpy(good), features).numpy()

    kept = agreeing(np.ones(600, bool))
    assert not kept[wrong].any()
    assert kept[~wrong].mean() > 0.97
    # What was refused before stays refused, and does not count as a neighbour.
    assert not agreeing(wrong)[~wrong].any()
    assert not agreeing(np.arange(600) < 5).any()
