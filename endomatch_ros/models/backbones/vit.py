"""timm's plain Vision Transformers, DINOv2's among them."""

from __future__ import annotations

import copy
from pathlib import Path

from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from endomatch_ros.models.backbones.interface import Backbone, Tokens
from endomatch_ros.models.backbones.published import timm_home, timm_model
from endomatch_ros.models.config import ModelConfig


class VitBackbone(Backbone):
    """timm's own model, whole; its class and register tokens are left out of what it gives."""

    published = True

    def __init__(self, vit: VisionTransformer | Eva) -> None:
        super().__init__(int(vit.patch_embed.patch_size[0]), int(vit.embed_dim))
        self.vit = vit

    @classmethod
    def serves(cls, name: str) -> bool:
        """Every name of timm's plain Vision Transformers."""
        return timm_home(name) == "timm.models.vision_transformer"

    @classmethod
    def build(cls, config: ModelConfig, pretrained: bool, weights: Path | None) -> VitBackbone:
        """By timm's name, which says the architecture."""
        return cls(timm_model(config.backbone, pretrained, weights))

    def tokens(self, image: Tensor) -> Tokens:
        """What timm gives for the patches."""
        grid = self.grid(image)
        return Tokens(self.vit.forward_features(image)[:, self.vit.num_prefix_tokens :], grid)

    def last_block(self) -> nn.Module:
        """A copy of timm's last block, which takes any number of tokens."""
        return copy.deepcopy(self.vit.blocks[-1])
