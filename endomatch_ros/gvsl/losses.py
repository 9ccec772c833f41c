"""What pre-training minimises: similarity of the registered pair, roughness of the deformation, restoration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from endomatch_ros.errors import ConfigError, ImageError, check_ranges
from endomatch_ros.geometry.fields import warp

if TYPE_CHECKING:  # the model's blocks are MONAI's, which the losses do without
    from endomatch_ros.gvsl.model import GvslOutput


@dataclass(frozen=True)
class LossConfig:
    """Weights (the paper's are all 1) and the similarity's window.

    Attributes:
        similarity, smoothness, restoration: weights.
        window: side of the correlation's window, voxels, odd.
        flat: standard deviation of the intensities, of a range of 1, below which a window counts as flat: its
            correlation is scaled down, for it is noise.
    """

    similarity: float = 1.0
    smoothness: float = 1.0
    restoration: float = 1.0
    window: int = 9
    flat: float = 0.01

    def __post_init__(self) -> None:
        weight = (0.0, 1e6)
        ranges = {
            "similarity": weight,
            "smoothness": weight,
            "restoration": weight,
            "window": (3, 31),
            "flat": (1e-4, 1),
        }
        check_ranges(self, ranges, whole=("window",), what="loss.")
        if self.window % 2 == 0:
            raise ConfigError(f"loss.window={self.window} is even: a window needs a centre, use {self.window + 1}")


@dataclass(frozen=True)
class GvslLoss:
    """The total and its parts before weighting, each a scalar."""

    total: torch.Tensor
    similarity: torch.Tensor
    smoothness: torch.Tensor
    restoration: torch.Tensor


def correlation_loss(
    warped: torch.Tensor, fixed: torch.Tensor, config: LossConfig, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Minus the mean squared local correlation, −1 (one is a local linear function of the other) to 0.

    Args:
        warped: ``(B, C, *spatial)``, intensities in [0, 1].
        fixed: likewise.
        config: window and flatness.
        mask: ``(B, 1, *spatial)``, above 0.5 where both images are valid. Windows that reach an invalid voxel do not
            count; where none is left, the loss is 0.

    Returns:
        A scalar, computed in float32 even under autocast.
    """
    with torch.autocast(warped.device.type, enabled=False):
        values = -_squared_correlation(warped.float(), fixed.float(), config)
        if mask is None:
            return values.mean()
        # Windows count as far as they lie in the image.
        return _mean(values, 1.0 - (window_sum((mask <= 0.5).float(), config.window) > 0.5).float())


def _squared_correlation(a: torch.Tensor, b: torch.Tensor, config: LossConfig) -> torch.Tensor:
    """MONAI's LocalNormalizedCrossCorrelationLoss at every voxel, with another floor and a faster sum over windows."""
    voxels = config.window ** (a.dim() - 2)
    sums = window_sum(torch.cat([a, b, a * a, b * b, a * b], dim=1), config.window)
    a_sum, b_sum, aa, bb, ab = sums.chunk(5, dim=1)
    # The variances are sums over the window, in float32 from differences of large numbers: MONAI's default floor of
    # 1e-5 lies below their rounding error, so that flat regions give arbitrary values and huge gradients.
    floor = config.flat**2 * voxels
    a_variance = (aa - a_sum * a_sum / voxels).clamp(min=floor)
    b_variance = (bb - b_sum * b_sum / voxels).clamp(min=floor)
    squared: torch.Tensor = (ab - a_sum * b_sum / voxels) ** 2 / (a_variance * b_variance)
    return squared


def window_sum(values: torch.Tensor, window: int) -> torch.Tensor:
    """Sums over cubes of ``window`` voxels, an odd number, around every voxel of ``(B, C, *spatial)``.

    Beyond the image there are zeros. Products with banded matrices of ones: several times faster on a CPU, forward and
    backward, than the same sums as convolutions with one channel.
    """
    for axis, size in enumerate(values.shape[2:], start=2):
        place = torch.arange(size, device=values.device)
        band = ((place[:, None] - place).abs() <= window // 2).to(values.dtype)
        values = (values.movedim(axis, -1) @ band).movedim(-1, axis)
    return values


def _mean(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    weight = weight.expand_as(values)
    return (values * weight).sum() / weight.sum().clamp(min=1.0)


def smoothness_loss(displacement: torch.Tensor) -> torch.Tensor:
    """Mean squared gradient of the local displacement ``(B, D, *spatial)``, a sum over the axes: MONAI's DiffusionLoss.

    Raises:
        ImageError: an axis has fewer than 3 voxels.
    """
    if min(displacement.shape[2:]) < 3:
        raise ImageError(f"displacement {tuple(displacement.shape)}: its roughness needs 3 voxels along every axis")
    axes = range(2, displacement.dim())
    return sum((_slope(displacement, axis) ** 2 for axis in axes), start=displacement.new_zeros(())).mean()


def _slope(field: torch.Tensor, axis: int) -> torch.Tensor:
    """Central difference of ``(B, D, *spatial)`` along an axis, at the voxels that are not at the border."""
    ahead, behind = ([slice(None)] * 2 + [slice(1, -1)] * (field.dim() - 2) for _ in range(2))
    ahead[axis], behind[axis] = slice(2, None), slice(None, -2)
    return (field[tuple(ahead)] - field[tuple(behind)]) / 2


def restoration_loss(restored: torch.Tensor, clean: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Mean squared error, over the mask ``(B, 1, *spatial)`` if there is one."""
    if mask is None:
        return functional.mse_loss(restored.float(), clean.float())
    return _mean((restored.float() - clean.float()) ** 2, (mask > 0.5).float())


def gvsl_loss(output: GvslOutput, batch: Mapping[str, torch.Tensor], config: LossConfig) -> GvslLoss:
    """The objective of pre-training.

    The smoothness is that of the local deformation: on the fused field it would also hold the affine stage back.

    Args:
        output: of the model, given the damaged A as ``moving`` and the clean A as ``clean``.
        batch: ``clean`` (A) and ``fixed`` (B), ``(B, C, *spatial)``; if wanted both or one of ``clean_mask`` and
            ``fixed_mask``, ``(B, 1, *spatial)``, above 0.5 where the image is valid.
        config: weights and window.

    Raises:
        ImageError: an image is missing from the batch.
    """
    missing = [name for name in ("clean", "fixed") if name not in batch]
    if missing:
        raise ImageError(f"the batch lacks {', '.join(missing)}: it holds {', '.join(batch) or 'nothing'}")
    clean_mask, mask = batch.get("clean_mask"), batch.get("fixed_mask")
    if clean_mask is not None:
        moved = warp(clean_mask.float(), output.field.detach(), "nearest")
        mask = moved if mask is None else moved * (mask > 0.5)
    similarity = correlation_loss(output.warped, batch["fixed"], config, mask)
    smoothness = smoothness_loss(output.displacement)
    restoration = restoration_loss(output.restored, batch["clean"], clean_mask)
    total = config.similarity * similarity + config.smoothness * smoothness + config.restoration * restoration
    return GvslLoss(total, similarity, smoothness, restoration)
