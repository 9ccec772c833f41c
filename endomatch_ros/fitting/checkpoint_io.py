"""Checkpoints that are whole or not there, and what can be read of one before training goes on."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from endomatch_ros.errors import CheckpointError


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the file, flushes it to the disk, and renames: a power cut leaves the old file or the new one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path``."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        with part.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)


def steps_done(checkpoint: Path) -> int:
    """Optimiser steps behind a resumable checkpoint; raises :class:`CheckpointError` if it cannot be read."""
    try:
        # Our own file in the run's own folder; Lightning's states are more than tensors.
        return int(torch.load(checkpoint, map_location="cpu", weights_only=False)["global_step"])
    except (RuntimeError, KeyError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{checkpoint} cannot be resumed ({error}): remove it and start anew, or restore it from a backup"
        ) from error
