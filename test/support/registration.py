"""Registration models and volumes that are shifted by known amounts."""

from __future__ import annotations

import json

import pytest
import torch

from endomatch_ros.gvsl import checkpoint
from endomatch_ros.gvsl.config import GvslConfig
from endomatch_ros.gvsl.model import GvslModel
from endomatch_ros.gvsl.registration import VOLUMES_NOTE
from endomatch_ros.gvsl.volumes import VolumeConfig

CONFIG = VolumeConfig(size=(16, 16, 16))


def shifted(*offset):
    """A field function that gives the same displacement everywhere."""
    return lambda moving, fixed: torch.tensor(offset).view(1, 3, 1, 1, 1).expand(1, 3, *fixed.shape[2:]).clone()


def save_model(path, volumes=CONFIG, **changes):
    torch.manual_seed(0)
    config = GvslConfig(**{"channels": (4, 8), "pool": 2, **changes})
    notes = {VOLUMES_NOTE: json.dumps(volumes.to_dict())} if volumes else {}
    checkpoint.save(GvslModel(config), path, notes)
    return path


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"))]


def model(dims: int) -> GvslModel:
    """Small, with last layers that move things."""
    torch.manual_seed(0)
    made = GvslModel(GvslConfig(spatial_dims=dims, channels=(8, 16, 32), shrink=2, levels=2, integration_steps=4))
    assert made.head.global_stage is not None
    assert made.head.local_stage is not None
    for layer in (made.head.global_stage.last, *(level[-1] for level in made.head.local_stage.levels)):
        for parameter in layer.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    return made
