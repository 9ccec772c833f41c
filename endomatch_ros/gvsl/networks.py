"""The backbone: a U-Net of MONAI's blocks that gives its coarsest and its finest features."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.nets.basic_unet import Down, TwoConv, UpCat
from torch import nn
from torch.nn import functional

from endomatch_ros.errors import ImageError

ACTIVATION = ("leakyrelu", {"negative_slope": 0.2, "inplace": True})


def norm(channels: int) -> tuple[str, dict[str, int]]:
    """Group normalisation with 8 channels to a group: nothing in it depends on the other images of a batch."""
    return ("group", {"num_groups": max(1, channels // 8)})


class UNet(nn.Module):
    """Encoder and decoder with skip connections.

    MONAI's BasicUNet has the same blocks, but always five levels and no way to its inner features.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of an image.
        channels: of the levels, the finest first.
    """

    def __init__(self, spatial_dims: int, in_channels: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.spatial_dims = spatial_dims
        self.stride = 2 ** (len(channels) - 1)
        common: dict[str, Any] = {"act": ACTIVATION, "bias": True}
        self.stem = TwoConv(spatial_dims, in_channels, channels[0], norm=norm(channels[0]), **common)
        pairs = list(itertools.pairwise(channels))
        self.down = nn.ModuleList(
            Down(spatial_dims, fine, coarse, norm=norm(coarse), **common) for fine, coarse in pairs
        )
        # align_corners=False: the centres of the coarse voxels stay where pooling put them.
        up = {"upsample": "nontrainable", "align_corners": False, **common}
        self.up = nn.ModuleList(
            UpCat(spatial_dims, coarse, fine, fine, norm=norm(fine), **up) for fine, coarse in reversed(pairs)
        )

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of a batch.

        Args:
            image: ``(B, in_channels, *spatial)``, any size.

        Returns:
            The bottleneck ``(B, channels[-1], *⌈spatial / stride⌉)`` and the last decoder features
            ``(B, channels[0], *spatial)``.

        Raises:
            ImageError: another number of dimensions or channels.
        """
        if image.dim() != self.spatial_dims + 2 or image.shape[1] != self.in_channels:
            raise ImageError(
                f"image {tuple(image.shape)}: this network takes (B, {self.in_channels}, *spatial) with "
                f"{self.spatial_dims} spatial dimensions"
            )
        spatial = image.shape[2:]
        margins = [_margin(size, self.stride) for size in spatial]
        # functional.pad takes the last axis first.
        padding = [width for margin in reversed(margins) for width in margin]
        features = [self.stem(functional.pad(image, padding, mode="replicate") if any(padding) else image)]
        for down in self.down:
            features.append(down(features[-1]))
        coarse = fine = features.pop()
        for up in self.up:
            fine = up(fine, features.pop())
        inside = [slice(before, before + size) for (before, _), size in zip(margins, spatial, strict=True)]
        return coarse, fine[(slice(None), slice(None), *inside)]


def _margin(size: int, stride: int) -> tuple[int, int]:
    """Voxels to add before and after, so that ``stride`` divides the size and the image stays in the middle."""
    missing = -size % stride
    return missing // 2, missing - missing // 2
