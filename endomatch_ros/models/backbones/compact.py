"""The embedded model's backbone: a convolutional stem and a small Transformer, trained here."""

from __future__ import annotations

import copy
from pathlib import Path

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from endomatch_ros.models.backbones.interface import Backbone, Tokens
from endomatch_ros.models.config import ModelConfig
from endomatch_ros.models.stem import FINE_PER_TOKEN, STEM_STRIDE, ConvStem


class CompactBackbone(Backbone):
    """:class:`ConvStem` before a small timm ``VisionTransformer`` without position embedding.

    Correspondence must not depend on where in the view a point lies.
    """

    published = False
    has_stem = True

    def __init__(self, vit: VisionTransformer, stem: ConvStem) -> None:
        super().__init__(FINE_PER_TOKEN * STEM_STRIDE, int(vit.embed_dim))
        self.vit = vit
        self.stem = stem

    @classmethod
    def serves(cls, name: str) -> bool:
        """Its one name."""
        return name == "compact"

    @classmethod
    def build(cls, config: ModelConfig, pretrained: bool, weights: Path | None) -> CompactBackbone:
        """With random weights, whatever is asked for: its own come with the checkpoint."""
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
        return cls(vit, ConvStem(config.stem_channels))

    def tokens(self, image: Tensor) -> Tokens:
        """Tokens and the stem's map."""
        grid = self.grid(image)
        stem: Tensor = self.stem(image)
        return Tokens(self.vit.forward_features(functional.relu(stem)), grid, stem=stem)

    def last_block(self) -> nn.Module:
        """A copy of the small Transformer's last block."""
        return copy.deepcopy(self.vit.blocks[-1])
