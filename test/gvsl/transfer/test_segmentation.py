"""A segmentation net: what is trained, and how its classes come back to the stored voxels."""

import numpy as np
import pytest
import torch
from support.segmentation import FEW, SHAPE, VOLUMES, blocks
from torch import nn

from endomatch_ros.errors import ConfigError
from endomatch_ros.gvsl.config import GvslConfig
from endomatch_ros.gvsl.model import GvslModel
from endomatch_ros.gvsl.overlap import dice_per_label
from endomatch_ros.gvsl.transfer.segmentation import (
    Example,
    SegmentationConfig,
    SegmentationNet,
    _batches,
    augmented,
    segment,
    train,
)
from endomatch_ros.gvsl.volumes import Volume, VolumeConfig, prepare

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"))]
TURNED = np.array([[0, -1.0, 0, 30], [1, 0, 0, -4], [0, 0, -1, 11], [0, 0, 0, 1.0]])  # axes A, L, I


def example(seed):
    labels = torch.from_numpy(blocks(seed).astype(np.int64))[None, None]
    return Example(labels.float() / 2, labels)


def make_net(shrink=1, **stub):
    torch.manual_seed(0)
    model = GvslModel(GvslConfig(channels=(8, 8), pool=2, shrink=shrink))
    if stub:
        model.backbone = Answer(**stub)
    return SegmentationNet(model, 3, seed=1)


class Answer(nn.Module):
    """Fine features that are a linear mixture of the classes, which the image shows as 0, ½, 1."""

    def __init__(self, scale, offset):
        super().__init__()
        mixture = torch.randn(8, 3, generator=torch.Generator().manual_seed(2)) * scale
        self.register_buffer("mixture", mixture)
        self.offset = offset

    def forward(self, image):
        classes = nn.functional.one_hot((image[:, 0] * 2).round().long(), 3).float()
        return image, torch.einsum("fc,bxyzc->bfxyz", self.mixture, classes) + self.offset


class Threshold(nn.Module):
    """Class 1 where the image is bright."""

    def __init__(self):
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))

    def forward(self, image):
        return torch.cat([0.5 - image, image - 0.5], dim=1)


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def dice(net, seed):
    device = next(net.parameters()).device
    with torch.no_grad():
        found = net(example(seed).image.to(device)).argmax(1)[0].cpu().numpy()
    return dice_per_label(found, blocks(seed), [1, 2])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shrink", [1, 2])
def test_a_probe_leaves_the_backbone_as_it_is_and_fine_tuning_changes_all_of_it(shrink, device):
    examples = [example(0), example(1)]
    for mode in ("probe", "finetune"):
        net = make_net(shrink).to(device)
        before = state(net)
        train(net, examples, SegmentationConfig(mode, 3, 1e-2), seed=0)
        after = state(net)
        same = [name for name in before if torch.equal(before[name], after[name])]
        assert same == ([name for name in before if name.startswith("backbone.")] if mode == "probe" else [])
        assert net(examples[0].image.to(device)).shape == (1, 3, *SHAPE)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shrink", [1, 2])
def test_features_that_hold_the_answer_are_probed_to_it_on_other_volumes(shrink, device):
    net = make_net(shrink, scale=1.0, offset=0.0).to(device)
    assert dice(net, 7).mean() < 0.6
    train(net, [example(0), example(1)], SegmentationConfig("probe", 60, 0.1, 2), seed=0)
    assert dice(net, 7).min() > (0.99 if shrink == 1 else 0.9)


def test_the_probe_does_not_depend_on_the_features_scale_and_offset():
    images, results = example(7).image, []
    for stub in ({"scale": 1.0, "offset": 0.0}, {"scale": 50.0, "offset": 20.0}):
        net = make_net(**stub)
        train(net, [example(0), example(1)], SegmentationConfig("probe", 10, 0.1, 1), seed=0)
        with torch.no_grad():
            results.append(net(images))
    torch.testing.assert_close(*results, atol=1e-3, rtol=1e-3)


def test_fine_tuning_learns_in_either_precision():
    for precision in ("32-true", "bf16-mixed"):
        net = make_net()
        assert dice(net, 0).mean() < 0.5
        train(net, [example(0)], SegmentationConfig("finetune", 60, 2e-2, augment=False, precision=precision), seed=0)
        assert dice(net, 0).mean() > 0.7


def test_a_loss_that_diverges_is_said_to():
    bad = Example(torch.full((1, 1, *SHAPE), torch.nan), example(0).target)
    with pytest.raises(ConfigError, match=r"learning_rate=0\.01"):
        train(make_net(), [bad], SegmentationConfig(steps=2, learning_rate=0.01, augment=False), seed=0)
    with pytest.raises(ConfigError, match="no labelled volume"):
        train(make_net(), [], FEW, seed=0)


@pytest.mark.parametrize(
    "wrong", [{"mode": "both"}, {"steps": 0}, {"learning_rate": 0.0}, {"batch_size": 1.5}, {"precision": "16"}]
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SegmentationConfig(**wrong)


def test_examples_take_turns():
    chosen = list(_batches(5, 2, 10, np.random.default_rng(0)))
    assert [len(batch) for batch in chosen] == [2] * 10
    assert np.bincount(np.concatenate(chosen)).tolist() == [4] * 5
    assert chosen != list(_batches(5, 2, 10, np.random.default_rng(1)))
    assert list(_batches(1, 2, 1, np.random.default_rng(0))) == [[0, 0]]  # augmented in two ways


def test_image_and_target_are_moved_together():
    original = example(3)
    changed = augmented(original, np.random.default_rng(4))
    assert not torch.equal(changed.target, original.target)
    assert changed.target.dtype == torch.int64
    assert float(changed.image.min()) >= 0.0
    assert float(changed.image.max()) <= 1.0
    # Of the two structures only the brighter one, 1, keeps its intensity under any gamma.
    overlap = dice_per_label((changed.image > 0.75).numpy(), (changed.target == 2).numpy(), [1])
    assert overlap > 0.8
    # The middle one is still halfway to some power.
    inside = changed.image[changed.target == 1]
    assert 0.5**1.5 < float(inside.median()) < 0.5**0.66


@pytest.mark.parametrize("affine", [np.eye(4), TURNED])
def test_a_segmentation_comes_back_to_the_stored_voxels_exactly(affine):
    data = (np.random.default_rng(5).random((9, 13, 8)) > 0.5).astype(np.float32)
    volume = Volume(data, affine)
    found = segment(Threshold(), prepare(volume, VOLUMES, (16, 17, 12)), data.shape)
    np.testing.assert_array_equal(found, data)


def test_a_segmentation_on_a_finer_grid_comes_back_to_coarse_stored_voxels():
    data = (blocks(0) > 0).astype(np.float32)
    prepared = prepare(Volume(data, np.diag([2.0, 1.5, 3.0, 1.0])), VolumeConfig(spacing=1.0, low=0.0, high=100.0))
    assert dice_per_label(segment(Threshold(), prepared, data.shape), data, [1]) > 0.95
