"""The course of a learning rate over a run."""

from __future__ import annotations

import math
from collections.abc import Callable

from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

Factor = Callable[[int], float]
"""Number of a step, from 0 on, to the share of the peak rate that it takes, 0 to 1."""


def warmup(steps: int) -> Factor:
    """Linear up to 1 over so many steps, then 1."""
    return lambda step: (step + 1) / steps if step < steps else 1.0


def warmup_cosine(steps: int, total: int) -> Factor:
    """Linear up to 1 over so many steps, then half a cosine to 0 at ``total``."""

    def factor(step: int) -> float:
        if step < steps:
            return (step + 1) / steps
        progress = (step - steps) / max(1, total - steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return factor


def scheduled(optimiser: Optimizer, factor: Factor) -> OptimizerLRSchedulerConfig:
    """What ``configure_optimizers`` returns: the optimiser, its rate set anew at every step."""
    return {"optimizer": optimiser, "lr_scheduler": {"scheduler": LambdaLR(optimiser, factor), "interval": "step"}}
