"""The convolutional stem, which keeps the detail that patches lose."""

from __future__ import annotations

from torch import Tensor, nn

STEM_STRIDE = 4  # pixels along a side of a cell of the stem's map
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
