"""Sampling and resizing on any device: bilinear samples, and constant matrices per pair of sizes.

Convention: resizing maps x′ = (x + ½)·s − ½, as OpenCV does.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from endomatch_ros.matching.refiners.constants import constant, remembered

_LUMA = (4899 / 16384, 9617 / 16384, 1868 / 16384)  # OpenCV's whole numbers for red, green and blue


def area_weights(source: int, target: int) -> NDArray[np.float64]:
    """``(target, source)`` weights that average ``source`` pixels into ``target`` fewer ones by the area they share."""
    edges = np.arange(target + 1) * (source / target)
    pixels = np.arange(source)
    shared = np.minimum(edges[1:, None], pixels + 1.0) - np.maximum(edges[:-1, None], pixels)
    shared = np.maximum(shared, 0.0)
    return np.asarray(shared / shared.sum(axis=1, keepdims=True))


def weigh(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``images`` ``(…, h, w)`` by weights ``rows`` ``(h', h)`` and ``columns`` ``(w', w)``: ``(…, h', w')``."""
    return rows @ images @ columns.T


def grey_copy(window: Tensor, size: tuple[int, int]) -> Tensor:
    """A colour window as a smaller grey picture, averaged over areas.

    Args:
        window: ``(H, W, 3)`` uint8, RGB.
        size: ``(width, height)`` of the copy in pixels, at most the window's.

    Returns:
        ``(height, width)`` float32, whole grey levels 0 to 255.
    """
    height, width, _ = window.shape
    red, green, blue = window.float().unbind(-1)
    grey = (red * _LUMA[0] + green * _LUMA[1] + blue * _LUMA[2]).round_()
    if size == (width, height):
        return grey
    return weigh(grey, *_area_matrices((height, width), size[::-1], window.device)).round_()


def warp(image: Tensor, map_x: Tensor, map_y: Tensor) -> Tensor:
    """``image`` ``(h, w)`` at the pixels ``map_x``, ``map_y``, both ``(h', w')``: ``(h', w')``, bilinear.

    Beyond the border its nearest value.
    """
    return sample_grid(image[None, None], torch.stack([map_x, map_y], dim=-1)[None])[0, 0]


def sample(field: Tensor, points: Tensor) -> Tensor:
    """Values ``(N, C)`` of ``field`` ``(C, h, w)`` at ``points`` ``(N, 2)`` px, bilinear; its nearest beyond it."""
    return sample_grid(field[None], points[None, None])[0, :, 0].T


def sample_grid(images: Tensor, positions: Tensor) -> Tensor:
    """``images`` ``(B, C, h, w)`` at ``positions`` ``(B, h', w', 2)`` px: ``(B, C, h', w')``, bilinear."""
    height, width = images.shape[-2:]
    return sample_units(images, positions * unit_scale(height, width, images.device) - 1.0)


def sample_units(images: Tensor, grid: Tensor) -> Tensor:
    """As :func:`sample_grid`, for positions in units of ``grid_sample``: −1 and 1 at the outermost pixels' centres."""
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=True)


@remembered
def unit_scale(height: int, width: int, device: torch.device) -> Tensor:
    """``(2,)`` units of ``grid_sample`` per pixel of an image at least two pixels high and wide, x and y."""
    return constant(np.array([2 / (width - 1), 2 / (height - 1)]), device)


@remembered
def _area_matrices(source: tuple[int, int], target: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    rows, columns = (area_weights(*sizes) for sizes in zip(source, target, strict=True))
    return constant(rows, device), constant(columns, device)
