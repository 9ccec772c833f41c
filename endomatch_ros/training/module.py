"""The Lightning module: how a matcher network learns from pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from endomatch_ros.models import Descriptors, MatcherNetwork
from endomatch_ros.training.losses import sample_map, symmetric_infonce


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW with warm-up and cosine decay to zero over ``max_steps``."""

    learning_rate: float = 1.5e-3
    weight_decay: float = 0.02
    warmup_steps: int = 100
    max_steps: int = 2000


class MatcherModule(lightning.LightningModule):
    """Trains Φ, Ψ and the fine branch with InfoNCE on both grids.

    Args:
        network: the model, moved in place.
        optimiser: learning-rate schedule.
    """

    def __init__(self, network: MatcherNetwork, optimiser: OptimiserConfig) -> None:
        super().__init__()
        self.network = network
        self._optimiser = optimiser

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        """Loss of a batch of pairs."""
        out = self._descriptors(batch)
        coarse, fine = self._losses(*out, batch)
        self.log("loss_coarse", coarse, prog_bar=True)
        self.log("loss_fine", fine, prog_bar=True)
        return coarse + fine

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        """PCK of the finest map's nearest neighbour, beside that of no motion at all."""
        map0, map1 = (d.finest for d in self._descriptors(batch))
        patch = batch["image0"].shape[-1] / map0.shape[-1]
        anchors = sample_map(map0, (batch["points0"] + 0.5) / patch - 0.5)
        best = (anchors @ map1.flatten(2)).argmax(2)
        cells = torch.stack([best % map1.shape[-1], best // map1.shape[-1]], 2)
        found = (cells + 0.5) * patch - 0.5
        error = (found - batch["points1"]).norm(dim=2)
        still = (batch["points0"] - batch["points1"]).norm(dim=2)
        size = len(error)
        self.log("val_pck5", (error < 5).float().mean(), prog_bar=True, batch_size=size)
        self.log("val_pck5_identity", (still < 5).float().mean(), batch_size=size)
        self.log("val_median_error", error.median(), prog_bar=True, batch_size=size)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW and the schedule; temperatures, gates, norms and biases are not decayed."""
        c = self._optimiser
        decayed = [p for p in self.parameters() if p.requires_grad and p.ndim > 1]
        plain = [p for p in self.parameters() if p.requires_grad and p.ndim <= 1]
        optimiser = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": c.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=c.learning_rate,
            betas=(0.9, 0.98),
        )

        def factor(step: int) -> float:
            if step < c.warmup_steps:
                return (step + 1) / c.warmup_steps
            progress = (step - c.warmup_steps) / max(1, c.max_steps - c.warmup_steps)
            return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _descriptors(self, batch: dict[str, Tensor]) -> tuple[Descriptors, Descriptors]:
        # One pass for both images of the pair: the batch is (2B, 3, H, W).
        images = torch.cat([batch["image0"], batch["image1"]])
        views = torch.cat([batch["view0"], batch["view1"]])
        both = self.network(images, views)
        size = len(images) // 2
        fine = (None, None) if both.fine is None else (both.fine[:size], both.fine[size:])
        return Descriptors(both.coarse[:size], fine[0]), Descriptors(both.coarse[size:], fine[1])

    def _losses(self, d0: Descriptors, d1: Descriptors, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        patch = self.network.config.patch_size

        def level(map0: Tensor, map1: Tensor, log_scale: Tensor) -> Tensor:
            stride = patch * d0.coarse.shape[-1] / map0.shape[-1]
            cells0, cells1 = ((batch[k] + 0.5) / stride - 0.5 for k in ("points0", "points1"))
            # The scale is bounded (CLIP does the same): past 100 the softmax is an argmax and learns nothing.
            return symmetric_infonce(map0.float(), map1.float(), cells0, cells1, log_scale.exp().clamp(max=100.0))

        coarse = level(d0.coarse, d1.coarse, self.network.log_scale_coarse)
        if d0.fine is None or d1.fine is None:
            return coarse, coarse.new_zeros(())
        return coarse, level(d0.fine, d1.fine, self.network.log_scale_fine)
