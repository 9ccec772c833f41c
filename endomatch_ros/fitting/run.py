"""The engine: a run is begun or resumed, fitted on one process or several, and gives the weights that it has chosen."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, ProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger

from endomatch_ros import __version__
from endomatch_ros.device import resolve_device
from endomatch_ros.errors import ConfigError
from endomatch_ros.fitting.checkpoint_io import AtomicCheckpointIO, steps_done
from endomatch_ros.fitting.monitor import Monitor


@dataclass(frozen=True)
class Run:
    """What the engine has to know of a training.

    Attributes:
        output: folder for ``last.ckpt``, ``best.ckpt`` and the log.
        steps: optimiser steps.
        device: auto, cpu, cuda or cuda:N; under torchrun each process takes its own.
        precision: Lightning's; ``auto`` is 16-mixed on CUDA and 32-true on a CPU.
        clip: largest norm of the gradient; 0 leaves it alone.
        validate_every: steps between validations, each followed by a new ``last.ckpt``.
        validated: whether there is anything to validate on.
        accumulate: batches whose gradients are added up before a step.
        best: figure whose best validation is kept as ``best.ckpt``; ``None``: there is no such file.
        patience: validations without a better figure after which the run ends; 0: it never ends early.
    """

    output: Path
    steps: int
    device: str
    precision: str
    clip: float
    validate_every: int
    validated: bool = True
    accumulate: int = 1
    best: Monitor | None = None
    patience: int = 0


def begin(output: Path, resume: bool, seed: int) -> int:
    """Seed everything for the run in a folder; returns the steps that it has behind it, 0 if there is none.

    Raises:
        ConfigError: the folder holds a run that is not to be resumed.
        CheckpointError: ``last.ckpt`` cannot be read.
    """
    last = output / "last.ckpt"
    if last.exists() and not resume:
        raise ConfigError(f"{output} holds a run already: continue it with --resume, or name another --output")
    _quieten()
    lightning.seed_everything(seed, verbose=False)
    return steps_done(last) if last.exists() else 0


def make_trainer(
    run: Run, done: int, callbacks: Sequence[Callback], loggers: Sequence[Logger] = ()
) -> lightning.Trainer:
    """A trainer for the rest of the run.

    Args:
        run: how long, how often, where.
        done: steps behind it.
        callbacks: beside those for checkpoints; progress is among them.
        loggers: beside the CSV file.
    """
    device = torch.device(resolve_device(run.device))
    cuda = device.type == "cuda"
    # torchrun says how many processes there are; without it there is one.
    world, here = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    precision = ("16-mixed" if cuda else "32-true") if run.precision == "auto" else run.precision
    return lightning.Trainer(
        max_steps=run.steps,
        accelerator="gpu" if cuda else "cpu",
        devices=[device.index or 0] if cuda and world == 1 else here,
        num_nodes=max(1, world // here),
        strategy="ddp" if world > 1 else "auto",
        use_distributed_sampler=False,  # Batches shares the pairs out
        precision=precision,  # type: ignore[arg-type]
        accumulate_grad_batches=run.accumulate,
        gradient_clip_val=run.clip or None,
        plugins=[AtomicCheckpointIO()],
        callbacks=[*callbacks, *_keeping(run)],
        # A folder for each start: the CSV logger deletes what it finds.
        logger=[*loggers, CSVLogger(run.output, name="log", version=f"from_step_{done}")],
        val_check_interval=min(run.validate_every, run.steps) * run.accumulate if run.validated else None,
        limit_val_batches=None if run.validated else 0,
        check_val_every_n_epoch=None,  # count steps, also in a resumed run
        log_every_n_steps=max(1, min(10, run.steps // 10)),
        num_sanity_val_steps=0,
        default_root_dir=run.output,
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        enable_model_summary=False,
    )


def _keeping(run: Run) -> list[Callback]:
    """What stops the run and writes its checkpoints, the last one last: a resumed run knows all that this one knew."""
    callbacks: list[Callback] = []
    if run.best is not None:
        figure, mode = run.best.figure, run.best.mode
        if run.patience:
            callbacks.append(EarlyStopping(figure, patience=run.patience, mode=mode, check_on_train_epoch_end=False))
        callbacks.append(
            ModelCheckpoint(run.output, filename="best", monitor=figure, mode=mode, enable_version_counter=False)
        )
    every = None if run.validated else min(run.validate_every, run.steps)
    last = ModelCheckpoint(run.output, filename="last", every_n_train_steps=every, enable_version_counter=False)
    return [*callbacks, last]


def fit(
    trainer: lightning.Trainer, module: lightning.LightningModule, data: lightning.LightningDataModule, done: int
) -> None:
    """Train to the end of the run, which ``last.ckpt`` then holds; a finished run stays as it is.

    Raises:
        KeyboardInterrupt: somebody has interrupted it.
    """
    last = Path(trainer.default_root_dir) / "last.ckpt"
    if done >= trainer.max_steps:
        return
    # weights_only: our own file, in our own output folder.
    trainer.fit(module, datamodule=data, ckpt_path=last if done else None, weights_only=False)
    if trainer.interrupted:
        raise KeyboardInterrupt
    trainer.save_checkpoint(last)  # the last validation may lie some steps back


def load_weights(module: lightning.LightningModule, checkpoint: Path) -> dict[str, Any]:
    """Give a module the weights of a checkpoint of its own run; returns all that the checkpoint holds."""
    state: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=False)
    module.load_state_dict(state["state_dict"])
    return state


def versions() -> str:
    """What the weights of a run were made with."""
    return f"endomatch_ros {__version__}, torch {torch.__version__}"


def _quieten() -> None:
    """Leave out what Lightning says to every run and no user can act upon."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (
        "Checkpoint directory .* exists",  # the run's configuration is in it
        ".*not have many workers",  # one is enough: the network is slower than the data
        ".*dataloader is not resumable",  # Batches begins where the broken run was
        ".*isinstance.treespec",
        ".*all_gather is deprecated",
        ".*smaller than the logging interval",
    ):
        warnings.filterwarnings("ignore", message)
