"""Triplets from pairs: anchor, partner, and the wrong descriptor that is easiest to confuse with it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Negatives:
    """The hardest negative of each anchor.

    Attributes:
        similarity: ``(B, K)`` cosine similarity to the anchor; −1 where there is none.
        cells: ``(B, K, 2)`` int64, column and row on the map.
    """

    similarity: Tensor
    cells: Tensor


def hardest_in_image(
    anchors: Tensor, features: Tensor, partners: Tensor, radius: float, valid: Tensor | None = None
) -> Negatives:
    """For each anchor the most similar cell of the other image that is farther than ``radius`` from the true partner.

    Args:
        anchors: ``(B, K, C)`` L2-normalised.
        features: ``(B, C, h, w)`` L2-normalised map of the other image.
        partners: ``(B, K, 2)`` cell coordinates of the true partners.
        radius: in cells; nearer cells show (nearly) the same tissue and are no negatives.
        valid: ``(B, h, w)`` bool, cells inside the view; all if ``None``.
    """
    height, width = features.shape[-2:]
    similarity = anchors @ features.flatten(2)  # (B, K, h·w)
    ys, xs = torch.meshgrid(
        torch.arange(height, device=features.device), torch.arange(width, device=features.device), indexing="ij"
    )
    dx = xs.flatten() - partners[..., :1]
    dy = ys.flatten() - partners[..., 1:]
    barred = dx.square() + dy.square() <= radius * radius
    if valid is not None:
        barred = barred | ~valid.flatten(1)[:, None]
    best, index = similarity.masked_fill(barred, -torch.inf).max(dim=2)
    # An image with nothing beyond the radius has no negative: the opposite direction costs nothing.
    return Negatives(best.clamp_min(-1.0), torch.stack([index % width, index // width], 2))


def hardest_elsewhere(anchors: Tensor, others: Tensor) -> Tensor:
    """Cosine similarity ``(B, K)`` of each anchor's hardest negative among other images' descriptors.

    Args:
        anchors: ``(B, K, C)`` L2-normalised.
        others: ``(B, M, C)`` L2-normalised; row b holds descriptors that do not show what image b shows.
    """
    return (anchors @ others.transpose(1, 2)).max(dim=2).values


def spread_cells(features: Tensor, valid: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """About ``count`` descriptors ``(B, M, C)`` evenly over maps ``(B, C, h, w)``; which are in view, ``(B, M)``."""
    cells = features.shape[-1] * features.shape[-2]
    index = torch.linspace(0, cells - 1, min(count, cells), device=features.device).round().long()
    return features.flatten(2)[:, :, index].transpose(1, 2), valid.flatten(1)[:, index]


def cells_in_view(view: Tensor, height: int, width: int) -> Tensor:
    """``(B, h, w)`` bool: cells at least half of which lie in the view ``(B, 1, H, W)`` bool."""
    return functional.adaptive_avg_pool2d(view.float(), (height, width))[:, 0] >= 0.5
