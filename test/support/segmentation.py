"""Volumes to segment."""

import numpy as np
import pytest
import torch

from endomatch_ros.gvsl.transfer.segmentation import (
    SegmentationConfig,
)
from endomatch_ros.gvsl.volumes import VolumeConfig

SHAPE = (12, 14, 10)


VOLUMES = VolumeConfig(size=(16, 16, 12))


FEW = SegmentationConfig(steps=3, learning_rate=1e-2, batch_size=2)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def blocks(seed):
    """A label map with two structures on even voxels, so that cells of two voxels show one class each."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(SHAPE, np.uint8)
    x, y, z = 2 * rng.integers(0, 3, 3)
    labels[x : x + 4, y : y + 4, z : z + 4] = 1
    labels[x + 4 : x + 8, y : y + 6, z : z + 4] = 2
    return labels
