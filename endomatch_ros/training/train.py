"""Train a matcher network and write ``model.safetensors``."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml
from lightning.pytorch.loggers import TensorBoardLogger

from endomatch_ros.fitting.progress import Bar, TextProgress, terminal
from endomatch_ros.fitting.run import Run, begin, fit, load_weights, make_trainer, versions
from endomatch_ros.models import save_checkpoint
from endomatch_ros.training.config import TrainConfig, to_plain
from endomatch_ros.training.data import TrainingData
from endomatch_ros.training.module import MatcherModule
from endomatch_ros.training.objectives.interface import Objective
from endomatch_ros.training.operating_point import choose_operating_point
from endomatch_ros.training.pictures import PictureLog
from endomatch_ros.training.start import starting_network, starting_notes

_PRINTED = ("loss", "val_pck", "val_pck_identity", "val_median_error")


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
    done = begin(config.output, resume, config.seed)
    network, objective = starting_network(config), config.objective.make()
    module = MatcherModule(network, config.optimiser, config.max_steps, objective, config.unfreeze)
    data = TrainingData(config, network.config.resolution, done, network.config.patch_size)
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        data.prepare_data()  # before anything is written: most runs that fail, fail here
    trainer = _trainer(config, objective, data, done)
    if trainer.is_global_zero:
        config.output.mkdir(parents=True, exist_ok=True)
        (config.output / "config.yaml").write_text(yaml.safe_dump(to_plain(config), sort_keys=False))
    if done == 0:
        _tell_start(trainer, module, data)
    fit(trainer, module, data, done)
    if done >= config.max_steps:
        data.setup("validate")  # as Lightning does in the other cases
    path = config.output / "model.safetensors"
    if trainer.is_global_zero:
        _write_model(config, module, data, trainer.strategy.root_device, path)
    trainer.strategy.barrier("model written")
    return path


def _trainer(config: TrainConfig, objective: Objective, data: TrainingData, done: int) -> lightning.Trainer:
    run = Run(
        config.output,
        config.max_steps,
        config.device,
        config.precision,
        config.optimiser.clip,
        config.validate_every,
        accumulate=config.accumulate,
        best=objective.monitor,
        patience=config.patience,
    )
    progress = Bar() if terminal() else TextProgress((*_PRINTED, *objective.printed))
    board = TensorBoardLogger(config.output, name="log", version="")
    return make_trainer(run, done, [PictureLog(data), progress], [board])


def _tell_start(trainer: lightning.Trainer, module: MatcherModule, data: TrainingData) -> None:
    """Print what the data are, and how good the weights are that training starts from."""
    figures = trainer.validate(module, datamodule=data, verbose=False)[0]
    if trainer.is_global_zero:
        text = "  ".join(f"{name} {value:.3f}" for name, value in figures.items())
        print("\n".join([*data.summary, f"before training  {text}"]), flush=True)


def _write_model(
    config: TrainConfig, module: MatcherModule, data: TrainingData, device: torch.device, path: Path
) -> None:
    """The best validated weights and their operating point, with what they were made of."""
    state, objective = load_weights(module, config.output / "best.ckpt"), config.objective.make()
    notes = {
        "recipe": json.dumps({k: v for k, v in to_plain(config).items() if k not in ("output", "cache")}),
        "data": "; ".join(data.summary),
        "step": str(state["global_step"]),
        "validation": json.dumps(_metrics(state, objective.monitor.figure)),
        "versions": versions(),
    }
    if objective.keeps_descriptors:
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
