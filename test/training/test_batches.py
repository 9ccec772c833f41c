"""Batches of pairs from sources of different image sizes."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from endomatch_ros.training.data import batches_by_source
from endomatch_ros.training.pairs.datasets import Pairs, Side


class Plain:
    """A source of pictures of one size and value."""

    def __init__(self, width, height, value):
        self.image = np.full((height, width, 3), value, np.uint8)

    def draw(self, rng):
        inside = np.ones(self.image.shape[:2], bool)
        side = Side(self.image, inside, inside, rng.uniform(10, 40, (64, 2)))
        return side, side


@pytest.mark.parametrize("count", [1, 3])
def test_validation_batches_hold_each_item_once_and_one_source_each(count):
    sources = [Plain(64 + 8 * k, 80 - 4 * k, 10 + k) for k in range(count)]
    pairs = Pairs(sources, 50, 8, seed=2)
    batches = batches_by_source(pairs, 6)
    assert sorted(index for batch in batches for index in batch) == list(range(50))
    assert len(batches) <= 50 / 6 + count  # no source has more than one batch that is not full
    seen = set()
    for indices, batch in zip(batches, DataLoader(pairs, batch_sampler=batches), strict=True):
        assert indices == sorted(indices)
        assert len(batch["image0"]) == len(indices) <= 6
        value = int(batch["image0"].unique())
        assert batch["image0"].shape[2:] == sources[value - 10].image.shape[:2]
        assert {pairs.source(index) for index in indices} == {value - 10}
        seen.add(value - 10)
    assert seen == set(range(count))


@pytest.mark.parametrize("patch", [1, 14, 16])
def test_images_become_multiples_of_the_patch_by_pixels_out_of_view(patch):
    plain, fitted = (Pairs([Plain(64, 80, 200)], 2, 8, patch=p)[1] for p in (1, patch))
    height, width = (-(-side // patch) * patch for side in (80, 64))
    for k in "01":
        image, view = fitted[f"image{k}"], fitted[f"view{k}"]
        assert image.shape == (3, height, width)
        assert view.shape == (1, height, width)
        assert torch.equal(image[:, :80, :64], plain[f"image{k}"])
        assert view[:, :80, :64].all()
        assert view.sum() == 80 * 64
        assert torch.equal(fitted[f"points{k}"], plain[f"points{k}"])
