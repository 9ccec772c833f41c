"""Derivatives of pictures ``(B, C, h, w)`` by shifted views: exact, where a convolution may round to TF32."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def mirrored(images: Tensor, border: int) -> Tensor:
    """``images`` with ``border`` pixels more on all sides, mirrored at the centres of the outermost ones."""
    return functional.pad(images, (border,) * 4, mode="reflect")


def differences(images: Tensor) -> tuple[Tensor, Tensor]:
    """Right minus left and lower minus upper neighbour, the border repeated: the slope over two pixels, x and y."""
    around = functional.pad(images, (1, 1, 1, 1), mode="replicate")
    x = around[..., 1:-1, 2:] - around[..., 1:-1, :-2]
    y = around[..., 2:, 1:-1] - around[..., :-2, 1:-1]
    return x, y


def sobel(images: Tensor) -> tuple[Tensor, Tensor]:
    """Sobel's derivatives, mirrored at the border: the slope over eight pixels, x and y."""
    around = mirrored(images, 1)
    down = (around[..., :-2, :] + around[..., 2:, :]).add_(around[..., 1:-1, :], alpha=2)
    right = (around[..., :-2] + around[..., 2:]).add_(around[..., 1:-1], alpha=2)
    return down[..., 2:] - down[..., :-2], right[..., 2:, :] - right[..., :-2, :]
