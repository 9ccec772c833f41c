"""DINOv3's Vision Transformers, which tell places in the image by rotating queries and keys."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from timm.models.eva import EvaBlock
from torch import Tensor, nn

from endomatch_ros.models.backbones.interface import Tokens
from endomatch_ros.models.backbones.published import timm_home
from endomatch_ros.models.backbones.vit import VitBackbone

if TYPE_CHECKING:  # older timm has none
    from timm.layers import RotaryEmbeddingDinoV3


class Dinov3Backbone(VitBackbone):
    """timm's own model, whole; the last block's copy gets the rotary position embedding of the patches' grid."""

    @classmethod
    def serves(cls, name: str) -> bool:
        """Those of timm's names with ``dinov3``; others of the kind embed places in ways of their own."""
        return timm_home(name) == "timm.models.eva" and "dinov3" in name

    def tokens(self, image: Tensor) -> Tokens:
        """What timm gives for the patches, and their places."""
        found = super().tokens(image)
        rope = cast("RotaryEmbeddingDinoV3", self.vit.rope)
        return replace(found, rope=rope.get_embed(shape=list(found.grid)))

    def last_block(self) -> nn.Module:
        """A copy of timm's last block that rotates all its tokens."""
        block = cast(EvaBlock, super().last_block())
        # In timm's model the class and register tokens come first and have no place to be rotated to.
        block.attn.num_prefix_tokens = 0
        return block
