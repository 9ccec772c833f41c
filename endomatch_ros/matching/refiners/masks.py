"""Masks looked up at points, on the device where these are."""

from __future__ import annotations

import torch
from torch import Tensor

from endomatch_ros.matching.features import FrameFeatures


def usable_at(features: FrameFeatures, points: Tensor) -> Tensor:
    """``(N,)`` bool: the nearest pixels of source points ``(N, 2)`` may be matched; False outside the image."""
    return at_nearest(features.usable_tensor, points[:, 0], points[:, 1])


def at_nearest(mask: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """``mask`` ``(h, w)`` at the nearest pixels; False outside and where a coordinate is not finite."""
    height, width = mask.shape
    column, row = (torch.nan_to_num(c.round(), nan=-1.0, posinf=-1.0, neginf=-1.0) for c in (x, y))
    inside = (column >= 0) & (row >= 0) & (column < width) & (row < height)
    index = row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long()
    return inside & mask.flatten()[index]
