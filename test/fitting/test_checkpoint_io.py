"""Checkpoints that are whole or not there."""

import pytest
import torch

from endomatch_ros.errors import CheckpointError
from endomatch_ros.fitting.checkpoint_io import AtomicCheckpointIO, steps_done


def test_a_checkpoint_is_whole_or_the_old_one(tmp_path, monkeypatch):
    target = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"global_step": 3}, target)
    monkeypatch.setattr(torch, "save", lambda value, file: (file.write(b"half"), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        AtomicCheckpointIO().save_checkpoint({"global_step": 4}, target)
    assert steps_done(target) == 3
    target.write_bytes(b"half")
    with pytest.raises(CheckpointError, match="cannot be resumed"):
        steps_done(target)
