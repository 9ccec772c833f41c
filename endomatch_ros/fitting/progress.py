"""Progress: a bar on a terminal, a line after each validation elsewhere."""

from __future__ import annotations

import time

import lightning
from lightning.pytorch.callbacks import Callback, RichProgressBar


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


class TextProgress(Callback):
    """Prints step, loss, validation figures and the time that is left."""

    def __init__(self) -> None:
        self._start, self._first = 0.0, 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock."""
        self._start, self._first = time.monotonic(), trainer.global_step

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """One line."""
        if not trainer.is_global_zero or not self._start:  # the validation before training has a line of its own
            return
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items()}
        names = ("loss", "val_pck", "val_pck_identity", "val_median_error", "val_dense_error", "val_folding")
        figures = "  ".join(f"{name} {metrics[name]:.3f}" for name in names if name in metrics)
        taken = trainer.global_step - self._first
        left = (trainer.max_steps - trainer.global_step) * (time.monotonic() - self._start) / max(1, taken)
        print(f"step {trainer.global_step}/{trainer.max_steps}  {figures}  {left / 60:.0f} min left", flush=True)
