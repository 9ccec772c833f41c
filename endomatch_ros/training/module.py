"""The Lightning module: how a matcher network learns from pairs."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from endomatch_ros.errors import ConfigError
from endomatch_ros.fitting.module import FittedModule
from endomatch_ros.fitting.schedule import scheduled, warmup_cosine
from endomatch_ros.models import Descriptors, MatcherNetwork
from endomatch_ros.training.objectives.interface import Objective, Processes
from endomatch_ros.training.objectives.losses import sample_map, to_cells

_log = logging.getLogger(__name__)
_COLLAPSED = 0.3  # share of the first validation's PCK below which training is told to have gone wrong


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW with warm-up and cosine decay to zero over the run.

    Attributes:
        learning_rate: the schedule's peak.
        weight_decay: of matrices and kernels; temperatures, gates, norms and biases are not decayed.
        warmup_steps: steps of linear warm-up.
        clip: largest norm of the gradient.
    """

    learning_rate: float = 3e-3
    weight_decay: float = 0.02
    warmup_steps: int = 100
    clip: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < 1:
            raise ConfigError(f"optimiser.learning_rate is {self.learning_rate}: it must lie between 0 and 1")
        if self.weight_decay < 0 or self.warmup_steps < 0 or self.clip <= 0:
            raise ConfigError(
                f"optimiser: weight_decay {self.weight_decay} and warmup_steps {self.warmup_steps} must not be "
                f"negative, clip {self.clip} must be positive"
            )


class MatcherModule(FittedModule):
    """Trains what the objective says, and Φ if asked to.

    Args:
        network: the model, which the objective has prepared, moved in place.
        optimiser: learning-rate schedule.
        max_steps: its length.
        objective: what is minimised.
        unfreeze: train the backbone, too.
    """

    def __init__(
        self,
        network: MatcherNetwork,
        optimiser: OptimiserConfig,
        max_steps: int,
        objective: Objective,
        unfreeze: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        trained = objective.trains(network) | ({"backbone"} if unfreeze else set())
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name.split(".")[0] in trained)
        self._optimiser, self._max_steps, self._objective = optimiser, max_steps, objective
        self._start_pck: float | None = None

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        """Loss of a batch of pairs."""
        parts = self.losses(batch)
        return self.checked(torch.stack(list(parts.values())).sum(), parts)

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The parts that the loss of a batch of pairs is the sum of, by name."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._objective.keeps_descriptors):
            first, second = self.descriptors(batch)
        processes = Processes(self.global_rank, self._gather) if self.together else Processes()
        return self._objective.losses(self.network, first, second, batch, processes)

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        """PCK of the finest map's nearest neighbour, beside that of no motion at all; the objective's own figures."""
        first, second = self.descriptors(batch)
        map0, map1 = (d.finest.float() for d in (first, second))
        found = nearest_neighbours(map0, map1, batch["points0"], batch["image0"].shape[-1])
        error = (found - batch["points1"]).norm(dim=2)
        right = tolerance(map0, batch["image0"].shape[-1])
        still = (batch["points0"] - batch["points1"]).norm(dim=2)
        figures = {
            "val_pck": (error < right).float().mean(),
            "val_pck_identity": (still < right).float().mean(),
            "val_median_error": error.median(),
        }
        figures |= self._objective.figures(self.network, first, second, batch)
        for name, value in figures.items():
            self.log(name, value, prog_bar=name == "val_pck", batch_size=len(error), sync_dist=self.together)

    def on_validation_epoch_end(self) -> None:
        """Say it when the descriptors have become all alike, as hardest negatives can make poor features."""
        reached = float(self.trainer.callback_metrics["val_pck"])
        if self._start_pck is None:
            self._start_pck = reached
        elif reached < _COLLAPSED * self._start_pck:
            _log.warning(
                "val_pck fell from %.3f to %.3f: the descriptors collapse. Lower optimiser.learning_rate, or train "
                "with --objective.kind infonce",
                self._start_pck,
                reached,
            )

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW and the schedule."""
        c = self._optimiser
        decayed = [p for p in self.parameters() if p.requires_grad and p.ndim > 1]
        plain = [p for p in self.parameters() if p.requires_grad and p.ndim <= 1]
        optimiser = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": c.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=c.learning_rate,
            betas=(0.9, 0.98),
        )
        return scheduled(optimiser, warmup_cosine(min(c.warmup_steps, self._max_steps // 4), self._max_steps))

    def _gather(self, values: Tensor) -> Tensor:
        """The same tensor of all processes, stacked, with gradients."""
        gathered = self.all_gather(values, sync_grads=True)
        assert isinstance(gathered, Tensor)
        return gathered

    def descriptors(self, batch: dict[str, Tensor]) -> tuple[Descriptors, Descriptors]:
        """Descriptor maps of both images of the pairs."""
        # One pass for both: the batch is (2B, 3, H, W).
        images = torch.cat([batch["image0"], batch["image1"]]).float() / 255
        views = torch.cat([batch["view0"], batch["view1"]]).float()
        both = self.network(images, views)
        size = len(images) // 2
        fine = (None, None) if both.fine is None else (both.fine[:size], both.fine[size:])
        return Descriptors(both.coarse[:size], fine[0]), Descriptors(both.coarse[size:], fine[1])


def tolerance(features: Tensor, width: int) -> float:
    """Pixels within which a nearest neighbour counts as right: 5, or more on a map ``(B, C, h, w)`` of large cells.

    The nearest cell's centre may be 0.71 of a cell away, so three quarters of one are allowed.
    """
    return max(5.0, 0.75 * width / features.shape[-1])


def nearest_neighbours(map0: Tensor, map1: Tensor, points0: Tensor, width: int) -> Tensor:
    """Pixels ``(B, K, 2)`` of image 1 whose descriptors are the most similar to those at ``points0`` ``(B, K, 2)``.

    Args:
        map0: ``(B, C, h, w)`` L2-normalised.
        map1: the same of image 1.
        points0: pixels of image 0.
        width: of the images.
    """
    stride = width / map0.shape[-1]
    anchors = sample_map(map0, to_cells(points0, stride))
    best = (anchors @ map1.flatten(2)).argmax(2)
    cells = torch.stack([best % map1.shape[-1], best // map1.shape[-1]], 2)
    return (cells + 0.5) * stride - 0.5
