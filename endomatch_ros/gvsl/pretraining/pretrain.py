"""Pre-train a GVSL model and write ``model.safetensors``."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import lightning
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from endomatch_ros.errors import ConfigError, check_ranges
from endomatch_ros.fitting.batches import Batches, processes, training_loader
from endomatch_ros.fitting.monitor import Monitor
from endomatch_ros.fitting.progress import TextProgress
from endomatch_ros.fitting.run import Run, begin, fit, load_weights, make_trainer, versions
from endomatch_ros.gvsl.checkpoint import save
from endomatch_ros.gvsl.config import GvslConfig
from endomatch_ros.gvsl.losses import LossConfig
from endomatch_ros.gvsl.model import GvslModel
from endomatch_ros.gvsl.pretraining.damage import DamageConfig
from endomatch_ros.gvsl.pretraining.data import DamagedPairs
from endomatch_ros.gvsl.pretraining.module import GvslModule, OptimiserConfig

_PRINTED = ("loss", "val_similarity", "val_similarity_identity", "val_dice", "val_dice_identity", "val_folding_percent")
_MONITORED = {"similarity": "val_similarity", "dice": "val_dice"}


@dataclass(frozen=True)
class PretrainConfig:
    """A pre-training run; the data come beside it.

    Attributes:
        output: folder for model.safetensors, the resumable last.ckpt and the log.
        steps: optimiser steps; the paper takes 2·10⁵.
        batch_size: pairs per step and process.
        seed: of weights and data.
        workers: data-loading processes; 0 loads in the training process.
        precision: Lightning's: 32-true, bf16-mixed, 16-mixed.
        device: auto, cpu, cuda or cuda:N; under torchrun each process takes its own.
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


class PretrainData(lightning.LightningDataModule):
    """The pairs of a run.

    Args:
        config: the run.
        pairs: to train on.
        validation: undamaged pairs, None for a run without validation.
        done: optimiser steps that an earlier, broken run has taken.
    """

    def __init__(
        self,
        config: PretrainConfig,
        pairs: DamagedPairs,
        validation: Dataset[dict[str, Tensor]] | None = None,
        done: int = 0,
    ) -> None:
        super().__init__()
        self._config, self._pairs, self._validation, self._done = config, pairs, validation, done

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """The rest of the run."""
        c = self._config
        batches = Batches(self._done, c.steps, c.batch_size, *processes(self.trainer))
        return training_loader(self._pairs, batches, c.workers)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]] | list[Any]:
        """The same pairs at every validation, in every process."""
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
    _check_choice(config, validation)
    done = begin(config.output, resume, config.seed)
    module = GvslModule(GvslModel(config.model), config.loss, config.optimiser, config.steps)
    trainer = _trainer(config, validation is not None, done)
    fit(trainer, module, PretrainData(config, pairs, validation, done), done)
    path = config.output / "model.safetensors"
    if trainer.is_global_zero:
        facts = {"recipe": json.dumps(plain(config)), "validation": json.dumps(_choose(config, module, trainer))}
        save(module.model, path, {**facts, "versions": versions(), **(notes or {})}, half=True)
    trainer.strategy.barrier("model written")
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


def _trainer(config: PretrainConfig, validated: bool, done: int) -> lightning.Trainer:
    run = Run(
        config.output,
        config.steps,
        config.device,
        config.precision,
        config.optimiser.clip,
        config.validate_every,
        validated,
        best=None if config.choose == "last" else Monitor(_MONITORED[config.choose], "max"),
    )
    every = 0 if validated else min(config.validate_every, config.steps)
    return make_trainer(run, done, [TextProgress(_PRINTED, digits=4, every=every, closing=True)])


def _choose(config: PretrainConfig, module: GvslModule, trainer: lightning.Trainer) -> dict[str, float]:
    """Give the module the chosen weights; returns the validation's last figures, or the step of the best one."""
    if config.choose != "last":
        return {"step": load_weights(module, config.output / "best.ckpt")["global_step"]}
    load_weights(module, config.output / "last.ckpt")
    return {name: round(float(v), 4) for name, v in trainer.callback_metrics.items() if "val_" in name}
