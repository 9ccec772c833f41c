"""What a backbone is: images to one token per patch, and the block that an adapter starts from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn

from endomatch_ros.errors import ImageError
from endomatch_ros.models.config import ModelConfig


@dataclass(frozen=True)
class Tokens:
    """One token per patch, of ``B`` images.

    Attributes:
        values: ``(B, h·w, C)`` row by row, behind the backbone's last norm, without class and register tokens.
        grid: rows ``h`` and columns ``w``.
        rope: ``(h·w, 2·d)`` sines and cosines of the patches' places for heads of ``d`` channels, which the last block
            takes as ``rope=``; ``None`` for a backbone without rotary position embedding.
        stem: ``(B, S, 4h, 4w)`` map of the backbone's convolutional stem; ``None`` for a backbone without one.
    """

    values: Tensor
    grid: tuple[int, int]
    rope: Tensor | None = None
    stem: Tensor | None = None


class Backbone(nn.Module, ABC):
    """Φ behind one interface; a new one is a file beside this and a line in the registry.

    Attributes:
        patch_size: pixels of an image along a side of a patch.
        embed_dim: channels of a token.
        published: its weights have a home of their own: a checkpoint holds them only if they were trained further.
        has_stem: it gives the map of a convolutional stem, with the config's ``stem_channels``.
    """

    published: ClassVar[bool]
    has_stem: ClassVar[bool] = False

    def __init__(self, patch_size: int, embed_dim: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.embed_dim = embed_dim

    @classmethod
    @abstractmethod
    def serves(cls, name: str) -> bool:
        """Whether a config's ``backbone`` of this name is one of this class."""

    @classmethod
    @abstractmethod
    def build(cls, config: ModelConfig, pretrained: bool, weights: Path | None) -> Backbone:
        """The backbone of ``config``; arguments and errors as for :func:`~.registry.build_backbone`."""

    @abstractmethod
    def tokens(self, image: Tensor) -> Tokens:
        """Tokens of network input ``(B, 3, H, W)``; raises as :meth:`grid`, which it takes the grid from."""

    @abstractmethod
    def last_block(self) -> nn.Module:
        """A copy of the last block for patch tokens alone: ``(B, h·w, C)``, and ``rope=`` if :class:`Tokens` has it."""

    def grid(self, image: Tensor) -> tuple[int, int]:
        """Rows and columns of an image's patches; raises :class:`ImageError` unless they cover it exactly."""
        height, width = image.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ImageError(
                f"an image of {width}x{height} pixels has no whole number of patches of {self.patch_size}: resize or "
                "crop it to multiples of that, as the matcher does by itself"
            )
        return height // self.patch_size, width // self.patch_size

    def forward(self, image: Tensor) -> Tokens:
        """:meth:`tokens`."""
        return self.tokens(image)
