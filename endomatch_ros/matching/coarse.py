"""From two frames' descriptors to matches on the network's grid."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from endomatch_ros.matching.features import FrameFeatures
from endomatch_ros.matching.similarity import locate, mutual_matches, sample_descriptors

_LARGE = 4000  # cells; above, the similarities of all pairs of cells take longer than the network


@dataclass(frozen=True)
class CoarseMatches:
    """Mutual nearest neighbours, float32 on the model's device.

    Attributes:
        points0, points1: ``(K, 2)`` source pixels.
        similarity: ``(K,)``.
    """

    points0: Tensor
    points1: Tensor
    similarity: Tensor


def match_coarse(features0: FrameFeatures, features1: FrameFeatures, threshold: float) -> CoarseMatches:
    """Mutual nearest neighbours of two frames' descriptor maps with cosine similarity of at least ``threshold``.

    A fine map is matched on blocks of 2×2 cells first, at a sixteenth of the cost; each match is then located on the
    map itself.
    """
    map0, map1 = features0.descriptors, features1.descriptors
    block = 2 if map0.shape[-1] * map0.shape[-2] > _LARGE else 1
    pooled0, pooled1 = _pool(map0, block), _pool(map1, block)
    valid0, valid1 = usable_cells(features0, block), usable_cells(features1, block)
    index0, index1, similarity = mutual_matches(pooled0, pooled1, valid0, valid1, tolerance=block - 1)
    keep = similarity >= threshold
    index0, index1, similarity = index0[keep], index1[keep], similarity[keep]
    width0, width1 = pooled0.shape[-1], pooled1.shape[-1]
    corners = block * torch.stack([index1 % width1, index1 // width1], 1) - (block - 1)
    anchors = pooled0.flatten(1).T[index0]
    target = locate(anchors, map1, corners, 3 * block - 2, features1.temperature)
    cells0 = torch.stack([index0 % width0, index0 // width0], 1)
    return CoarseMatches(
        _to_source(cells0, features0, features0.cell * block),
        _to_source(target, features1, features1.cell),
        similarity.float(),
    )


def _to_source(cells: Tensor, features: FrameFeatures, cell: float) -> Tensor:
    """:meth:`Window.to_source` for tensors."""
    window = features.window
    scale, origin = window.scale.tolist(), (window.x, window.y)
    return torch.stack([(cells[:, k].double() + 0.5) * (cell / scale[k]) - 0.5 + origin[k] for k in (0, 1)], 1).float()


def usable_cells(features: FrameFeatures, block: int = 1) -> Tensor:
    """``(h / block, w / block)`` bool on the descriptors' device: blocks of cells whose centre may be matched."""
    part = features.usable[features.window.area].astype(np.uint8)
    height, width = features.descriptors.shape[-2:]
    cells = cv2.resize(part, (int(width) // block, int(height) // block), interpolation=cv2.INTER_NEAREST)
    return torch.from_numpy(cells.astype(bool)).to(features.descriptors.device)


def _pool(descriptors: Tensor, block: int) -> Tensor:
    """``(C, h, w)`` averaged over ``block``×``block`` cells, L2-normalised."""
    return (
        descriptors if block == 1 else functional.normalize(functional.avg_pool2d(descriptors[None], block)[0], dim=0)
    )


def descriptor_similarity(
    features0: FrameFeatures, features1: FrameFeatures, points0: NDArray[np.floating], points1: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Cosine similarity ``(N,)`` of the interpolated descriptors at source pixels ``(N, 2)`` of both frames."""

    def at(features: FrameFeatures, points: NDArray[np.floating]) -> torch.Tensor:
        cells = features.window.to_cells(points, features.cell)
        return sample_descriptors(features.descriptors, torch.from_numpy(cells).to(features.descriptors))

    return (at(features0, points0) * at(features1, points1)).sum(1).float().cpu().numpy()
