"""A small model, optimised on one pair whose true field is known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from endomatch_ros.geometry.affine import AffineLimits, bounded_matrix
from endomatch_ros.geometry.fields import affine_field, compose_affine, folding_percent, identity_grid, warp
from endomatch_ros.gvsl.config import GvslConfig
from endomatch_ros.gvsl.losses import LossConfig, gvsl_loss
from endomatch_ros.gvsl.model import GvslModel, GvslOutput

SPATIAL = (38, 45)


def blobs(seed: int = 0) -> torch.Tensor:
    """Gaussian blobs of several sizes, (1, 1, *SPATIAL) in [0, 1]."""
    rng = np.random.default_rng(seed)
    grid = identity_grid(SPATIAL)[0].numpy()
    image = np.zeros(SPATIAL)
    for _ in range(30):
        centre, width = rng.uniform(0, SPATIAL), rng.uniform(1.5, 4)
        distance = ((grid - centre[:, None, None]) ** 2).sum(0)
        image = np.maximum(image, rng.uniform(0.3, 1) * np.exp(-distance / (2 * width**2)))
    return torch.from_numpy(image).float().view(1, 1, *SPATIAL)


def true_matrix(degrees: float, scale: tuple[float, float]) -> torch.Tensor:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = torch.tensor([[cos, -sin], [sin, cos]]) @ torch.diag(torch.tensor(scale))
    return torch.cat([turn, torch.tensor([[1.0], [-1.5]])], dim=1).unsqueeze(0)


def wavy(amplitude: float) -> torch.Tensor:
    rng = np.random.default_rng(5)
    parts = np.stack([ndimage.gaussian_filter(rng.standard_normal(SPATIAL), 6) for _ in SPATIAL])
    return torch.from_numpy(parts * amplitude / np.abs(parts).max()).float().unsqueeze(0)


def optimise(moving: torch.Tensor, fixed: torch.Tensor, steps: int, **options: Any) -> GvslOutput:
    torch.manual_seed(0)
    model = GvslModel(GvslConfig(**{"spatial_dims": 2, "channels": (8, 16, 16), **options}))
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    config = LossConfig(smoothness=0.1)
    for _ in range(steps):
        optimiser.zero_grad()
        gvsl_loss(model(moving, fixed), {"clean": moving, "fixed": fixed}, config).total.backward()
        optimiser.step()
    with torch.no_grad():
        return model(moving, fixed)


def end_point_error(field: torch.Tensor, truth: torch.Tensor) -> float:
    """Mean over the pixels that the true field finds well inside the moving image, px."""
    target = identity_grid(SPATIAL) + truth
    sizes = torch.tensor(SPATIAL).view(1, 2, 1, 1)
    inside = ((target > 4) & (target < sizes - 5)).all(1)
    return float((field - truth).norm(dim=1)[inside].mean())


def overlap(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a > 0.4, b > 0.4
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_known_deformation_is_found() -> None:
    """Affine map and smooth field, 2.8 px on average: found to a fraction of a pixel, without folds."""
    moving = blobs()
    truth = compose_affine(true_matrix(8, (1.06, 0.95)), wavy(2.5))
    fixed = warp(moving, truth)
    assert end_point_error(torch.zeros_like(truth), truth) > 2.5
    assert overlap(moving, fixed) < 0.8
    output = optimise(moving, fixed, 160)
    assert end_point_error(output.field, truth) < 0.4
    assert end_point_error(output.affine, truth) < 2.0  # the affine stage takes its share
    assert overlap(output.warped, fixed) > 0.95
    assert folding_percent(output.field).item() == 0


def test_the_affine_stage_alone_finds_two_rotations_and_scales_at_once() -> None:
    """One batch, one map for each pair: 10° with scales 1.1 and 0.92, −8° with 0.95 and 1.05."""
    moving = torch.cat([blobs(0), blobs(1)])
    matrices = torch.cat([true_matrix(10, (1.1, 0.92)), true_matrix(-8, (0.95, 1.05))])
    output = optimise(moving, warp(moving, affine_field(matrices, SPATIAL)), 200, deformable=False)
    torch.testing.assert_close(output.matrix[..., :2], matrices[..., :2], atol=0.02, rtol=0)
    torch.testing.assert_close(output.matrix[..., 2], matrices[..., 2], atol=0.2, rtol=0)


def test_a_volume_is_turned_back() -> None:
    """A rotation about all three axes, 0.8 voxels on average inside, found by both stages together."""
    spatial = (17, 20, 15)
    rng = np.random.default_rng(0)
    moving = torch.from_numpy(ndimage.gaussian_filter(rng.random(spatial), 1.7)).float()
    moving = ((moving - moving.min()) / (moving.max() - moving.min())).view(1, 1, *spatial)
    raw = torch.zeros(1, 12)
    raw[0, :6] = torch.tensor([0.4, -0.3, 0.3, 0.2, -0.2, 0.1])
    truth = affine_field(bounded_matrix(raw, spatial, AffineLimits()), spatial)
    output = optimise(moving, warp(moving, truth), 60, spatial_dims=3, integration_steps=3)
    inside = (slice(None), slice(None), *[slice(3, -3)] * 3)
    before, after = (x[inside].norm(dim=1).mean() for x in (truth, output.field - truth))
    assert before > 0.7
    assert after < 0.3 * before
    assert folding_percent(output.field).item() < 0.1
