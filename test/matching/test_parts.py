"""Similarity, flow field, masks, coordinates: each against an independent reference."""

import cv2
import numpy as np
import pytest
import torch
from support.flow import at, fit

from endomatch_ros.data.readers.sfm import SfmSequence
from endomatch_ros.data.synthetic import SceneConfig, SyntheticEndoscope
from endomatch_ros.errors import ConfigError, ImageError
from endomatch_ros.geometry.warping import resize_points
from endomatch_ros.matching import MatcherConfig
from endomatch_ros.matching.features import Window
from endomatch_ros.matching.similarity import locate, mutual_matches, sample_descriptors
from endomatch_ros.matching.view import check_image, check_mask, highlight_mask, view_mask

RNG = np.random.default_rng(0)


def unit(*shape):
    values = torch.from_numpy(RNG.standard_normal(shape))
    return values / values.norm(dim=0, keepdim=True)


@pytest.mark.parametrize("chunk", [1 << 24, 200])
def test_mutual_matches_against_brute_force(monkeypatch, chunk):
    monkeypatch.setattr("endomatch_ros.matching.similarity._CHUNK", chunk)
    map0, map1 = unit(8, 9, 11), unit(8, 10, 7)
    valid0, valid1 = torch.from_numpy(RNG.random((9, 11)) < 0.8), torch.from_numpy(RNG.random((10, 7)) < 0.8)
    s = map0.flatten(1).T.numpy() @ map1.flatten(1).numpy()
    s[~valid0.flatten().numpy()] = s[:, ~valid1.flatten().numpy()] = -9
    expected = {(i, s[i].argmax()) for i in range(99) if valid0.flatten()[i] and s[:, s[i].argmax()].argmax() == i}
    index0, index1, similarity = mutual_matches(map0, map1, valid0, valid1)
    assert set(zip(index0.tolist(), index1.tolist(), strict=True)) == expected
    assert len(expected) > 10
    assert np.allclose(similarity.numpy(), [s[i, j] for i, j in zip(index0, index1, strict=True)])


def test_a_permutation_is_found_again():
    map0 = unit(32, 12, 12)
    order = torch.from_numpy(RNG.permutation(144))
    map1 = map0.flatten(1)[:, order].unflatten(1, (12, 12))
    everywhere = torch.ones(12, 12, dtype=torch.bool)
    index0, index1, similarity = mutual_matches(map0, map1, everywhere, everywhere)
    assert len(index0) == 144
    assert torch.equal(order[index1], index0)
    assert torch.allclose(similarity, torch.ones_like(similarity))
    nowhere = ~everywhere
    assert len(mutual_matches(map0, map1, nowhere, everywhere)[0]) == 0
    assert len(mutual_matches(map0, map1, everywhere, nowhere)[0]) == 0


def test_tolerance_lets_the_way_back_end_beside():
    map0, map1 = unit(8, 9, 11), unit(8, 10, 7)
    everywhere0, everywhere1 = torch.ones(9, 11, dtype=torch.bool), torch.ones(10, 7, dtype=torch.bool)
    s = (map0.flatten(1).T @ map1.flatten(1)).numpy()
    for tolerance in (0, 1, 3):
        expected = set()
        for i in range(99):
            back = s[:, s[i].argmax()].argmax()
            if max(abs(back % 11 - i % 11), abs(back // 11 - i // 11)) <= tolerance:
                expected.add(i)
        found = mutual_matches(map0, map1, everywhere0, everywhere1, tolerance)[0]
        assert set(found.tolist()) == expected


def test_locate_is_the_expectation_around_the_best_cell_of_the_window():
    map1 = unit(6, 5, 5)
    anchor = unit(6, 1).T
    s = (anchor @ map1.flatten(1)).numpy().reshape(5, 5)
    found = locate(anchor, map1, torch.tensor([[1, 1]]), 3, 0.1)[0].numpy()
    y, x = np.unravel_index(s[1:4, 1:4].argmax(), (3, 3))
    y, x = y + 1, x + 1
    weights = np.exp(s[y - 1 : y + 2, x - 1 : x + 2] / 0.1)
    weights /= weights.sum()
    assert np.allclose(found, [x + (weights.sum(0) * [-1, 0, 1]).sum(), y + (weights.sum(1) * [-1, 0, 1]).sum()])
    corner = locate(anchor, map1, torch.tensor([[-1, -1]]), 2, 0.1)[0]
    assert (corner >= 0).all()
    assert (corner <= 1).all()


def test_locate_finds_a_planted_descriptor():
    map1 = unit(32, 20, 20)
    corners = torch.tensor([[3, 4], [10, 2], [14, 14]])
    cells = corners + torch.tensor([[5, 0], [2, 3], [5, 5]])
    anchors = torch.stack([map1[:, y, x] for x, y in cells.tolist()])
    assert torch.allclose(locate(anchors, map1, corners, 6, 1e-3), cells.double(), atol=1e-6)


def test_sampled_descriptors_at_cell_centres_are_the_cells():
    descriptors = unit(4, 6, 7)
    cells = torch.tensor([[0.0, 0.0], [6.0, 5.0], [3.0, 2.0]], dtype=torch.float64)
    expected = torch.stack([descriptors[:, 0, 0], descriptors[:, 5, 6], descriptors[:, 2, 3]])
    assert torch.allclose(sample_descriptors(descriptors, cells), expected)
    between = sample_descriptors(descriptors, torch.tensor([[3.5, 2.0]], dtype=torch.float64))[0]
    mean = (descriptors[:, 2, 3] + descriptors[:, 2, 4]) / 2
    assert torch.allclose(between, mean / mean.norm())


def test_window_coordinates_against_the_resize_convention():
    window = Window(x=40, y=30, width=200, height=120, net_width=64, net_height=48)
    points = RNG.uniform(30, 150, (50, 2))
    expected = resize_points(points - [40, 30], (200, 120), (64, 48))
    assert np.allclose(window.to_cells(points, 1.0), expected)
    assert np.allclose(window.to_cells(points, 4.0), resize_points(expected, (64, 48), (16, 12)))
    assert np.allclose(window.to_source(window.to_cells(points, 4.0), 4.0), points)


def affine_flow(points):
    return points @ np.array([[0.04, -0.08], [0.06, 0.02]]) + [12.0, -7.0]


def test_the_flow_field_reproduces_an_affine_motion_despite_outliers():
    points = RNG.uniform(0, [320, 240], (1500, 2))
    flow = affine_flow(points)
    wrong = RNG.random(1500) < 0.35
    flow[wrong] += RNG.normal(0, 60, (wrong.sum(), 2))
    field, residual = fit(points, flow, (320, 240), spacing=9)
    inner = RNG.uniform(20, [300, 220], (400, 2))
    error = np.linalg.norm(at(field, inner) - affine_flow(inner), axis=1)
    assert np.median(error) < 0.5
    assert np.percentile(error, 95) < 2.0
    assert np.median(residual[wrong]) > 20 * np.median(residual[~wrong])
    assert np.allclose(residual, np.linalg.norm(at(field, points) - flow, axis=1), atol=1e-3)


def test_a_clean_affine_motion_is_nearly_exact():
    points = RNG.uniform(0, [320, 240], (1500, 2))
    field, _ = fit(points, affine_flow(points), (320, 240), spacing=9)
    inner = RNG.uniform(30, [290, 210], (400, 2))
    # The ridge bends slopes a little.
    assert np.abs(at(field, inner) - affine_flow(inner)).max() < 0.6


def test_few_and_collinear_matches_give_a_finite_field():
    for points in (np.array([[5.0, 5.0]]), np.column_stack([np.linspace(0, 90, 20), np.full(20, 40.0)])):
        field, _ = fit(points, np.full(points.shape, 3.0), (100, 80), spacing=7)
        assert torch.isfinite(field.nodes).all()
        assert np.abs(at(field, points) - 3.0).max() < 0.1


def test_matches_of_no_weight_do_not_count():
    points, flow = RNG.uniform(0, [100, 80], (60, 2)), RNG.normal(0, 4, (60, 2))
    counts = np.arange(60) < 40
    field, residual = fit(points, np.where(counts[:, None], flow, 1e3), (100, 80), spacing=7, weights=counts)
    alone, _ = fit(points[:40], flow[:40], (100, 80), spacing=7)
    assert torch.allclose(field.nodes, alone.nodes, atol=1e-3)
    assert (residual[40:] > 500).all()
    nothing, _ = fit(points, flow, (100, 80), spacing=7, weights=np.zeros(60))
    assert torch.isfinite(nothing.nodes).all()


@pytest.mark.parametrize("kind", ["tunnel", "cavity"])
def test_the_view_is_found_to_within_its_margin(kind):
    frame = SyntheticEndoscope(SceneConfig(seed=3, kind=kind, width=320, height=256)).render(0.0)
    found = view_mask(frame.image)
    assert (found & ~frame.mask).sum() <= 0.002 * frame.mask.sum()
    assert (found & frame.mask).sum() > 0.9 * frame.mask.sum()


def test_the_view_of_a_real_scope_against_its_given_mask(sinus):
    sequence = SfmSequence(sinus)
    for position in (0, 17, 34):
        frame = sequence[position]
        found = view_mask(frame.image)
        assert not (found & ~frame.mask).any()
        assert (found & frame.mask).sum() > 0.92 * frame.mask.sum()
        assert 0.002 < highlight_mask(frame.image)[frame.mask].mean() < 0.05


def test_a_dark_lumen_belongs_to_the_view():
    image = np.zeros((200, 200, 3), np.uint8)
    cv2.circle(image, (100, 100), 90, (180, 90, 80), -1)
    cv2.circle(image, (110, 100), 40, (2, 1, 1), -1)
    assert view_mask(image)[100, 110]


def test_overlay_text_and_noise_outside_the_view_do_not_count():
    image = RNG.integers(0, 9, (300, 400, 3), dtype=np.uint8)
    cv2.circle(image, (230, 150), 120, (180, 90, 80), -1)
    cv2.putText(image, "12:30", (5, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1)
    view = view_mask(image)
    assert not view[:, :100].any()
    assert view[150, 230]


def test_an_image_without_surround_is_view_throughout_and_a_black_one_nowhere():
    assert view_mask(RNG.integers(60, 200, (120, 160, 3), dtype=np.uint8)).all()
    assert not view_mask(np.zeros((120, 160, 3), np.uint8)).any()
    assert not view_mask(RNG.integers(0, 10, (120, 160, 3), dtype=np.uint8)).any()


def test_highlights_are_white_not_red():
    image = np.full((100, 100, 3), (120, 60, 50), np.uint8)
    image[20:30, 20:30] = (255, 250, 245)
    image[60:80, 60:80] = (255, 90, 80)
    found = highlight_mask(image)
    assert found[20:30, 20:30].all()
    assert found[25, 17:33].sum() > 10  # and a margin
    assert not found[25, :15].any()
    assert not found[55:85, 55:85].any()


def test_bad_images_and_masks_are_named():
    good = np.zeros((40, 50, 3), np.uint8)
    assert check_image(good) is good
    for bad in (good[..., 0], good.astype(np.float32), np.zeros((40, 50, 4), np.uint8), good[:10], [[1]], None):
        with pytest.raises(ImageError, match="image"):
            check_image(bad)
    for bad in (np.zeros((50, 40), bool), np.zeros((40, 50)), "auto"):
        with pytest.raises(ImageError, match="mask"):
            check_mask(bad, good)
    assert check_mask(np.full((40, 50), 255, np.uint8), good).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("resolution", 10),
        ("resolution", 512.5),
        ("similarity_threshold", 1.5),
        ("similarity_threshold", float("nan")),
        ("max_keypoints", 0),
        ("max_keypoints", True),
        ("forward_backward_px", 0.0),
        ("refinement", "magic"),
        ("mask", "circle"),
    ],
)
def test_bad_settings_name_the_value(name, value):
    with pytest.raises(ConfigError, match=f"{name}="):
        MatcherConfig(**{name: value})
    with pytest.raises(ConfigError, match="unknown setting 'speed'"):
        MatcherConfig().changed(speed=3)
