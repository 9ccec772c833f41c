"""Φ, the backbone: an image to one token per patch, and the stem's map for the fine branch."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from endomatch_ros.errors import CheckpointError, ConfigError
from endomatch_ros.models.config import ModelConfig

FINE_PER_TOKEN = 4  # fine cells along a token's side


class ConvStem(nn.Module):
    """Two strided and two residual convolutions: ``(B, 3, H, W)`` to ``(B, C, H/4, W/4)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Sequential(
            nn.Conv2d(3, channels // 2, 3, 2, 1),
            nn.GroupNorm(4, channels // 2),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels // 2, channels, 3, 2, 1),
            nn.GroupNorm(8, channels),
            nn.ReLU(inplace=True),
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, 1, 1),
                nn.GroupNorm(8, channels),
                nn.ReLU(inplace=True),
                nn.Conv2d(channels, channels, 3, 1, 1),
            )
            for _ in range(2)
        )

    def forward(self, image: Tensor) -> Tensor:
        """Stem features at a quarter of the image's resolution."""
        x: Tensor = self.reduce(image)
        for block in self.blocks:
            x = x + block(x)
        return x


class Backbone(nn.Module):
    """timm Vision Transformer behind one interface, with or without a convolutional stem.

    The compact backbone puts :class:`ConvStem` before a small timm ``VisionTransformer`` without position embedding
    (correspondence must not depend on where in the view a point lies); DINOv2 is timm's own model, whole.
    """

    def __init__(self, vit: VisionTransformer, stem: ConvStem | None) -> None:
        super().__init__()
        self.embed_dim = int(vit.embed_dim)
        self.vit = vit
        self.stem = stem

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tokens ``(B, h·w, C)`` and the stem's map ``(B, S, 4h, 4w)`` (``None`` without stem) of ``(B, 3, H, W)``.

        ``H`` and ``W`` must be multiples of the config's ``patch_size``; ``h = H / patch_size``.
        """
        stem = self.stem(image) if self.stem is not None else None
        tokens = self.vit.forward_features(image if stem is None else functional.relu(stem))
        return tokens[:, self.vit.num_prefix_tokens :], stem


def build_backbone(config: ModelConfig, pretrained: bool = False, weights: Path | None = None) -> Backbone:
    """Build Φ for ``config``.

    Args:
        config: the architecture.
        pretrained: load a timm backbone's published weights, from the hub's cache or the hub itself.
        weights: local file with these weights in timm's format instead.

    Raises:
        ConfigError: timm has no such model.
        CheckpointError: its weights cannot be had or do not fit.
    """
    if config.backbone == "compact":
        vit = VisionTransformer(
            img_size=16 * FINE_PER_TOKEN,
            patch_size=FINE_PER_TOKEN,
            in_chans=config.stem_channels,
            num_classes=0,
            embed_dim=config.embed_dim,
            depth=config.depth,
            num_heads=config.heads,
            class_token=False,
            global_pool="",
            pos_embed="none",
            dynamic_img_size=True,
            init_values=0.1,
        )
        return Backbone(vit, ConvStem(config.stem_channels))
    if not timm.is_model(config.backbone):
        raise ConfigError(f"timm {timm.__version__} has no backbone {config.backbone!r}: update timm or mend the name")
    if timm.models.model_entrypoint(config.backbone).__module__ != "timm.models.vision_transformer":
        raise ConfigError(
            f"backbone {config.backbone!r} does not serve: only timm Vision Transformers give a token grid"
        )
    if pretrained and weights is None:
        # From the cache without asking the hub: a robot without internet would wait for its retries at every start.
        weights = cached_weights(config.backbone)
    overlay = {"file": str(weights)} if weights is not None else None
    try:
        model = timm.create_model(
            config.backbone,
            pretrained=pretrained or weights is not None,
            pretrained_cfg_overlay=overlay,
            num_classes=0,
            dynamic_img_size=True,
        )
    except Exception as error:  # timm, the hub and safetensors raise types of their own for missing or damaged files
        raise CheckpointError(_missing(config.backbone, weights, error)) from error
    return Backbone(cast(VisionTransformer, model), None)


def cached_weights(name: str) -> Path | None:
    """The file of a timm model's published weights in the Hugging Face cache, ``None`` if it is not there."""
    published = timm.get_pretrained_cfg(name)
    if published is None or not published.hf_hub_id:
        return None
    found = try_to_load_from_cache(published.hf_hub_id, "model.safetensors")
    return Path(found) if isinstance(found, str) else None


def _missing(name: str, weights: Path | None, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    where = f"from {weights}" if weights is not None else "from the hub or its cache"
    return (
        f"weights of {name} could not be loaded {where} ({reason}). Either run once with internet access "
        f"(they go to the Hugging Face cache, $HF_HOME), or download them and give the file as backbone_weights; "
        "the preset 'embedded' needs no download"
    )


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
