"""What training minimises on a batch of pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from endomatch_ros.errors import ConfigError
from endomatch_ros.models import Descriptors, MatcherNetwork
from endomatch_ros.training.objectives.losses import sample_map, symmetric_infonce, to_cells, triplet_loss
from endomatch_ros.training.objectives.mining import cells_in_view, spread_cells
from endomatch_ros.training.objectives.registration import DenseConfig

Gather = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ObjectiveConfig:
    """The loss; of correspondences it is taken on the token grid and on the fine map alike.

    Attributes:
        kind: ``triplet``, the paper's margin loss on mined triplets; ``infonce``, cross-entropy over the whole other
            image with a learnt temperature; ``gvsl``, registration of the pair by the model's head, without labels.
        margin: of the triplet loss.
        radius: in cells of the map: nearer to the partner no negative is taken.
        others: descriptors taken from each other image of the batch as further negatives; 0 for none.
        fine_weight: of the fine map's loss against the token grid's.
        dense: of ``gvsl`` alone.
    """

    kind: Literal["triplet", "infonce", "gvsl"] = "triplet"
    margin: float = 1.0
    radius: float = 1.5
    others: int = 64
    fine_weight: float = 1.0
    dense: DenseConfig = field(default_factory=DenseConfig)

    def __post_init__(self) -> None:
        for name, low, high in (("margin", 0, 2), ("radius", 0, 100), ("others", 0, 4096), ("fine_weight", 0, 100)):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"objective.{name} is {getattr(self, name)}: it must lie between {low} and {high}")
        if self.dense.head_only and self.kind != "gvsl":
            raise ConfigError(f"objective.dense.head_only is for the objective gvsl, not {self.kind}: drop one of them")

    @property
    def head_only(self) -> bool:
        """Whether the descriptors stay as they are."""
        return self.dense.head_only


def batch_losses(
    network: MatcherNetwork,
    first: Descriptors,
    second: Descriptors,
    batch: dict[str, Tensor],
    config: ObjectiveConfig,
    rank: int = 0,
    gather: Gather | None = None,
) -> tuple[Tensor, Tensor]:
    """Losses of correspondences: of the token grid and of the fine map (0 without one), scalars.

    Args:
        network: for its patch size and temperatures.
        first: descriptors of the first images of ``B`` pairs.
        second: of the second ones.
        batch: with ``points0``, ``points1`` ``(B, K, 2)`` and ``view0``, ``view1`` ``(B, 1, H, W)`` bool.
        config: the objective.
        rank: of this process among those that train together.
        gather: ``(…)`` to ``(W, …)``, the same tensor of all of them with gradients; ``None`` for one process.
    """
    patch = network.config.patch_size

    def level(map0: Tensor, map1: Tensor, log_scale: Tensor) -> Tensor:
        stride = patch * first.coarse.shape[-1] / map0.shape[-1]
        cells = [to_cells(batch[k], stride) for k in ("points0", "points1")]
        maps = [map0.float(), map1.float()]
        if config.kind == "infonce":
            # The scale is bounded (CLIP does the same): past 100 the softmax is an argmax and learns nothing.
            return symmetric_infonce(maps[0], maps[1], cells[0], cells[1], log_scale.exp().clamp(max=100.0))
        views = [cells_in_view(batch[k], *maps[0].shape[-2:]) for k in ("view0", "view1")]
        others = _other_images(maps, views, config.others, rank, gather) if config.others else None
        return 0.5 * sum(
            (
                triplet_loss(
                    sample_map(maps[i], cells[i]), maps[j], cells[j], config.margin, config.radius, views[j], others
                )
                for i, j in ((0, 1), (1, 0))
            ),
            start=maps[0].new_zeros(()),
        )

    coarse = level(first.coarse, second.coarse, network.log_scale_coarse)
    if first.fine is None or second.fine is None:
        return coarse, coarse.new_zeros(())
    return coarse, config.fine_weight * level(first.fine, second.fine, network.log_scale_fine)


def _other_images(
    maps: list[Tensor], views: list[Tensor], count: int, rank: int, gather: Gather | None
) -> Tensor | None:
    """For each pair descriptors of the other pairs' images ``(B, (N−1)·2·M, C)``; ``None`` for a lone pair.

    All processes' pairs count, so that training on several is training with the larger batch.
    """
    sampled = [spread_cells(m, v, count) for m, v in zip(maps, views, strict=True)]
    # Out of view: a zero vector, similarity 0, is as good as no negative.
    pool = torch.cat([d * inside[..., None] for d, inside in sampled], dim=1)  # (B, 2M, C)
    batch = len(pool)
    if gather is not None:
        pool = gather(pool).flatten(0, 1)  # (W·B, 2M, C)
    if len(pool) < 2:
        return None
    own = torch.arange(batch, device=pool.device) + rank * batch
    steps = torch.arange(1, len(pool), device=pool.device)
    return pool[(own[:, None] + steps) % len(pool)].flatten(1, 2)
