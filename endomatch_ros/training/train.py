"""Train a matcher network and write ``model.safetensors``."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, Subset

from endomatch_ros import __version__
from endomatch_ros.errors import CheckpointError, ConfigError
from endomatch_ros.models import MatcherNetwork, ModelConfig, save_checkpoint
from endomatch_ros.models.backbone import build_backbone
from endomatch_ros.training.module import MatcherModule, OptimiserConfig
from endomatch_ros.training.pairs import AugmentConfig, ScenePairs
from endomatch_ros.training.render import render_scenes

# Seeds of the synthetic scenes. Test scenes are never rendered here.
TRAIN_SEEDS = range(1000, 10000)
VALIDATION_SEEDS = range(10000, 20000)
TEST_SEEDS = range(20000, 30000)


@dataclass(frozen=True)
class TrainConfig:
    """A training run on the synthetic endoscope.

    Attributes:
        output: directory for ``model.safetensors``, the resumable ``last.ckpt`` and the log.
        scenes: number of training scenes, rendered on first use.
        validation_scenes: number of validation scenes.
        cache: directory of rendered scenes, shared by runs.
        max_steps: optimiser steps.
        batch_size: pairs a step.
        learning_rate: peak of the schedule.
        seed: of weights and data.
        workers: data-loading processes.
        resume: continue from ``output/last.ckpt`` if it is there.
        precision: Lightning's precision, e.g. ``32-true``, ``bf16-mixed``.
        checkpoint_every: steps between checkpoints and validations.
    """

    output: Path
    scenes: int = 360
    validation_scenes: int = 10
    cache: Path = Path(".cache/synthetic")
    max_steps: int = 2000
    batch_size: int = 8
    learning_rate: float = 1.5e-3
    seed: int = 0
    workers: int = 1
    resume: bool = False
    precision: str = "32-true"
    checkpoint_every: int = 250

    def __post_init__(self) -> None:
        for name in ("scenes", "validation_scenes", "max_steps", "batch_size", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} is {getattr(self, name)}: it must be at least 1")
        if not 0 < self.learning_rate < 1:
            raise ConfigError(f"--learning-rate is {self.learning_rate}: it must lie between 0 and 1")
        if self.scenes > len(TRAIN_SEEDS) or self.validation_scenes > len(VALIDATION_SEEDS):
            raise ConfigError(
                f"at most {len(TRAIN_SEEDS)} training and {len(VALIDATION_SEEDS)} validation scenes exist"
            )


def train(config: TrainConfig) -> Path:
    """Render what is missing, train, and return the path of ``model.safetensors``."""
    lightning.seed_everything(config.seed, verbose=False)
    train_files = render_scenes(TRAIN_SEEDS[: config.scenes], config.cache)
    validation_files = render_scenes(VALIDATION_SEEDS[: config.validation_scenes], config.cache)
    model = ModelConfig()
    network = MatcherNetwork(model, build_backbone(model))
    module = MatcherModule(network, OptimiserConfig(config.learning_rate, max_steps=config.max_steps))
    pairs = ScenePairs(train_files, config.max_steps * config.batch_size, seed=config.seed, augment=AugmentConfig())
    check = ScenePairs(validation_files, 64, seed=1, augment=None)
    last = config.output / "last.ckpt"
    resume = config.resume and last.exists()
    # Item k of the data depends on k alone: a resumed run goes on with the pair that the broken one would have drawn.
    seen = _steps(last) * config.batch_size if resume else 0
    rest = Subset(pairs, range(seen, len(pairs)))
    every = min(config.checkpoint_every, config.max_steps)
    checkpoint = ModelCheckpoint(config.output, save_last=True, every_n_train_steps=every, save_top_k=0)
    trainer = lightning.Trainer(
        max_steps=config.max_steps,
        precision=config.precision,  # type: ignore[arg-type]
        callbacks=[checkpoint],
        logger=CSVLogger(config.output, name="log"),
        gradient_clip_val=1.0,
        val_check_interval=every,
        check_val_every_n_epoch=None,  # count steps, also in a resumed run
        log_every_n_steps=10,
        num_sanity_val_steps=0,
        default_root_dir=config.output,
    )
    trainer.fit(
        module,
        DataLoader(rest, config.batch_size, num_workers=config.workers),
        DataLoader(check, config.batch_size),
        ckpt_path=last if resume else None,
        weights_only=False,  # our own file, in our own output directory
    )
    metrics = {k: round(float(v), 4) for k, v in trainer.callback_metrics.items()}
    notes = {
        "recipe": json.dumps({k: str(v) for k, v in vars(config).items() if k not in ("output", "cache")}),
        "data": f"synthetic endoscope, scene seeds {TRAIN_SEEDS[0]} to {TRAIN_SEEDS[config.scenes - 1]}",
        "validation": json.dumps(metrics),
        "versions": f"endomatch_ros {__version__}, torch {torch.__version__}",
    }
    path = config.output / "model.safetensors"
    save_checkpoint(network, path, notes, half=True)
    return path


def _steps(checkpoint: Path) -> int:
    """Optimiser steps behind a Lightning checkpoint."""
    try:
        return int(torch.load(checkpoint, map_location="cpu", weights_only=False)["global_step"])
    except (RuntimeError, KeyError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{checkpoint} cannot be resumed ({error}): remove it and start anew") from error
