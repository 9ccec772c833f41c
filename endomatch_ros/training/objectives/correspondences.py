"""What the objectives of known correspondences share: both maps of the network are taught alike."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from endomatch_ros.models import Descriptors, MatcherNetwork
from endomatch_ros.training.objectives.interface import Objective, Processes
from endomatch_ros.training.objectives.losses import to_cells


@dataclass(frozen=True)
class Level:
    """A map of the network on a batch of ``B`` pairs; each attribute but the last holds both images' values.

    Attributes:
        maps: ``(B, C, h, w)`` L2-normalised, float32.
        cells: ``(B, K, 2)`` cell coordinates (x, y) that show the same tissue.
        views: ``(B, 1, H, W)`` bool, pixels in view.
        log_scale: logarithm of the map's inverse temperature, scalar.
    """

    maps: tuple[Tensor, Tensor]
    cells: tuple[Tensor, Tensor]
    views: tuple[Tensor, Tensor]
    log_scale: Tensor


@dataclass(frozen=True)
class Correspondences(Objective):
    """Loss of the token grid and of the fine map.

    Attributes:
        fine_weight: of the fine map's loss against the token grid's.
    """

    fine_weight: float

    @abstractmethod
    def level_loss(self, level: Level, processes: Processes) -> Tensor:
        """Loss of one map, scalar."""

    def losses(
        self,
        network: MatcherNetwork,
        first: Descriptors,
        second: Descriptors,
        batch: dict[str, Tensor],
        processes: Processes,
    ) -> dict[str, Tensor]:
        """``coarse`` of the token grid, ``fine`` of the fine map (0 without one)."""
        patch = network.config.patch_size

        def loss(map0: Tensor, map1: Tensor, log_scale: Tensor) -> Tensor:
            stride = patch * first.coarse.shape[-1] / map0.shape[-1]
            cells = to_cells(batch["points0"], stride), to_cells(batch["points1"], stride)
            level = Level((map0.float(), map1.float()), cells, (batch["view0"], batch["view1"]), log_scale)
            return self.level_loss(level, processes)

        coarse = loss(first.coarse, second.coarse, network.log_scale_coarse)
        if first.fine is None or second.fine is None:
            return {"coarse": coarse, "fine": coarse.new_zeros(())}
        fine = loss(first.fine, second.fine, network.log_scale_fine)
        return {"coarse": coarse, "fine": self.fine_weight * fine}
