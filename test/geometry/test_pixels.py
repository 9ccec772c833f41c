"""Resizing, sampling grids, back-projection, and coverage."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional

from endomatch_ros.geometry.camera import Camera
from endomatch_ros.geometry.coverage import coverage
from endomatch_ros.geometry.warping import back_project, pixels_to_grid, project, resize_matrix, resize_points

K = np.array([[677.0, 0.0, 320.0], [0.0, 690.0, 256.0], [0.0, 0.0, 1.0]])


def test_resize_maps_pixels_as_opencv_does() -> None:
    # A ramp's value is its coordinate, so a resized ramp says where each new pixel came from.
    size, small = (640, 480), (160, 240)
    ramp = np.stack(np.meshgrid(np.arange(640.0), np.arange(480.0)), axis=-1)
    resized = cv2.resize(ramp, small, interpolation=cv2.INTER_LINEAR)
    points = np.stack(np.meshgrid(np.arange(160.0), np.arange(240.0)), axis=-1)
    np.testing.assert_allclose(resize_points(points, small, size), resized, atol=1e-3)


def test_resize_matrix_is_the_same_map_and_corners_stay_corners() -> None:
    points = np.random.default_rng(0).uniform(0, 400, (20, 2))
    matrix = resize_matrix((640, 480), (960, 120))
    mapped = np.column_stack([points, np.ones(20)]) @ matrix.T
    np.testing.assert_allclose(mapped[:, :2], resize_points(points, (640, 480), (960, 120)))
    np.testing.assert_allclose(
        resize_points([[-0.5, -0.5], [639.5, 479.5]], (640, 480), (960, 120)), [[-0.5, -0.5], [959.5, 119.5]]
    )


def test_grid_samples_the_named_pixels() -> None:
    image = torch.rand(1, 1, 7, 11, dtype=torch.float64)
    pixels = torch.tensor([[0.0, 0.0], [10.0, 6.0], [3.0, 5.0], [2.5, 4.0]], dtype=torch.float64)
    sampled = functional.grid_sample(image, pixels_to_grid(pixels, (11, 7))[None, None], align_corners=False)[0, 0, 0]
    plane = image[0, 0]
    expected = torch.stack([plane[0, 0], plane[6, 10], plane[5, 3], (plane[4, 2] + plane[4, 3]) / 2])
    torch.testing.assert_close(sampled, expected)


def test_back_projection_and_projection_agree_with_the_camera() -> None:
    camera = Camera(K, np.zeros(5), "plumb_bob", (640, 512))
    rng = np.random.default_rng(0)
    pixels, depth = rng.uniform(0, 500, (50, 2)), rng.uniform(1, 9, 50)
    points = back_project(torch.tensor(pixels), torch.tensor(depth), torch.tensor(K))
    np.testing.assert_allclose(points, camera.rays(pixels) * depth[:, None], atol=1e-9)
    again, z = project(points, torch.tensor(K))
    np.testing.assert_allclose(again, pixels, atol=1e-9)
    np.testing.assert_allclose(z, depth)


def test_projection_broadcasts_and_keeps_gradients_finite() -> None:
    points = torch.tensor([[0.1, 0.2, 2.0], [0.1, 0.2, 0.0], [0.1, 0.2, -1.0]], requires_grad=True)
    pixels, _ = project(points.expand(2, 3, 3), torch.tensor(K, dtype=torch.float32).expand(2, 1, 3, 3))
    assert pixels.shape == (2, 3, 2)
    assert torch.isnan(pixels[:, 1:]).all()
    pixels[:, 0].sum().backward()
    assert torch.isfinite(points.grad).all()


def brute_force_coverage(points: np.ndarray, mask: np.ndarray) -> float:
    height, width = mask.shape
    total = hit = 0
    for row in range(16):
        for column in range(16):
            ys, xs = (
                slice(row * height // 16, (row + 1) * height // 16),
                slice(column * width // 16, (column + 1) * width // 16),
            )
            if mask[ys, xs].mean() < 0.5:
                continue
            total += 1
            hit += any(ys.start - 0.5 <= y < ys.stop - 0.5 and xs.start - 0.5 <= x < xs.stop - 0.5 for x, y in points)
    return hit / total


@pytest.mark.parametrize("size", [(160, 320), (1024, 1280)])
def test_coverage_counts_cells_of_the_view(size: tuple[int, int]) -> None:
    height, width = size
    ys, xs = np.mgrid[:height, :width]
    mask = (xs - width / 2) ** 2 + (ys - height / 2) ** 2 < (height * 0.45) ** 2
    points = np.random.default_rng(0).uniform(-20, width, (120, 2))
    assert coverage(points, mask) == pytest.approx(brute_force_coverage(points, mask))
    assert coverage(points, mask.astype(np.uint8) * 255) == coverage(points, mask)


def test_coverage_of_all_none_and_strange_sizes() -> None:
    mask = np.ones((479, 641), bool)
    every = np.stack(np.meshgrid(np.arange(0, 641, 7.0), np.arange(0, 479, 7.0)), axis=-1).reshape(-1, 2)
    assert coverage(every, mask) == 1.0
    assert coverage(np.zeros((0, 2)), mask) == 0.0
    assert coverage(every, ~mask) == 0.0
    assert coverage([[np.nan, 3.0], [-5.0, 3.0], [641.0, 3.0]], mask) == 0.0
    assert coverage([[640.49, 478.49], [-0.5, -0.5]], mask) == pytest.approx(2 / 256)
