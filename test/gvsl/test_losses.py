"""The losses against float64 references and closed forms."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from monai.losses import DiffusionLoss, LocalNormalizedCrossCorrelationLoss
from scipy import ndimage

from endomatch_ros.errors import ConfigError, ImageError
from endomatch_ros.geometry.fields import affine_field
from endomatch_ros.gvsl.losses import (
    LossConfig,
    correlation_loss,
    gvsl_loss,
    restoration_loss,
    smoothness_loss,
)
from endomatch_ros.gvsl.model import GvslOutput

CONFIG = LossConfig()
SPATIAL = {2: (30, 35), 3: (16, 14, 17)}


def texture(dims: int, seed: int = 0, batch: int = 2) -> torch.Tensor:
    """Smooth noise in [0, 1] with contrast in every window, float64."""
    raw = np.random.default_rng(seed).standard_normal((batch, 1, *SPATIAL[dims]))
    smooth = ndimage.gaussian_filter(raw, (0, 0, *[1.5] * dims))
    return torch.from_numpy((smooth - smooth.min()) / np.ptp(smooth))


def reference(a: torch.Tensor, b: torch.Tensor, window: int) -> torch.Tensor:
    """Squared correlation in each window that lies inside the image, from the definition, in float64."""
    dims = a.dim() - 2
    for axis in range(2, a.dim()):
        a, b = a.unfold(axis, window, 1), b.unfold(axis, window, 1)
    a, b = a.flatten(-dims).double(), b.flatten(-dims).double()
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    return (a * b).sum(-1) ** 2 / ((a**2).sum(-1) * (b**2).sum(-1))


def inner_mask(dims: int, margin: int) -> torch.Tensor:
    """True but for one voxel's frame at ``margin`` − 1, so that exactly the windows inside of it count."""
    mask = torch.zeros(2, 1, *SPATIAL[dims])
    mask[(..., *[slice(margin, -margin)] * dims)] = 1
    return mask


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("window", [5, 9])
def test_correlation_is_the_definition_where_there_is_texture(dims: int, window: int) -> None:
    a, b = texture(dims), texture(dims, 1)
    config = replace(CONFIG, window=window)
    margin = 1
    value = correlation_loss(a.float(), b.float(), config, inner_mask(dims, margin))
    inside = (..., *[slice(margin, -margin)] * dims)
    expected = -reference(a[inside], b[inside], window).mean()
    torch.testing.assert_close(value.double(), expected, atol=2e-5, rtol=2e-4)


@pytest.mark.parametrize("dims", [2, 3])
def test_without_a_mask_it_is_monai_with_a_higher_floor(dims: int) -> None:
    a, b = texture(dims).float().requires_grad_(), texture(dims, 1).float()
    monai = LocalNormalizedCrossCorrelationLoss(dims, 9, smooth_dr=1e-4 * 9**dims)
    values = [correlation_loss(a, b, CONFIG), monai(a, b)]
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*(torch.autograd.grad(value, a)[0] for value in values), atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_linear_change_of_intensity_keeps_the_correlation(dims: int) -> None:
    a, mask = texture(dims).float(), inner_mask(dims, 1)
    for changed in (0.5 * a + 0.2, 1 - 0.8 * a):
        assert correlation_loss(a, changed, CONFIG, mask).item() == pytest.approx(-1, abs=1e-3)
    assert correlation_loss(a, a.flip(2), CONFIG, mask) > -0.5


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_flat_regions_are_stable_in_value_and_gradient(dims: int, level: float) -> None:
    """Constants with rounding noise on them: MONAI's own floor makes noise of them, ours nothing."""
    generator = torch.Generator().manual_seed(0)
    noise = [level + 1e-6 * torch.randn(1, 1, *SPATIAL[dims], generator=generator) for _ in range(2)]
    mask = inner_mask(dims, 1)[:1]  # beyond the image, zeros would be a texture of their own
    warped = noise[0].requires_grad_()
    value = correlation_loss(warped, noise[1], CONFIG, mask)
    value.backward()
    assert value.abs() < 1e-4
    assert warped.grad is not None
    assert warped.grad.abs().max() < 1e-4


def test_the_gradient_of_flat_regions_stays_below_that_of_texture() -> None:
    image = texture(3, batch=1).float()
    image[..., 8:] = 0.5
    generator = torch.Generator().manual_seed(0)
    warped = (image + 1e-4 * torch.randn(image.shape, generator=generator)).clamp(0, 1)
    fixed = texture(3, 1, batch=1).float()
    fixed[..., 8:] = 0.5 + 1e-4 * torch.randn(fixed[..., 8:].shape, generator=generator)

    def gradient(loss: Any) -> tuple[float, float]:
        x = warped.clone().requires_grad_()
        loss(x).backward()
        # Windows reach 4 voxels over the edge; the last columns see only flat ones, and one sees the image's end.
        assert x.grad is not None
        inside = x.grad[..., 5:-5, 5:-5, :]
        return inside[..., 12:13].abs().max().item(), inside[..., 4].abs().max().item()

    flat, textured = gradient(lambda x: correlation_loss(x, fixed, CONFIG))
    assert flat < textured
    monai = LocalNormalizedCrossCorrelationLoss(3, 9)
    flat_default, _ = gradient(lambda x: monai(x, fixed))
    assert flat_default > 5 * flat


def test_autocast_does_not_touch_the_correlation() -> None:
    a, b = texture(2).float(), texture(2, 1).float()
    expected = correlation_loss(a, b, CONFIG)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(correlation_loss(a, b, CONFIG), expected, atol=0, rtol=0)


def test_what_lies_outside_the_mask_does_not_count() -> None:
    a, b, mask = texture(2).float(), texture(2, 1).float(), torch.ones(2, 1, *SPATIAL[2])
    mask[..., :12] = 0
    value = correlation_loss(a, b, CONFIG, mask)
    changed = torch.where(mask > 0, a, torch.rand(a.shape, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(correlation_loss(changed, b, CONFIG, mask), value)
    changed[..., 12] = 0
    assert not torch.equal(correlation_loss(changed, b, CONFIG, mask), value)


def test_an_empty_mask_gives_zero_with_a_gradient() -> None:
    a, empty = texture(2).float().requires_grad_(), torch.zeros(2, 1, *SPATIAL[2])
    value = correlation_loss(a, texture(2, 1).float(), CONFIG, empty) + restoration_loss(a, a.detach(), empty)
    value.backward()
    assert value.item() == 0
    assert a.grad is not None
    assert not a.grad.any()


@pytest.mark.parametrize("dims", [2, 3])
def test_smoothness_of_a_linear_field_is_the_mean_of_its_squared_slopes(dims: int) -> None:
    matrix = torch.eye(dims, dims + 1).unsqueeze(0)
    matrix[:, :, :dims] += torch.randn(1, dims, dims, generator=torch.Generator().manual_seed(0))
    slopes = matrix[:, :, :dims] - torch.eye(dims)
    expected = (slopes**2).sum() / dims  # averaged over the field's components
    torch.testing.assert_close(smoothness_loss(affine_field(matrix, SPATIAL[dims])), expected)
    assert smoothness_loss(torch.full((1, dims, *SPATIAL[dims]), 3.0)) == 0


@pytest.mark.parametrize("dims", [2, 3])
def test_smoothness_is_monai_s_diffusion(dims: int) -> None:
    field = torch.randn(2, dims, *SPATIAL[dims], generator=torch.Generator().manual_seed(0)).requires_grad_()
    values = [smoothness_loss(field), DiffusionLoss()(field)]
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*(torch.autograd.grad(value, field)[0] for value in values))
    with pytest.raises(ImageError, match="3 voxels"):
        smoothness_loss(torch.zeros(1, dims, *[2] * dims))


def test_restoration_is_the_mean_squared_error_over_the_mask() -> None:
    restored, clean = texture(2).float().repeat(1, 3, 1, 1), texture(2, 1).float().repeat(1, 3, 1, 1)
    mask = (texture(2, 2) > 0.5).float()
    squared = ((restored - clean) ** 2).numpy()
    assert restoration_loss(restored, clean).item() == pytest.approx(squared.mean(), rel=1e-5)
    chosen = squared[np.broadcast_to(mask.numpy() > 0, squared.shape)]
    assert restoration_loss(restored, clean, mask).item() == pytest.approx(chosen.mean(), rel=1e-5)


def output_of(field: torch.Tensor, warped: torch.Tensor, restored: torch.Tensor) -> GvslOutput:
    identity = torch.eye(2, 3).expand(2, -1, -1)
    return GvslOutput(identity, torch.zeros_like(field), field, field, warped=warped, restored=restored)


def test_the_objective_is_the_weighted_sum_of_its_parts() -> None:
    clean, fixed = texture(2).float(), texture(2, 1).float()
    field = torch.randn(2, 2, *SPATIAL[2], generator=torch.Generator().manual_seed(0))
    output, batch = output_of(field, clean, clean * 0.5), {"clean": clean, "fixed": fixed}
    loss = gvsl_loss(output, batch, LossConfig())
    torch.testing.assert_close(loss.similarity, correlation_loss(clean, fixed, CONFIG))
    torch.testing.assert_close(loss.smoothness, smoothness_loss(field))
    torch.testing.assert_close(loss.restoration, restoration_loss(clean * 0.5, clean))
    torch.testing.assert_close(loss.total, loss.similarity + loss.smoothness + loss.restoration)
    weighted = gvsl_loss(output, batch, LossConfig(similarity=2, smoothness=0.5, restoration=0))
    torch.testing.assert_close(weighted.total, 2 * loss.similarity + 0.5 * loss.smoothness)


def test_masks_of_both_images_count_the_moving_one_where_it_comes_to_lie() -> None:
    clean, fixed = texture(2).float(), texture(2, 1).float()
    field = torch.zeros(2, 2, *SPATIAL[2])
    field[:, 1] = 5.0
    clean_mask, fixed_mask = torch.ones(2, 1, *SPATIAL[2]), torch.ones(2, 1, *SPATIAL[2])
    clean_mask[..., :15] = 0
    fixed_mask[..., -8:, :] = 0
    together = torch.ones(2, 1, *SPATIAL[2])
    together[..., :10] = 0
    together[..., -8:, :] = 0
    batch = {"clean": clean, "fixed": fixed, "clean_mask": clean_mask, "fixed_mask": fixed_mask}
    loss = gvsl_loss(output_of(field, clean, clean * 0.5), batch, CONFIG)
    torch.testing.assert_close(loss.similarity, correlation_loss(clean, fixed, CONFIG, together))
    torch.testing.assert_close(loss.restoration, restoration_loss(clean * 0.5, clean, clean_mask))


def test_a_batch_without_an_image_is_refused() -> None:
    clean = texture(2).float()
    with pytest.raises(ImageError, match="lacks fixed"):
        gvsl_loss(output_of(torch.zeros(2, 2, *SPATIAL[2]), clean, clean), {"clean": clean}, CONFIG)


@pytest.mark.parametrize("wrong", [{"window": 8}, {"window": 1}, {"similarity": -1}, {"flat": 0}, {"window": 9.0}])
def test_wrong_configurations_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        LossConfig(**wrong)
