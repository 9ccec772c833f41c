"""From two frames' descriptors to matches on the network's grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from endomatch_ros.matching.features import FrameFeatures
from endomatch_ros.matching.similarity import mutual_matches, sample_descriptors, sub_cell


@dataclass(frozen=True)
class CoarseMatches:
    """Mutual nearest neighbours: ``points0``, ``points1`` ``(K, 2)`` source pixels, ``similarity`` ``(K,)``."""

    points0: NDArray[np.float64]
    points1: NDArray[np.float64]
    similarity: NDArray[np.float32]


def match_coarse(features0: FrameFeatures, features1: FrameFeatures, threshold: float) -> CoarseMatches:
    """Mutual nearest neighbours of two frames' descriptor maps with cosine similarity of at least ``threshold``.

    On a fine map every second cell asks, which costs a quarter and loses nothing: the refinement densifies again.
    """
    map0, map1 = features0.descriptors, features1.descriptors
    fine = map0.shape[-1] * map0.shape[-2] > 4096
    index0, index1, similarity = mutual_matches(
        map0,
        map1,
        features0.usable_cells,
        features1.usable_cells,
        stride=2 if fine else 1,
        tolerance=1.0 if fine else 0.0,
    )
    keep = similarity >= threshold
    index0, index1, similarity = index0[keep], index1[keep], similarity[keep]
    target = sub_cell(map0.flatten(1).T[index0], map1, index1, features1.temperature)
    width = map0.shape[-1]
    cells0 = torch.stack([index0 % width, index0 // width], 1).cpu().numpy()
    return CoarseMatches(
        features0.window.to_source(cells0.astype(np.float64), features0.cell),
        features1.window.to_source(target.double().cpu().numpy(), features1.cell),
        similarity.float().cpu().numpy(),
    )


def descriptor_similarity(
    features0: FrameFeatures, features1: FrameFeatures, points0: NDArray[np.floating], points1: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Cosine similarity ``(N,)`` of the interpolated descriptors at source pixels ``(N, 2)`` of both frames."""

    def at(features: FrameFeatures, points: NDArray[np.floating]) -> torch.Tensor:
        cells = features.window.to_cells(points, features.cell)
        return sample_descriptors(features.descriptors, torch.from_numpy(cells).to(features.descriptors))

    return (at(features0, points0) * at(features1, points1)).sum(1).float().cpu().numpy()
