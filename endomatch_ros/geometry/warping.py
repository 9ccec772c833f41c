"""Where pixels go: resizing, sampling grids, back-projection and projection.

Convention: pixel (0, 0) is the centre of the top-left pixel; depth is the z coordinate in the camera frame.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional

from endomatch_ros.device import constant

Size = tuple[int, int]


def resize_points(points: ArrayLike, size_from: Size, size_to: Size) -> NDArray[np.float64]:
    """Where ``(..., 2)`` pixels lie after resizing, ``x' = (x + ½)·s - ½``; sizes ``(width, height)``."""
    scale = np.asarray(size_to, np.float64) / np.asarray(size_from, np.float64)
    return np.asarray((np.asarray(points, np.float64) + 0.5) * scale - 0.5, np.float64)


def resize_matrix(size_from: Size, size_to: Size) -> NDArray[np.float64]:
    """The same as a ``(3, 3)`` homography; times a camera matrix it is the resized camera's matrix."""
    sx, sy = np.asarray(size_to, np.float64) / np.asarray(size_from, np.float64)
    return np.array([[sx, 0.0, (sx - 1) / 2], [0.0, sy, (sy - 1) / 2], [0.0, 0.0, 1.0]])


def pixels_to_grid(pixels: Tensor, size: Size) -> Tensor:
    """``(..., 2)`` pixels of an image ``(width, height)`` as ``grid_sample`` coordinates, ``align_corners=False``.

    With that flag -1 and 1 are the outer edges of the border pixels; another choice would shift the image.
    """
    return (2 * pixels + 1) / constant(tuple(size), pixels.dtype, pixels.device) - 1


def sample(features: Tensor, pixels: Tensor) -> Tensor:
    """Bilinear samples of a map ``(B, C, h, w)`` at its pixels ``(B, K, 2)``: ``(B, K, C)``; outside, the border's."""
    grid = pixels_to_grid(pixels, (features.shape[-1], features.shape[-2]))[:, :, None]
    out = functional.grid_sample(features, grid, align_corners=False, padding_mode="border")
    return out[..., 0].transpose(1, 2)


def back_project(pixels: Tensor, depth: Tensor, matrix: Tensor) -> Tensor:
    """Points in the camera frame ``(..., 3)`` of ideal pinhole pixels ``(..., 2)`` with depth ``(...)``.

    ``matrix`` is ``(3, 3)``, or ``(..., 3, 3)`` with leading dimensions that broadcast against the pixels'.
    """
    homogeneous = torch.cat([pixels, torch.ones_like(pixels[..., :1])], dim=-1)
    rays: Tensor = (torch.linalg.inv(matrix) @ homogeneous[..., None])[..., 0]
    return rays * depth[..., None]


def project(points: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Ideal pinhole pixels ``(..., 2)`` and depth ``(...)`` of points in the camera frame ``(..., 3)``.

    ``matrix`` as in :func:`back_project`. Pixels are NaN where the depth is not positive.
    """
    depth = points[..., 2]
    # The replacement keeps gradients finite; where() alone would pass NaN back through the division.
    safe = torch.where(depth > 0, depth, torch.ones_like(depth))
    pixels = (matrix[..., :2, :] @ (points / safe[..., None])[..., None])[..., 0]
    return torch.where((depth > 0)[..., None], pixels, torch.full_like(pixels, torch.nan)), depth
