"""A check: matches must go where the dense field of the model's head says that tissue has gone."""

from __future__ import annotations

import torch
from torch import Tensor

from endomatch_ros.matching.features import FrameFeatures
from endomatch_ros.matching.refiners.dense_field import head_field, missing_head
from endomatch_ros.matching.refiners.field import Field
from endomatch_ros.matching.refiners.interface import Check, Pair, Refined
from endomatch_ros.models import MatcherNetwork


class DenseConsistency(Check):
    """Keeps the matches within ``dense_consistency_cells`` of the field."""

    def lacks(self, network: MatcherNetwork) -> str:
        """A head, if the network has none."""
        return missing_head(network)

    def keep(self, pair: Pair, found: Refined) -> Tensor:
        """``(N,)`` bool, the matches whose displacement is near the field's."""
        limit = pair.config.dense_consistency_cells
        return consistent(head_field(pair), pair.features0, found.points0, found.points1, limit)


def consistent(field: Field, features0: FrameFeatures, points0: Tensor, points1: Tensor, cells: float) -> Tensor:
    """Matches ``(N,)`` bool whose displacement is within ``cells`` descriptor cells of the field's.

    Args:
        field: from the reference on.
        features0: the reference.
        points0: ``(N, 2)`` source pixels of the reference.
        points1: ``(N, 2)`` their partners, source pixels of the current frame.
        cells: the limit.
    """
    window = features0.window
    local = torch.stack([points0[:, 0] - window.x, points0[:, 1] - window.y], 1)
    apart = (points1 - points0 - field.at(local)).square().sum(1).sqrt()
    return apart <= cells * features0.cell_px


STAGE: Check = DenseConsistency()
