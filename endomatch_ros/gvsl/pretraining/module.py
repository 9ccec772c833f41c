"""The Lightning module: how a GVSL model learns from pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from endomatch_ros.errors import ConfigError, check_ranges
from endomatch_ros.fitting.module import FittedModule
from endomatch_ros.fitting.schedule import scheduled, warmup, warmup_cosine
from endomatch_ros.geometry.fields import folding_percent, warp
from endomatch_ros.gvsl.losses import LossConfig, correlation_loss, gvsl_loss
from endomatch_ros.gvsl.model import GvslModel
from endomatch_ros.gvsl.overlap import dice_per_label, mean_dice, present_labels


@dataclass(frozen=True)
class OptimiserConfig:
    """Adam, the paper's, with an optional decay.

    Attributes:
        learning_rate: the paper's is 1e-4, for 2·10⁵ steps.
        decay: ``none`` keeps it, as the paper does; ``cosine`` takes it to zero over the run.
        clip: largest norm of the gradient; 0 leaves it alone.
        warmup: steps over which the rate rises to its value, 0 for none.
    """

    learning_rate: float = 1e-4
    decay: Literal["none", "cosine"] = "none"
    clip: float = 0.0
    warmup: int = 0

    def __post_init__(self) -> None:
        ranges = {"learning_rate": (1e-9, 1.0), "clip": (0.0, 1e6), "warmup": (0, 1e8)}
        check_ranges(self, ranges, whole=("warmup",), what="optimiser.")
        if self.decay not in ("none", "cosine"):
            raise ConfigError(f"optimiser.decay={self.decay!r}: use none or cosine")


class GvslModule(FittedModule):
    """Trains a model; batches are those of :class:`endomatch_ros.gvsl.pretraining.data.DamagedPairs`.

    Args:
        model: trained in place.
        loss: weights and window.
        optimiser: step size.
        steps: length of the run, for the decay.
    """

    def __init__(self, model: GvslModel, loss: LossConfig, optimiser: OptimiserConfig, steps: int) -> None:
        super().__init__()
        self.model = model
        self._loss, self._optimiser, self._steps = loss, optimiser, steps

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        """Loss of a batch of pairs."""
        output = self.model(batch["moving"], batch["fixed"], batch["clean"])
        parts = gvsl_loss(output, batch, self._loss)
        names = ("similarity", "smoothness", "restoration")
        return self.checked(parts.total, {name: getattr(parts, name).detach() for name in names})

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        """Similarity of undamaged pairs before and after registration; with labels, their overlap."""
        moving, fixed = batch["moving"], batch["fixed"]
        field = self.model(moving, fixed).field.float()
        inside = batch["fixed_mask"]
        figures = {
            "val_similarity": -self._similarity(moving, batch["moving_mask"], fixed, inside, field),
            "val_similarity_identity": -self._similarity(
                moving, batch["moving_mask"], fixed, inside, torch.zeros_like(field)
            ),
            "val_folding_percent": folding_percent(field).mean(),
        }
        if "moving_labels" in batch:
            warped = warp(batch["moving_labels"], field, "nearest")
            figures["val_dice"] = _dice(warped, batch["fixed_labels"])
            figures["val_dice_identity"] = _dice(batch["moving_labels"], batch["fixed_labels"])
        self.log_dict(figures, batch_size=len(moving), sync_dist=self.together)

    def _similarity(self, moving: Tensor, mask: Tensor, fixed: Tensor, inside: Tensor, field: Tensor) -> Tensor:
        valid = warp(mask, field, "nearest") * (inside > 0.5)
        return correlation_loss(warp(moving, field), fixed, self._loss, valid)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Adam and the schedule."""
        optimiser = torch.optim.Adam(self.parameters(), lr=self._optimiser.learning_rate)
        rise = self._optimiser.warmup
        return scheduled(
            optimiser, warmup_cosine(rise, self._steps) if self._optimiser.decay == "cosine" else warmup(rise)
        )


def _dice(found: Tensor, true: Tensor) -> Tensor:
    """Mean over a batch's pairs of the mean over labels."""
    pairs = [(a.cpu().numpy(), b.cpu().numpy()) for a, b in zip(found, true, strict=True)]
    dice = [mean_dice(dice_per_label(a, b, present_labels(a, b))) for a, b in pairs]
    return torch.tensor(np.mean(dice), device=found.device)
