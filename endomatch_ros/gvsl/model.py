"""The whole model: backbone, Z-matching head and restoration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from monai.networks.blocks.convolutions import Convolution
from torch import nn
from torch.nn import functional

from endomatch_ros.errors import ImageError
from endomatch_ros.geometry.fields import warp
from endomatch_ros.gvsl.config import GvslConfig
from endomatch_ros.gvsl.networks import UNet
from endomatch_ros.models.z_matching import Matching, ZMatchingHead


@dataclass(frozen=True)
class GvslOutput(Matching):
    """A :class:`~endomatch_ros.models.z_matching.Matching` with what it gives.

    ``matrix``, ``affine`` and ``displacement`` are those of the network's grid, with ``shrink`` coarser than the
    image's; ``field`` is the image's.

    Attributes:
        warped: the moving image on the fixed grid ``(B, C, *spatial)``, sampled once, with the fused field.
        restored: the moving image as the network thinks it was before it was damaged ``(B, C, *spatial)``.
    """

    warped: torch.Tensor
    restored: torch.Tensor


class GvslModel(nn.Module):
    """Learns features of images by registering pairs of them and by mending damaged ones.

    Args:
        config: the model's shape.
    """

    def __init__(self, config: GvslConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = UNet(config.spatial_dims, config.in_channels, config.channels)
        self.head = ZMatchingHead(
            config.spatial_dims,
            coarse_channels=config.channels[-1],
            fine_channels=config.channels[0],
            limits=config.limits,
            integration_steps=config.integration_steps,
            affine=config.affine,
            deformable=config.deformable,
            pool=config.pool,
            levels=config.levels,
        )
        self.restoration = Convolution(
            config.spatial_dims, config.channels[0], config.in_channels, kernel_size=1, conv_only=True
        )

    def forward(self, moving: torch.Tensor, fixed: torch.Tensor, clean: torch.Tensor | None = None) -> GvslOutput:
        """Registers ``moving`` to ``fixed``.

        Args:
            moving: image A, damaged in pre-training, ``(B, C, *spatial)``, intensities in [0, 1].
            fixed: image B, of the same shape.
            clean: what the field resamples instead of ``moving``: A before it was damaged.

        Raises:
            ImageError: shapes that differ, or that this model does not take.
        """
        resampled = moving if clean is None else clean
        if moving.shape != fixed.shape or resampled.shape != moving.shape:
            raise ImageError(
                f"moving {tuple(moving.shape)}, fixed {tuple(fixed.shape)}, clean {tuple(resampled.shape)}: the shapes "
                "must be equal; pad or crop to one"
            )
        # One pass for both: group normalisation keeps images apart.
        coarse, fine = self.backbone(shrunk(torch.cat([moving, fixed]), self.config.shrink))
        coarse_moving, coarse_fixed = coarse.chunk(2)
        fine_moving, fine_fixed = fine.chunk(2)
        matching = self.head(coarse_moving, coarse_fixed, fine_moving, fine_fixed)
        field = enlarged_field(matching.field, self.config.shrink, fixed.shape[2:])
        return GvslOutput(
            matching.matrix,
            matching.affine,
            matching.displacement,
            field,
            warped=warp(resampled, field),
            restored=enlarged_values(self.restoration(fine_moving), self.config.shrink, fixed.shape[2:]),
        )


def shrunk(images: torch.Tensor, factor: int) -> torch.Tensor:
    """Means over cells of ``factor`` voxels along each axis; the last cells are filled up with their nearest voxel."""
    if factor == 1:
        return images
    # functional.pad takes the last axis first.
    missing = [width for size in reversed(images.shape[2:]) for width in (0, -size % factor)]
    pool = functional.avg_pool2d if images.dim() == 4 else functional.avg_pool3d
    return pool(functional.pad(images, missing, mode="replicate"), factor)


def enlarged_field(field: torch.Tensor, factor: int, spatial: Sequence[int]) -> torch.Tensor:
    """A field of the small grid on the image's, in its voxels: the inverse of :func:`shrunk`."""
    return factor * enlarged_values(field, factor, spatial)


def enlarged_values(values: torch.Tensor, factor: int, spatial: Sequence[int]) -> torch.Tensor:
    """Values of the small grid, ``(B, C, *small)``, interpolated to the image's ``(B, C, *spatial)``."""
    if factor == 1:
        return values
    whole = [size * factor for size in values.shape[2:]]
    large = functional.interpolate(values, whole, mode="bilinear" if len(whole) == 2 else "trilinear")
    return large[(slice(None), slice(None), *(slice(size) for size in spatial))]
