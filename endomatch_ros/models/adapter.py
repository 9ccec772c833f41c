"""Ψ, the one Transformer layer that adapts the backbone's tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from endomatch_ros.models.backbones.interface import Backbone


class Adapter(nn.Module):
    """Ψ(x) = x + g·(block(x) − x), the gate g starting at zero (arXiv 2512.10379, section III).

    Starts as a copy of the backbone's last block, so that an untrained Ψ returns its input bit for bit and training
    starts from zero-shot matching.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.block = backbone.last_block()
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, tokens: Tensor, rope: Tensor | None = None) -> Tensor:
        """Adapted tokens, ``(B, N, C)`` to ``(B, N, C)``; ``rope`` as the backbone gives it with them."""
        moved: Tensor = self.block(tokens) if rope is None else self.block(tokens, rope=rope)
        return tokens + self.gate * (moved - tokens)
