"""Train a matcher network and write ``model.safetensors``."""

from __future__ import annotations

import json
import logging
import os
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from endomatch_ros import __version__
from endomatch_ros.errors import ConfigError
from endomatch_ros.fitting.checkpoint_io import AtomicCheckpointIO, steps_done
from endomatch_ros.fitting.progress import Bar, TextProgress
from endomatch_ros.matching.matcher import resolve_device
from endomatch_ros.models import save_checkpoint
from endomatch_ros.training.config import TrainConfig, to_plain
from endomatch_ros.training.data import TrainingData
from endomatch_ros.training.module import MatcherModule
from endomatch_ros.training.operating_point import choose_operating_point
from endomatch_ros.training.pictures import PictureLog
from endomatch_ros.training.start import starting_network, starting_notes


def train(config: TrainConfig, resume: bool = False) -> Path:
    """Prepare the data, train, and return the path of ``model.safetensors`` with the best validated weights.

    Args:
        config: the run.
        resume: continue from ``output/last.ckpt``; without one, start.

    Raises:
        ConfigError: the folder holds a run already, or a setting that cannot be.
        CheckpointError: weights or a checkpoint that cannot be read.
        DataError: recordings without anything to train on.
    """
    last = config.output / "last.ckpt"
    resume = resume and last.exists()
    if last.exists() and not resume:
        raise ConfigError(f"{config.output} holds a run already: continue it with --resume, or name another --output")
    _quieten()
    lightning.seed_everything(config.seed, verbose=False)
    done = steps_done(last) if resume else 0
    network = starting_network(config)
    module = MatcherModule(network, config.optimiser, config.max_steps, config.objective.make(), config.unfreeze)
    data = TrainingData(config, network.config.resolution, done, network.config.patch_size)
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        data.prepare_data()  # before anything is written: most runs that fail, fail here
    trainer = _trainer(config, data, done)
    if trainer.is_global_zero:
        config.output.mkdir(parents=True, exist_ok=True)
        (config.output / "config.yaml").write_text(yaml.safe_dump(to_plain(config), sort_keys=False))
    if done == 0:
        _tell_start(trainer, module, data)
    if done < config.max_steps:
        # weights_only: our own file, in our own output folder.
        trainer.fit(module, datamodule=data, ckpt_path=last if resume else None, weights_only=False)
    else:
        data.setup("validate")  # as Lightning does in the other cases
    path = config.output / "model.safetensors"
    if trainer.is_global_zero:
        _write_model(config, module, data, trainer.strategy.root_device, path)
    trainer.strategy.barrier("model written")
    return path


def _trainer(config: TrainConfig, data: TrainingData, done: int) -> lightning.Trainer:
    device = resolve_device(config.device).split(":")[0]
    precision = ("16-mixed" if device == "cuda" else "32-true") if config.precision == "auto" else config.precision
    world, here = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return lightning.Trainer(
        max_steps=config.max_steps,
        accelerator="gpu" if device == "cuda" else "cpu",
        # torchrun says how many processes there are; without it there is one.
        devices=here,
        num_nodes=max(1, world // here),
        strategy="ddp" if world > 1 else "auto",
        use_distributed_sampler=False,  # Batches shares the pairs out
        precision=precision,  # type: ignore[arg-type]
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=config.optimiser.clip,
        plugins=[AtomicCheckpointIO()],
        callbacks=_callbacks(config, data),
        logger=[
            TensorBoardLogger(config.output, name="log", version=""),
            # A folder for each start: the CSV logger deletes what it finds.
            CSVLogger(config.output, name="log", version=f"from_step_{done}"),
        ],
        val_check_interval=min(config.validate_every, config.max_steps) * config.accumulate,
        check_val_every_n_epoch=None,  # count steps, also in a resumed run
        log_every_n_steps=max(1, min(10, config.max_steps // 10)),
        num_sanity_val_steps=0,
        default_root_dir=config.output,
        enable_progress_bar=_terminal(),
        enable_model_summary=False,
    )


def _callbacks(config: TrainConfig, data: TrainingData) -> list[Callback]:
    monitor = config.objective.make().monitor
    # Both are written after each validation, the last one last: a resumed run knows all that the broken one knew.
    checkpoints = [
        ModelCheckpoint(config.output, filename=name, monitor=figure, mode=monitor.mode, enable_version_counter=False)
        for name, figure in (("best", monitor.figure), ("last", None))
    ]
    progress = Bar() if _terminal() else TextProgress()
    callbacks: list[Callback] = [*checkpoints, PictureLog(data), progress]
    if config.patience:
        callbacks.append(
            EarlyStopping(monitor.figure, patience=config.patience, mode=monitor.mode, check_on_train_epoch_end=False)
        )
    return callbacks


def _tell_start(trainer: lightning.Trainer, module: MatcherModule, data: TrainingData) -> None:
    """Print what the data are, and how good the weights are that training starts from."""
    figures = trainer.validate(module, datamodule=data, verbose=False)[0]
    if trainer.is_global_zero:
        text = "  ".join(f"{name} {value:.3f}" for name, value in figures.items())
        print("\n".join([*data.summary, f"before training  {text}"]), flush=True)


def _quieten() -> None:
    """Leave out what Lightning says to every run and no user can act upon."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (
        "Checkpoint directory .* exists",  # config.yaml is in it
        ".*not have many workers",  # one is enough: the network is slower than the data
        ".*dataloader is not resumable",  # Batches begins where the broken run was
        ".*isinstance.treespec",
        ".*all_gather is deprecated",
        ".*smaller than the logging interval",
    ):
        warnings.filterwarnings("ignore", message)


def _write_model(
    config: TrainConfig, module: MatcherModule, data: TrainingData, device: torch.device, path: Path
) -> None:
    """The best validated weights and their operating point, with what they were made of."""
    best = config.output / "best.ckpt"
    state = torch.load(best, map_location="cpu", weights_only=False)
    module.load_state_dict(state["state_dict"])
    notes = {
        "recipe": json.dumps({k: v for k, v in to_plain(config).items() if k not in ("output", "cache")}),
        "data": "; ".join(data.summary),
        "step": str(state["global_step"]),
        "validation": json.dumps(_metrics(state, config.objective.make().monitor.figure)),
        "versions": f"endomatch_ros {__version__}, torch {torch.__version__}",
    }
    if config.objective.make().keeps_descriptors:
        notes["start"] = starting_notes(config)  # what made the descriptors
    elif config.calibrate:
        notes["operating_point"] = _calibrate(module, data, device)
    save_checkpoint(module.network, path, notes, half=True, include_backbone=config.unfreeze)


def _calibrate(module: MatcherModule, data: TrainingData, device: torch.device) -> str:
    """Give the network the similarity threshold that suits it; returns the figures as JSON."""
    point = choose_operating_point(module, data.val_dataloader(), device)
    if point.threshold is not None:
        module.network.config = replace(module.network.config, similarity_threshold=point.threshold)
    print(point.describe(), flush=True)
    return json.dumps(asdict(point))


def _metrics(state: dict[str, Any], figure: str) -> dict[str, float]:
    scores = [c["best_model_score"] for c in state["callbacks"].values() if c.get("monitor") == figure]
    return {figure: round(float(scores[0]), 4)} if scores else {}


def _terminal() -> bool:
    return os.isatty(2)
