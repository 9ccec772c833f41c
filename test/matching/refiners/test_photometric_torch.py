"""The engine of the refinement in PyTorch: against OpenCV, against motion that is known, and fit for a CUDA graph."""

import cv2
import numpy as np
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from endomatch_ros.matching.refiners.dense_flow import dense_flow
from endomatch_ros.matching.refiners.photometric_torch import (
    cell_maxima,
    flow_both_ways,
    grey_copy,
    holding,
    min_eigenvalue,
    normalise,
    sample,
    warp,
)

RNG = np.random.default_rng(5)


def texture(width, height, sigma=2.0):
    noise = cv2.GaussianBlur(RNG.normal(0, 1, (height, width)), (0, 0), sigma)
    return np.clip(128 + 45 * noise / noise.std(), 0, 255).astype(np.uint8)


def tensor(image):
    return torch.from_numpy(image).float()


def smooth_motion(width, height):
    """A displacement ``(height, width, 2)`` px of up to some 8 px that changes by up to 10 % of the distance."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    u = 4 * np.sin(y / 47) + 0.02 * (x - width / 2)
    v = 3 * np.cos(x / 41) - 0.03 * (y - height / 2)
    return np.dstack([u, v]).astype(np.float32)


def moved(image, motion):
    """The picture that, sampled at a pixel plus ``motion`` there, gives ``image``; and ``image`` as it then is."""
    height, width = image.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return cv2.remap(image, x + motion[..., 0], y + motion[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


@pytest.mark.parametrize("size", [(512, 410), (200, 160), (640, 512)])
def test_the_grey_copy_against_opencv(size):
    window = RNG.integers(0, 256, (512, 640, 3), dtype=np.uint8)
    expected = cv2.resize(cv2.cvtColor(window, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)
    found = grey_copy(torch.from_numpy(window), size).numpy()
    assert np.abs(found - expected).max() <= 1
    assert (found == expected).mean() > 0.98


@pytest.mark.parametrize("size", [(320, 256), (211, 300)])
def test_normalisation_against_opencv(size):
    grey = texture(*size)
    usable = cv2.circle(np.zeros_like(grey), (size[0] // 2, size[1] // 2), min(size) * 3 // 5, 1, -1)
    usable[40:60, 100:140] = 0
    levels, weight = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), 0.5), usable.astype(np.float32)
    side = 2 * round(0.045 * max(size) / 2) + 1
    total = np.maximum(cv2.boxFilter(weight, -1, (side, side)), 1e-3)
    mean = cv2.boxFilter(levels * weight, -1, (side, side)) / total
    variance = cv2.sqrBoxFilter(levels * weight, -1, (side, side)) / total - mean**2
    contrast = weight * (levels - mean) / (np.sqrt(np.maximum(variance, 0)) + 4)
    expected = np.clip(contrast * 40 + 128.5, 0, 255).astype(np.uint8)
    found = normalise(tensor(grey), torch.from_numpy(usable > 0)).numpy()
    assert np.abs(found - expected).max() <= 1
    assert (found == expected).mean() > 0.98
    assert (found[usable == 0] == 128).all()


def test_warp_against_opencv():
    image = texture(90, 70)
    maps = [np.round(RNG.uniform(-9, 99, (40, 50)) * 32).astype(np.float32) / 32 for _ in "xy"]  # OpenCV rounds to 1/32
    expected = cv2.remap(image.astype(np.float32), *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    assert np.abs(warp(tensor(image), *map(torch.from_numpy, maps)).numpy() - expected).max() < 0.01


def test_a_sample_is_the_warp_at_points_for_every_channel():
    field = torch.from_numpy(RNG.normal(0, 5, (2, 20, 30)).astype(np.float32))
    points = torch.from_numpy(RNG.uniform(-5, 40, (100, 2)).astype(np.float32))
    expected = torch.stack([warp(channel, points[None, :, 0], points[None, :, 1])[0] for channel in field], dim=1)
    assert torch.allclose(sample(field, points), expected, atol=1e-5)


@pytest.mark.parametrize("block", [3, 5])
def test_the_smaller_eigenvalue_against_opencv(block):
    image = texture(120, 90)
    expected = cv2.cornerMinEigenVal(image, block, ksize=3)
    assert np.allclose(min_eigenvalue(tensor(image), block).numpy(), expected, rtol=1e-3, atol=1e-5 * expected.max())


def test_the_strongest_pixel_of_each_cell_against_a_loop():
    response = RNG.uniform(0, 1, (35, 50)).astype(np.float32)
    usable = RNG.uniform(0, 1, (35, 50)) < 0.3
    usable[:8, 8:16] = False
    points, scores = cell_maxima(torch.from_numpy(response), torch.from_numpy(usable), 8)
    corners = [(x, y) for y in range(0, 35, 8) for x in range(0, 50, 8)]
    assert len(points) == len(scores) == len(corners)
    for (x, y), (px, py), score in zip(corners, points.int().tolist(), scores.tolist(), strict=True):
        cell = np.where(usable, response, 0)[y : y + 8, x : x + 8]
        assert score == cell.max()
        assert (x, y) <= (px, py) < (x + 8, y + 8)
        assert score == 0 or response[py, px] == score


@pytest.fixture(scope="module")
def pair():
    """A picture, another that shows it moved, and the motion from the first to the second."""
    picture = texture(259, 214, 3.0)
    motion = smooth_motion(259, 214)
    return moved(picture, motion), picture, motion


def inner(field):
    return field[24:-24, 24:-24].reshape(-1, 2)


def test_the_flow_is_the_motion_to_a_fraction_of_a_pixel_both_ways(pair):
    first, second, motion = pair
    there, back = flow_both_ways(tensor(first), tensor(second), 1)
    error = np.linalg.norm(inner(there.permute(1, 2, 0).numpy() - motion), axis=1)
    assert np.median(error) < 0.12
    assert np.percentile(error, 95) < 0.3
    y, x = np.mgrid[:214, :259].astype(np.float32)
    points = torch.from_numpy(inner(np.dstack([x, y])))
    found = points + sample(there, points)
    returned = found + sample(back, found)
    assert (returned - points).norm(dim=1).median() < 0.2


@pytest.mark.parametrize("level", [0, 1, 2])
def test_the_flow_against_opencv(pair, level):
    first, second, _ = pair
    both = flow_both_ways(tensor(first), tensor(second), level).permute(0, 2, 3, 1).numpy()
    for found, images in zip(both, [(first, second), (second, first)], strict=True):
        difference = np.linalg.norm(inner(found - dense_flow(*images, level)), axis=1)
        assert np.median(difference) < 0.02 * 2**level
        assert np.percentile(difference, 90) < 0.1 * 2**level


def test_two_levels_are_enough_for_a_small_motion(pair):
    first, second = map(tensor, pair[:2])
    difference = flow_both_ways(first, second, 1, count=2) - flow_both_ways(first, second, 1)
    difference = inner(difference[0].permute(1, 2, 0)).norm(dim=1)
    assert difference.median() < 0.02
    assert difference.quantile(0.9) < 0.1


def test_identical_images_give_no_flow_and_flat_ones_nothing_else():
    image = tensor(texture(128, 96))
    assert flow_both_ways(image, image, 1).abs().max() < 1e-3
    assert flow_both_ways(torch.full((96, 128), 77.0), torch.full((96, 128), 99.0), 1).abs().max() < 1e-3


@pytest.mark.parametrize("size", [(8, 8), (9, 31), (40, 33), (64, 200)])
def test_the_flow_takes_small_images_at_any_level(size):
    first, second = texture(*size), texture(*size)
    for level in (0, 2, 5):
        flow = flow_both_ways(tensor(first), tensor(second), level)
        assert flow.shape == (2, 2, size[1], size[0])
        assert flow.isfinite().all()


def everything(window, other, usable):
    """All of the engine's functions, on values that the caller's device holds."""
    pictures = [normalise(grey_copy(image, (96, 80)), usable) for image in (window, other)]
    points, scores = cell_maxima(min_eigenvalue(pictures[0], 5), usable, 6)
    there, back = flow_both_ways(pictures[0], warp(pictures[1], *pictures), 1)
    found = points + sample(there, points)
    return found + sample(back, found), scores


def test_all_shapes_are_known_without_any_value():
    images = torch.empty(2, 96, 108, 3, dtype=torch.uint8, device="meta")
    # A tensor without values can neither be read by the host nor decide a shape or a branch.
    targets, scores = everything(*images, torch.empty(80, 96, dtype=torch.bool, device="meta"))
    assert targets.shape == (14 * 16, 2)
    assert scores.shape == (14 * 16,)


def tensors(values):
    """All tensors in what the engine's constants are made of."""
    if isinstance(values, torch.Tensor):
        return [values]
    parts = values if isinstance(values, (list, tuple)) else [values.rows, values.columns]
    return [tensor for part in parts for tensor in tensors(part)]


def test_what_is_recorded_on_one_pair_of_frames_gives_the_results_of_another():
    frames = torch.from_numpy(RNG.integers(0, 256, (2, 2, 96, 108, 3), dtype=np.uint8))
    masks = torch.from_numpy(RNG.uniform(0, 1, (2, 80, 96)) < 0.7)
    # As a CUDA graph does: it would repeat values that came from the host, and branches that were taken.
    everything(*frames[0], masks[0])
    with holding() as held:
        graph = make_fx(everything)(*frames[0], masks[0])
    for found, expected in zip(graph(*frames[1], masks[1]), everything(*frames[1], masks[1]), strict=True):
        assert torch.equal(found, expected)
    assert "aten._local_scalar_dense" not in graph.code
    assert "aten.nonzero" not in graph.code
    constants = {getattr(graph, node.target).data_ptr() for node in graph.graph.nodes if node.op == "get_attr"}
    assert len(constants) > 20
    assert constants <= {tensor.data_ptr() for tensor in tensors(held)}
