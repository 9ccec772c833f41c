"""Backbones with weights that nobody has published, made for tests."""

from __future__ import annotations

import torch

from endomatch_ros.models.backbones.interface import Backbone
from endomatch_ros.models.backbones.registry import build_backbone
from endomatch_ros.models.config import PRESETS, ModelConfig


def lively_backbone(config: ModelConfig, seed: int = 0) -> Backbone:
    """The backbone of ``config`` with random weights by which every block changes the tokens and heeds their places.

    As timm initialises published architectures, layer scales of 1e-5 and near-uniform attention hide what blocks do.
    """
    torch.manual_seed(seed)
    backbone = build_backbone(config).eval()
    with torch.no_grad():
        for name, value in backbone.named_parameters():
            if "gamma" in name:
                value.fill_(0.5)
            elif name.endswith("attn.qkv.weight"):
                value.mul_(4)
    return backbone


def example_config(kind: type[Backbone]) -> ModelConfig:
    """The first preset that a registered backbone serves."""
    return next(config for config in PRESETS.values() if kind.serves(config.backbone))
