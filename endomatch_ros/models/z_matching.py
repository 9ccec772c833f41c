"""The Z-matching head: a bounded affine map of the whole image, then a local deformation, fused into one field."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torch.nn import functional

from endomatch_ros.errors import ConfigError
from endomatch_ros.geometry.affine import AffineLimits, bounded_matrix, parameter_count
from endomatch_ros.geometry.fields import affine_field, compose_affine, integrate, resize_field, warp

_HIDDEN = 64
_CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}
# The mean over the whole image, one cell, no longer says where anything was.
_POOLS = {2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}


def _convolution(spatial_dims: int, inputs: int, outputs: int) -> nn.Module:
    return _CONVOLUTIONS[spatial_dims](inputs, outputs, 3, padding=1)


def block(spatial_dims: int, inputs: int, outputs: int) -> nn.Module:
    """Convolution of 3 voxels, group normalisation with 8 channels per group, LeakyReLU.

    In plain PyTorch, for a node that matches with a head should not wait for MONAI's import.
    """
    return nn.Sequential(
        _convolution(spatial_dims, inputs, outputs),
        nn.GroupNorm(max(1, outputs // 8), outputs),
        nn.LeakyReLU(0.2, inplace=True),
    )


@dataclass(frozen=True)
class Matching:
    """What the head finds between a moving and a fixed image; fields as in :mod:`endomatch_ros.geometry.fields`.

    Attributes:
        matrix: the affine map ``(B, D, D + 1)``.
        affine: its field ``(B, D, *spatial)``.
        displacement: the local deformation ``(B, D, *spatial)``, between the fixed grid and the affinely moved image.
        field: both in one: moving(x + field(x)) lies on fixed(x).
    """

    matrix: torch.Tensor
    affine: torch.Tensor
    displacement: torch.Tensor
    field: torch.Tensor


class GlobalStage(nn.Module):
    """Bottleneck features of both images to the numbers of one affine map.

    Args:
        spatial_dims: 2 or 3.
        channels: of one image's features.
        pool: cells along each axis.
    """

    def __init__(self, spatial_dims: int, channels: int, pool: int = 4) -> None:
        super().__init__()
        self.join = block(spatial_dims, 2 * channels, _HIDDEN)
        self.pool = _POOLS[spatial_dims](pool)
        self.hidden = nn.Linear(_HIDDEN * pool**spatial_dims, _HIDDEN)
        self.activation = nn.LeakyReLU(0.2)
        self.last = nn.Linear(_HIDDEN, parameter_count(spatial_dims))
        # Training starts from the exact identity.
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        """Two ``(B, channels, *coarse)`` to ``(B, parameter_count)``, unbounded, all zero before training."""
        pooled = self.pool(self.join(torch.cat([moving, fixed], dim=1)))
        return cast(torch.Tensor, self.last(self.activation(self.hidden(pooled.flatten(1)))))


class LocalStage(nn.Module):
    """Fine features of the affinely moved and of the fixed image to a displacement (or velocity) at every voxel.

    The displacement is the sum of those of ``levels`` resolutions. With one, a voxel sees the other image's features as
    far as the convolutions reach, 3 voxels; each further level doubles that at an eighth (in 3D) of the cost.

    With ``correlation`` the levels are gone through from coarse to fine, each sees the moving features as the coarser
    ones have moved them, and beside the features their similarities to those ``correlation`` voxels around (the cost
    volume of PWC-Net, Sun et al., CVPR 2018): how similar two descriptors are need not be learnt.

    Args:
        spatial_dims: 2 or 3.
        channels: of one image's features.
        levels: resolutions, each half of the one before.
        correlation: radius of the similarities in voxels of a level, 0 for none.
    """

    def __init__(self, spatial_dims: int, channels: int, levels: int = 1, correlation: int = 0) -> None:
        super().__init__()
        self.correlation = correlation
        similarities = (2 * correlation + 1) ** spatial_dims if correlation else 0
        self.levels = nn.ModuleList(
            nn.Sequential(
                block(spatial_dims, 2 * channels + similarities, channels),
                block(spatial_dims, channels, channels),
                _convolution(spatial_dims, channels, spatial_dims),
            )
            for _ in range(levels)
        )
        for level in self.levels:
            for parameter in cast(nn.Sequential, level)[-1].parameters():
                nn.init.zeros_(parameter)

    def forward(self, moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        """Two ``(B, channels, *spatial)`` to ``(B, D, *spatial)`` in voxels, all zero before training."""
        spatial = fixed.shape[2:]
        total = torch.zeros_like(fixed[:, : len(spatial)], dtype=torch.float32)
        for k, level in reversed(list(enumerate(self.levels))):
            # At least 3 voxels per axis: group normalisation of a single voxel would be zero.
            size = [max(-(-n // 2**k), min(n, 3)) for n in spatial]
            a, b = (functional.interpolate(x, size, mode="area") if k else x for x in (moving, fixed))
            if self.correlation:
                a = warp(a, resize_field(total, size))
                b = torch.cat([b, local_correlation(a, b, self.correlation)], dim=1)
            total = total + resize_field(level(torch.cat([a, b], dim=1)).float(), spatial)
        return total


def local_correlation(moving: torch.Tensor, fixed: torch.Tensor, radius: int) -> torch.Tensor:
    """Cosine similarities of each voxel's features in ``fixed`` to those around it in ``moving``.

    Args:
        moving: ``(B, C, *spatial)``.
        fixed: of the same shape.
        radius: in voxels.

    Returns:
        ``(B, (2·radius + 1)^D, *spatial)``; the last axis' offset runs fastest, beyond the image there are zeros.
    """
    spatial = fixed.shape[2:]
    moving, fixed = functional.normalize(moving, dim=1), functional.normalize(fixed, dim=1)
    padded = functional.pad(moving, [radius] * (2 * len(spatial)))
    found = []
    for offsets in itertools.product(range(2 * radius + 1), repeat=len(spatial)):
        shifted = padded
        for axis, (offset, size) in enumerate(zip(offsets, spatial, strict=True), start=2):
            shifted = shifted.narrow(axis, offset, size)
        found.append((shifted * fixed).sum(dim=1))
    return torch.stack(found, dim=1)


class ZMatchingHead(nn.Module):
    """Registers two images from their coarse and fine features; untrained it gives the exact identity.

    Args:
        spatial_dims: 2 or 3.
        coarse_channels: of the bottleneck features.
        fine_channels: of the fine features.
        limits: bounds of the affine map.
        integration_steps: squarings of the local stage's velocity; 0 takes its output as the displacement.
        affine, deformable: keep the stage; a stage left out is the identity.
        pool: cells along each axis of the pooled bottleneck.
        levels: resolutions of the local stage.
        correlation: radius in which the local stage compares the features, 0: it is only shown them.
    """

    def __init__(
        self,
        spatial_dims: int,
        coarse_channels: int,
        fine_channels: int,
        limits: AffineLimits | None = None,
        integration_steps: int = 0,
        affine: bool = True,
        deformable: bool = True,
        pool: int = 4,
        levels: int = 1,
        correlation: int = 0,
    ) -> None:
        super().__init__()
        if not affine and not deformable:
            raise ConfigError("affine and deformable are both off: a head without a stage registers nothing; keep one")
        self.limits = limits or AffineLimits()
        self.integration_steps = integration_steps
        self.global_stage = GlobalStage(spatial_dims, coarse_channels, pool) if affine else None
        self.local_stage = LocalStage(spatial_dims, fine_channels, levels, correlation) if deformable else None

    def forward(
        self,
        coarse_moving: torch.Tensor,
        coarse_fixed: torch.Tensor,
        fine_moving: torch.Tensor,
        fine_fixed: torch.Tensor,
    ) -> Matching:
        """Fields in voxels of the fine features' grid, in float32 whatever the features' type.

        Args:
            coarse_moving: ``(B, coarse_channels, *coarse)``.
            coarse_fixed: likewise.
            fine_moving: ``(B, fine_channels, *spatial)``.
            fine_fixed: likewise.
        """
        spatial = fine_fixed.shape[2:]
        dims = len(spatial)
        if self.global_stage is None:
            raw = fine_fixed.new_zeros((len(fine_fixed), parameter_count(dims)))
        else:
            raw = self.global_stage(coarse_moving, coarse_fixed)
        matrix = bounded_matrix(raw, spatial, self.limits)
        affine = affine_field(matrix, spatial)
        if self.local_stage is None:
            return Matching(matrix, affine, torch.zeros_like(affine), affine)
        local = self.local_stage(warp(fine_moving, affine), fine_fixed)
        displacement = integrate(local, self.integration_steps)
        return Matching(matrix, affine, displacement, compose_affine(matrix, displacement))
