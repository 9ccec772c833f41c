"""Which backbones there are, and the one that a configuration names."""

from __future__ import annotations

from pathlib import Path

import timm

from endomatch_ros.errors import ConfigError
from endomatch_ros.models.backbones.compact import CompactBackbone
from endomatch_ros.models.backbones.dinov3 import Dinov3Backbone
from endomatch_ros.models.backbones.interface import Backbone
from endomatch_ros.models.backbones.vit import VitBackbone
from endomatch_ros.models.config import ModelConfig

BACKBONES: tuple[type[Backbone], ...] = (CompactBackbone, VitBackbone, Dinov3Backbone)
"""Asked in this order whether they serve a name."""


def build_backbone(config: ModelConfig, pretrained: bool = False, weights: Path | None = None) -> Backbone:
    """Build Φ for ``config``.

    Args:
        config: the architecture.
        pretrained: load a published backbone's weights, from the hub's cache or the hub itself.
        weights: local file with these weights in timm's format instead.

    Raises:
        ConfigError: no backbone has this name, or it has patches of another size than ``config`` says.
        CheckpointError: its weights cannot be had or do not fit.
    """
    kind = next((kind for kind in BACKBONES if kind.serves(config.backbone)), None)
    if kind is None:
        raise ConfigError(_refusal(config.backbone))
    backbone = kind.build(config, pretrained, weights)
    if backbone.patch_size != config.patch_size:
        raise ConfigError(
            f"backbone {config.backbone!r} has patches of {backbone.patch_size} pixels, but patch_size is "
            f"{config.patch_size}: they must agree"
        )
    return backbone


def _refusal(name: str) -> str:
    if not timm.is_model(name):
        return f"timm {timm.__version__} has no backbone {name!r}: update timm or mend the name"
    return (
        f"backbone {name!r} does not serve: it needs one token per patch, and none of the kinds that are known here "
        "(timm's plain Vision Transformers such as DINOv2's, DINOv3's and others) reads them from it"
    )
