"""Pre-training in several processes."""

import csv
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from support.volumes import store

from endomatch_ros.gvsl import checkpoint
from endomatch_ros.gvsl.config import preset_config
from endomatch_ros.gvsl.model import GvslModel


def run(folder, output, batch, *launcher):
    options = ["--size", "12", "12", "8", "--channels", "4", "8", "--window", "5", "--steps", "4", "--split", "auto"]
    options += ["--validate-every", "2", "--decay", "cosine", "--learning-rate", "1e-3", "--clip", "1"]
    options += ["--device", "cpu", "--batch-size", str(batch), "--data", str(folder), "--output", str(output)]
    command = [sys.executable, *launcher, "-m", "endomatch_ros.cli", "pretrain", "volume", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def state(output):
    return torch.load(output / "last.ckpt", map_location="cpu", weights_only=False)["state_dict"]


def figures(output, name):
    with (output / "log" / "from_step_0" / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


def test_two_processes_with_half_the_batch_are_one_with_the_whole(tmp_path):
    """The volumes fill the grid, so that pairs count alike: a loss is the mean over what is valid in its own batch."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for k in range(20):  # every tenth is for validation
        image = rng.random((12, 12, 8)) + np.linspace(0, 1 + k / 10, 12)[:, None, None]
        store(tmp_path / "images" / f"s{k:02d}.nii.gz", image.astype(np.float32), np.eye(4))
    one, two = tmp_path / "one", tmp_path / "two"
    run(tmp_path, one, 2)
    told = run(tmp_path, two, 1, "-m", "torch.distributed.run", "--nproc-per-node=2")
    for line in ("18 volumes for training", "step 2/4", "step 4/4", "wrote "):
        assert told.count(line) == 1, line
    assert checkpoint.load(two / "model.safetensors")[1]["subjects"].count(" ") == 17

    torch.manual_seed(0)  # as the run does
    begun = {f"model.{k}": v for k, v in GvslModel(preset_config("volume-small", channels=(4, 8))).state_dict().items()}
    ends = state(one), state(two)
    # Adam's first steps have the size of the learning rate whatever the gradient's, so rounding may decide a direction.
    movement = sum(float((ends[0][k] - begun[k]).square().sum()) for k in begun)
    apart = sum(float((ends[0][k] - ends[1][k]).square().sum()) for k in begun)
    assert apart < 1e-3 * movement
    assert 0 < max(float((ends[0][k] - begun[k]).abs().max()) for k in begun) < 4.1e-3  # four steps from the same start
    for name in ("loss", "loss_restoration", "val_similarity"):
        assert len(figures(one, name)) >= 2
        assert figures(one, name) == pytest.approx(figures(two, name), rel=1e-3), name
