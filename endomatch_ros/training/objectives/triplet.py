"""The paper's margin loss on mined triplets (arXiv 2512.10379)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from endomatch_ros.training.objectives.correspondences import Correspondences, Level
from endomatch_ros.training.objectives.interface import Processes
from endomatch_ros.training.objectives.losses import sample_map, triplet_loss
from endomatch_ros.training.objectives.mining import cells_in_view, spread_cells


@dataclass(frozen=True)
class Triplet(Correspondences):
    """Anchor, partner and the hardest negatives, of the same image and of the batch's others.

    Attributes:
        margin: least difference of the distances.
        radius: in cells of the map: nearer to the partner no negative is taken.
        others: descriptors taken from each other image as further negatives; 0 for none.
    """

    name = "triplet"
    margin: float
    radius: float
    others: int

    def level_loss(self, level: Level, processes: Processes) -> Tensor:
        """Mean of both ways."""
        maps, cells = level.maps, level.cells
        views = [cells_in_view(view, *maps[0].shape[-2:]) for view in level.views]
        others = _other_images(maps, views, self.others, processes) if self.others else None
        return 0.5 * sum(
            (
                triplet_loss(
                    sample_map(maps[i], cells[i]), maps[j], cells[j], self.margin, self.radius, views[j], others
                )
                for i, j in ((0, 1), (1, 0))
            ),
            start=maps[0].new_zeros(()),
        )


def _other_images(maps: tuple[Tensor, Tensor], views: list[Tensor], count: int, processes: Processes) -> Tensor | None:
    """For each pair descriptors of the other pairs' images ``(B, (N−1)·2·M, C)``; ``None`` for a lone pair.

    All processes' pairs count, so that training on several is training with the larger batch.
    """
    sampled = [spread_cells(m, v, count) for m, v in zip(maps, views, strict=True)]
    # Out of view: a zero vector, similarity 0, is as good as no negative.
    pool = torch.cat([d * inside[..., None] for d, inside in sampled], dim=1)  # (B, 2M, C)
    batch = len(pool)
    if processes.gather is not None:
        pool = processes.gather(pool).flatten(0, 1)  # (W·B, 2M, C)
    if len(pool) < 2:
        return None
    own = torch.arange(batch, device=pool.device) + processes.rank * batch
    steps = torch.arange(1, len(pool), device=pool.device)
    return pool[(own[:, None] + steps) % len(pool)].flatten(1, 2)
