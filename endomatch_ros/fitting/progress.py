"""Progress: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback, RichProgressBar
from torch import Tensor


class Bar(RichProgressBar):
    """Lightning's, without the epochs and the log's version: a run is one pass over its pairs."""

    def get_metrics(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """What stands beside the bar."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics

    def _get_train_description(self, current_epoch: int) -> str:
        return "training"


def terminal() -> bool:
    """Whether somebody watches."""
    return os.isatty(2)


class TextProgress(Callback):
    """Prints step, figures and the time that is left after each validation.

    Args:
        figures: names of those that are printed, in this order, as far as they are known.
        digits: behind the decimal point.
        every: steps between the lines of a run without validation; 0 for none.
        closing: print a line at the end, too, where it does not fall on another one.
    """

    def __init__(self, figures: Sequence[str], digits: int = 3, every: int = 0, closing: bool = False) -> None:
        self._figures, self._digits, self._every, self._closing = figures, digits, every, closing
        self._start, self._first, self._told = 0.0, 0, 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock."""
        self._start, self._first = time.monotonic(), trainer.global_step

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Tensor | Mapping[str, Any] | None,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """A line where no validation gives one."""
        if self._every and trainer.global_step % self._every == 0:
            self._tell(trainer)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """A line, but for the validation before training, which has one of its own."""
        if self._start:
            self._tell(trainer)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """The last line."""
        if self._closing:
            self._tell(trainer)

    def _tell(self, trainer: lightning.Trainer) -> None:
        if not trainer.is_global_zero or trainer.global_step == self._told:
            return
        self._told = trainer.global_step
        metrics = trainer.callback_metrics
        figures = "  ".join(f"{n} {float(metrics[n]):.{self._digits}f}" for n in self._figures if n in metrics)
        taken = max(1, trainer.global_step - self._first)
        left = (trainer.max_steps - trainer.global_step) * (time.monotonic() - self._start) / taken
        print(f"step {trainer.global_step}/{trainer.max_steps}  {figures}  {left / 60:.0f} min left", flush=True)
