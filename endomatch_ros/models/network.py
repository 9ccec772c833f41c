"""The whole network: backbone Φ, adapter Ψ, fine branch; an image to descriptors, two images to a dense field."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from endomatch_ros.device import constant
from endomatch_ros.errors import ConfigError, ImageError
from endomatch_ros.models.adapter import Adapter
from endomatch_ros.models.backbones.interface import Backbone, Tokens
from endomatch_ros.models.config import ModelConfig
from endomatch_ros.models.stem import FINE_PER_TOKEN, STEM_STRIDE, ConvStem
from endomatch_ros.models.z_matching import Matching, ZMatchingHead

_INTEGRATION_STEPS = 7  # squarings: fields hardly fold
_CORRELATION = 3  # cells of a level; with 4 levels the field reaches 24 cells of the finest map and more
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Descriptors:
    """L2-normalised descriptor maps of a batch of images.

    Attributes:
        coarse: ``(B, C, h, w)``, one per patch.
        fine: ``(B, F, 4h, 4w)``, or ``None`` for a model without fine branch.
    """

    coarse: Tensor
    fine: Tensor | None

    @property
    def finest(self) -> Tensor:
        """The finest map there is."""
        return self.coarse if self.fine is None else self.fine


class FineBranch(nn.Module):
    """Fuses adapted tokens into a map of four cells per token side, so that context and detail share a descriptor."""

    def __init__(self, token_dim: int, stem_channels: int, fine_dim: int) -> None:
        super().__init__()
        self.lift = nn.Conv2d(token_dim, stem_channels, 1)
        self.fuse = nn.Sequential(
            nn.Conv2d(stem_channels, stem_channels, 3, 1, 1),
            nn.GroupNorm(8, stem_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(stem_channels, fine_dim, 1),
        )

    def forward(self, tokens: Tensor, stem: Tensor) -> Tensor:
        """``(B, C, h, w)`` tokens and ``(B, S, 4h, 4w)`` stem to ``(B, F, 4h, 4w)``."""
        # In float32: a CPU interpolates half precision several times slower.
        lifted = self.lift(tokens).float()
        lifted = functional.interpolate(lifted, size=stem.shape[-2:], mode="bilinear", align_corners=False)
        fused: Tensor = self.fuse(stem + lifted)
        return fused


def standardise(image: Tensor, view: Tensor) -> Tensor:
    """Zero mean, unit variance over the view; pixels outside it become 0.

    Args:
        image: ``(B, 3, H, W)`` float, any range.
        view: ``(B, 1, H, W)`` float weights, 1 inside the view.
    """
    area = view.sum(dim=(2, 3), keepdim=True).clamp_min(1.0)
    mean = (image * view).sum(dim=(2, 3), keepdim=True) / area
    centred = (image - mean) * view
    # One deviation for the three channels keeps the hue, which tells vessel from shadow.
    variance = (centred**2).sum(dim=(1, 2, 3), keepdim=True) / (3.0 * area)
    return centred / torch.sqrt(variance + 1e-6)


def dense_head(config: ModelConfig, token_dim: int) -> ZMatchingHead | None:
    """The untrained head of ``config`` for tokens of ``token_dim`` channels, which gives the exact identity.

    ``None`` for a model without one.
    """
    if config.dense_levels == 0:
        return None
    return ZMatchingHead(
        2,
        token_dim,
        config.fine_dim or token_dim,
        integration_steps=_INTEGRATION_STEPS,
        levels=config.dense_levels,
        correlation=_CORRELATION,
    )


class MatcherNetwork(nn.Module):
    """Φ → Ψ → (fine branch): images to L2-normalised descriptor maps; two images' maps to a field, if it has a head.

    Args:
        config: the architecture.
        backbone: Φ as built by :func:`~endomatch_ros.models.backbones.registry.build_backbone`.
    """

    def __init__(self, config: ModelConfig, backbone: Backbone) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.adapter = Adapter(backbone)
        self.fine: FineBranch | None = None
        self.fine_stem: ConvStem | None = None
        if config.fine_dim:
            self.fine = FineBranch(backbone.embed_dim, config.stem_channels, config.fine_dim)
            # A backbone without stem gets one of its own for the detail that its patches have lost.
            self.fine_stem = None if backbone.has_stem else ConvStem(config.stem_channels)
        self.dense = dense_head(config, backbone.embed_dim)
        # Inverse temperatures of the contrastive losses, learnt with the rest (CLIP's parametrisation).
        self.log_scale_coarse = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.log_scale_fine = nn.Parameter(torch.tensor(math.log(1 / 0.05)))

    def normalise(self, image: Tensor, view: Tensor) -> Tensor:
        """Network input from RGB in 0…1 ``(B, 3, H, W)`` and the view ``(B, 1, H, W)``; outside the view 0."""
        if self.config.normalisation == "standardise":
            return standardise(image, view)
        mean, std = (constant(part, image.dtype, image.device) for part in (_IMAGENET_MEAN, _IMAGENET_STD))
        return (image - mean[:, None, None]) / std[:, None, None] * view

    def forward(self, image: Tensor, view: Tensor | None = None) -> Descriptors:
        """Descriptors of RGB images in 0…1.

        Args:
            image: ``(B, 3, H, W)``, ``H`` and ``W`` multiples of the patch size.
            view: ``(B, 1, H, W)`` float, 1 inside the view; ``None`` if the view fills the image.
        """
        view = torch.ones_like(image[:, :1]) if view is None else view
        x = self.normalise(image, view)
        tokens: Tokens = self.backbone(x)
        adapted = self.adapter(tokens.values, tokens.rope)
        grid = adapted.transpose(1, 2).unflatten(2, tokens.grid)  # (B, C, h, w)
        fine = None
        if self.fine is not None:
            stem = tokens.stem
            if self.fine_stem is not None:
                # Resized so that the stem's map has exactly four cells per token side.
                size = [side * FINE_PER_TOKEN * STEM_STRIDE for side in tokens.grid]
                stem = self.fine_stem(functional.interpolate(x, size=size, mode="bilinear", align_corners=False))
            assert stem is not None
            fine = functional.normalize(self.fine(grid, stem), dim=1)
        return Descriptors(functional.normalize(grid, dim=1), fine)

    def register(self, reference: Descriptors, current: Descriptors) -> Matching:
        """Dense field between two batches of images, by the Z-matching head (arXiv 2303.00874).

        Convention: that of :mod:`endomatch_ros.geometry.fields` with the reference as the fixed image. A point p of the
        reference's finest map lies at p + field(p) in the current image's, in cells, (row, column).

        Args:
            reference: descriptors of ``B`` images.
            current: of as many others of the same size.

        Returns:
            Fields ``(B, 2, h, w)`` on the finest map's grid, float32.

        Raises:
            ConfigError: the model has no head.
            ImageError: the images' maps differ in size.
        """
        if self.dense is None:
            raise ConfigError(
                "the model has no head for dense fields (dense_levels is 0): train one with "
                "`endomatch train --objective gvsl`, or use one that has it: embedded-dense"
            )
        if reference.finest.shape != current.finest.shape:
            raise ImageError(
                f"descriptor maps {tuple(reference.finest.shape)} and {tuple(current.finest.shape)} do not fit: "
                "give both images the same size"
            )
        maps = (current.coarse, reference.coarse, current.finest, reference.finest)
        matching: Matching = self.dense(*(part.float() for part in maps))
        return matching
