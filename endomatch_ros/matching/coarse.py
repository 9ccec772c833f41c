"""From two frames' descriptors to matches on the network's grid."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from endomatch_ros.device import upload
from endomatch_ros.matching.features import FrameFeatures
from endomatch_ros.matching.similarity import locate, mutual_cells, mutual_matches, sample_descriptors

_LARGE = 4000  # cells; above, the similarities of all pairs of cells take longer than the network


@dataclass(frozen=True)
class CoarseMatches:
    """Mutual nearest neighbours, float32 on the model's device.

    Attributes:
        points0, points1: ``(K, 2)`` source pixels.
        similarity: ``(K,)``.
        weight: ``(K,)`` 1 for a match, 0 for a cell that has none; None: all are matches.
    """

    points0: Tensor
    points1: Tensor
    similarity: Tensor
    weight: Tensor | None = None

    @property
    def weights(self) -> Tensor:
        """``weight``, or as many ones."""
        return torch.ones_like(self.similarity) if self.weight is None else self.weight

    def enough(self, least: int) -> Tensor:
        """Whether there are so many matches: bool, without dimensions."""
        return self.weights.sum() >= least

    def compact(self) -> CoarseMatches:
        """The matches alone. The host waits for the device."""
        if self.weight is None:
            return self
        keep = self.weight > 0
        return CoarseMatches(self.points0[keep], self.points1[keep], self.similarity[keep])


def match_coarse(
    features0: FrameFeatures, features1: FrameFeatures, threshold: float, fixed: bool = False
) -> CoarseMatches:
    """Mutual nearest neighbours of two frames' descriptor maps with cosine similarity of at least ``threshold``.

    A fine map is matched on blocks of 2×2 cells first, at a sixteenth of the cost; each match is then located on the
    map itself.

    Args:
        features0: the reference.
        features1: the current frame.
        threshold: as above.
        fixed: all cells of the reference, with weights: the host need not wait for a GPU to know how many match. On a
            CPU it is faster to compute the matches alone.
    """
    map0, map1 = features0.descriptors, features1.descriptors
    block = 2 if map0.shape[-1] * map0.shape[-2] > _LARGE else 1
    pooled0, pooled1 = _pool(map0, block), _pool(map1, block)
    valid = usable_cells(features0, block), usable_cells(features1, block)
    weight = None
    if fixed:
        index1, similarity, mutual = mutual_cells(pooled0, pooled1, *valid, tolerance=block - 1)
        index0 = torch.arange(len(index1), device=index1.device)
        weight = (mutual & (similarity >= threshold)).float()
        similarity = similarity.nan_to_num(neginf=-1.0)
    else:
        index0, index1, similarity = mutual_matches(pooled0, pooled1, *valid, tolerance=block - 1)
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
        weight,
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
    return upload(cells.astype(bool), features.descriptors.device)


def _pool(descriptors: Tensor, block: int) -> Tensor:
    """``(C, h, w)`` averaged over ``block``×``block`` cells, L2-normalised."""
    return (
        descriptors if block == 1 else functional.normalize(functional.avg_pool2d(descriptors[None], block)[0], dim=0)
    )


def descriptor_similarity(
    features0: FrameFeatures, features1: FrameFeatures, points0: Tensor, points1: Tensor
) -> Tensor:
    """Cosine similarity ``(N,)`` of the interpolated descriptors at source pixels ``(N, 2)`` of both frames."""

    def at(features: FrameFeatures, points: Tensor) -> Tensor:
        window, cell = features.window, features.cell
        scale, origin = window.scale.tolist(), (window.x, window.y)
        cells = torch.stack([(points[:, k].double() - origin[k] + 0.5) * scale[k] / cell - 0.5 for k in (0, 1)], 1)
        return sample_descriptors(features.descriptors, cells.to(features.descriptors))

    return (at(features0, points0) * at(features1, points1)).sum(1).float()
