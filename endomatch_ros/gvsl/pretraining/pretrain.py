"""Pre-train a GVSL model and write ``model.safetensors``."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from endomatch_ros import __version__
from endomatch_ros.device import resolve_device
from endomatch_ros.errors import ConfigError, check_ranges
from endomatch_ros.fitting.checkpoint_io import AtomicCheckpointIO, steps_done
from endomatch_ros.gvsl.checkpoint import save
from endomatch_ros.gvsl.config import GvslConfig
from endomatch_ros.gvsl.losses import LossConfig
from endomatch_ros.gvsl.model import GvslModel
from endomatch_ros.gvsl.pretraining.damage import DamageConfig
from endomatch_ros.gvsl.pretraining.data import DamagedPairs
from endomatch_ros.gvsl.pretraining.module import GvslModule, OptimiserConfig

_SHOWN = ("loss", "val_similarity", "val_similarity_identity", "val_dice", "val_dice_identity", "val_folding_percent")
_MONITORED = {"similarity": "val_similarity", "dice": "val_dice"}


@dataclass(frozen=True)
class PretrainConfig:
    """A pre-training run; the data come beside it.

    Attributes:
        output: folder for model.safetensors, the resumable last.ckpt and the log.
        steps: optimiser steps; the paper takes 2·10⁵.
        batch_size: pairs per step.
        seed: of weights and data.
        workers: data-loading processes; 0 loads in the training process.
        precision: Lightning's: 32-true, bf16-mixed, 16-mixed.
        device: auto, cpu or cuda.
        validate_every: steps between validations; each is followed by a new last.ckpt.
        choose: which weights are written: the ``last`` ones, or those of the best validation by ``similarity``, or by
            ``dice``, which makes use of the validation subjects' labels.
        model: the network's shape.
        loss: weights and window.
        damage: of image A.
        optimiser: step size.
    """

    output: Path
    steps: int = 20_000
    batch_size: int = 2
    seed: int = 0
    workers: int = 0
    precision: str = "32-true"
    device: str = "auto"
    validate_every: int = 500
    choose: Literal["last", "similarity", "dice"] = "last"
    model: GvslConfig = field(default_factory=GvslConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    damage: DamageConfig = field(default_factory=DamageConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)

    def __post_init__(self) -> None:
        counts = {"steps": (1, 1e8), "batch_size": (1, 4096), "validate_every": (1, 1e8), "workers": (0, 256)}
        check_ranges(self, {**counts, "seed": (0, 2**31)}, whole=(*counts, "seed"))
        if self.choose not in ("last", *_MONITORED):
            raise ConfigError(f"choose={self.choose!r}: use last, {' or '.join(_MONITORED)}")


class _Stream(IterableDataset[dict[str, Tensor]]):
    """Pairs from batch ``start`` on, without end, in the same order for any number of workers."""

    def __init__(self, pairs: DamagedPairs, start: int, size: int) -> None:
        self._pairs, self._start, self._size = pairs, start, size

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        # Workers are asked for batches in turn.
        info = get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        for batch in itertools.count(self._start + first, step):
            yield from (self._pairs[batch * self._size + k] for k in range(self._size))


class PretrainData(lightning.LightningDataModule):
    """The pairs of a run.

    Args:
        config: the run.
        pairs: to train on.
        validation: undamaged pairs, None for a run without validation.
    """

    def __init__(
        self, config: PretrainConfig, pairs: DamagedPairs, validation: Dataset[dict[str, Tensor]] | None = None
    ) -> None:
        super().__init__()
        self._config, self._pairs, self._validation = config, pairs, validation

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """The rest of the run: a resumed trainer knows by now how many steps are behind it."""
        c = self._config
        stream = _Stream(self._pairs, self.trainer.global_step if self.trainer else 0, c.batch_size)
        return DataLoader(stream, c.batch_size, num_workers=c.workers, persistent_workers=c.workers > 0)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]] | list[Any]:
        """The same pairs at every validation."""
        return [] if self._validation is None else DataLoader(self._validation, 1)


def pretrain(
    config: PretrainConfig,
    pairs: DamagedPairs,
    validation: Dataset[dict[str, Tensor]] | None = None,
    notes: dict[str, str] | None = None,
    resume: bool = False,
) -> Path:
    """Train and return the path of ``model.safetensors``.

    Args:
        config: the run.
        pairs: to train on.
        validation: undamaged pairs for the figures that are reported and, if ``config.choose`` says so, the choice.
        notes: kept in the model's file.
        resume: go on from ``output/last.ckpt``; without one, start. The result is that of an unbroken run.

    Raises:
        ConfigError: the folder holds a run already; validation is needed for the choice but missing; the loss is no
            number.
        CheckpointError: ``last.ckpt`` cannot be read.
    """
    last = config.output / "last.ckpt"
    if last.exists() and not resume:
        raise ConfigError(f"{config.output} holds a run already: go on with --resume, or name another --output")
    _check_choice(config, validation)
    if last.exists():
        steps_done(last)  # raises where it cannot be read
    _quieten()
    lightning.seed_everything(config.seed, verbose=False)
    module = GvslModule(GvslModel(config.model), config.loss, config.optimiser, config.steps)
    trainer = _trainer(config, validation is not None)
    data = PretrainData(config, pairs, validation)
    # weights_only: our own file, in our own output folder.
    trainer.fit(module, datamodule=data, ckpt_path=last if last.exists() else None, weights_only=False)
    if trainer.interrupted:
        raise KeyboardInterrupt
    trainer.save_checkpoint(last)  # the last validation may lie some steps back
    chosen = _choose(config, module)
    path = config.output / "model.safetensors"
    versions = f"endomatch_ros {__version__}, torch {torch.__version__}"
    facts = {"recipe": json.dumps(plain(config)), "validation": json.dumps(chosen), "versions": versions}
    save(module.model, path, {**facts, **(notes or {})}, half=True)
    return path


def plain(value: Any) -> Any:
    """A configuration as JSON can hold it, without the output folder."""
    values = dataclasses.asdict(value)
    values.pop("output", None)
    return values


def _check_choice(config: PretrainConfig, validation: Dataset[dict[str, Tensor]] | None) -> None:
    if config.choose == "last":
        return
    if validation is None:
        raise ConfigError(f"choose={config.choose!r} needs validation subjects, but there are none: use last")
    if config.choose == "dice" and "moving_labels" not in validation[0]:
        raise ConfigError("choose='dice' needs label maps of all validation subjects: use similarity or last")


def _trainer(config: PretrainConfig, validated: bool) -> lightning.Trainer:
    device = torch.device(resolve_device(config.device))
    every = min(config.validate_every, config.steps)
    last = ModelCheckpoint(
        config.output,
        filename="last",
        every_n_train_steps=None if validated else every,
        enable_version_counter=False,
    )
    callbacks: list[Callback] = [_Report(every)]
    if config.choose != "last":
        best = {"filename": "best", "monitor": _MONITORED[config.choose], "mode": "max"}
        callbacks.append(ModelCheckpoint(config.output, enable_version_counter=False, **best))  # type: ignore[arg-type]
    return lightning.Trainer(
        max_steps=config.steps,
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=[device.index or 0] if device.type == "cuda" else 1,
        precision=config.precision,  # type: ignore[arg-type]
        plugins=[AtomicCheckpointIO()],
        gradient_clip_val=config.optimiser.clip or None,
        callbacks=[*callbacks, last],  # the last one knows what the others have done
        logger=CSVLogger(config.output, name="log"),
        val_check_interval=every if validated else None,
        limit_val_batches=None if validated else 0,
        check_val_every_n_epoch=None,  # count steps, also in a resumed run
        log_every_n_steps=max(1, min(10, config.steps // 10)),
        num_sanity_val_steps=0,
        default_root_dir=config.output,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


class _Report(Callback):
    """Prints a line after each validation, or as often where there is none."""

    def __init__(self, every: int) -> None:
        self._every, self._start, self._first = every, 0.0, 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock."""
        self._start, self._first = time.monotonic(), trainer.global_step

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The line of the steps so far: by now their validation is over."""
        if trainer.global_step > self._first and trainer.global_step % self._every == 0:
            self._print(trainer)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """The last line."""
        self._print(trainer)

    def _print(self, trainer: lightning.Trainer) -> None:
        metrics = trainer.callback_metrics
        figures = "  ".join(f"{name} {float(metrics[name]):.4f}" for name in _SHOWN if name in metrics)
        taken = max(1, trainer.global_step - self._first)
        left = (trainer.max_steps - trainer.global_step) * (time.monotonic() - self._start) / taken
        print(f"step {trainer.global_step}/{trainer.max_steps}  {figures}  {left / 60:.0f} min left", flush=True)


def _choose(config: PretrainConfig, module: GvslModule) -> dict[str, float]:
    """Give the module the chosen weights; returns the validation's last figures."""
    metrics = {name: round(float(v), 4) for name, v in module.trainer.callback_metrics.items() if "val_" in name}
    if config.choose != "last":
        state = torch.load(config.output / "best.ckpt", map_location="cpu", weights_only=False)
        module.load_state_dict(state["state_dict"])
        metrics = {"step": state["global_step"]}
    return metrics


def _quieten() -> None:
    """Leave out what Lightning says to every run and no user can act upon."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (
        "Checkpoint directory .* exists",
        ".*not have many workers",
        ".*dataloader is not resumable",  # the stream begins where the broken run was
        ".*isinstance.treespec",
        ".*smaller than the logging interval",
        "Using a non-tuple sequence",  # MONAI's smoothness
    ):
        warnings.filterwarnings("ignore", message)
