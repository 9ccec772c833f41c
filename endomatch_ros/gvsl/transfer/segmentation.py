"""Segmentation with a pre-trained backbone: a linear layer on its fine features, alone or with the backbone trained."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from monai.networks.blocks.convolutions import Convolution
from numpy.typing import NDArray
from torch import nn

from endomatch_ros.errors import ConfigError, check_ranges
from endomatch_ros.geometry.affine import AffineLimits, bounded_matrix, parameter_count
from endomatch_ros.geometry.fields import affine_field, identity_grid, warp
from endomatch_ros.gvsl.model import GvslModel, enlarged_values, shrunk
from endomatch_ros.gvsl.volumes import Prepared, transform

_LIMITS = AffineLimits(rotation=math.pi / 18, shear=math.pi / 36, scale=0.15, translation=0.05)
_LARGEST_LOG_GAMMA = 0.4


@dataclass(frozen=True)
class SegmentationConfig:
    """How a segmentation is trained.

    Attributes:
        mode: ``probe`` trains the linear layer and leaves the backbone as it is; ``finetune`` trains both.
        steps: optimiser steps.
        learning_rate: Adam's; a cosine takes it to zero over the run.
        batch_size: volumes per step.
        augment: in fine-tuning, show each volume turned, scaled, shifted and with its intensities bent.
        precision: of the network in fine-tuning, ``32-true`` or ``bf16-mixed``.
    """

    mode: Literal["probe", "finetune"] = "finetune"
    steps: int = 100
    learning_rate: float = 2e-3
    batch_size: int = 1
    augment: bool = True
    precision: Literal["32-true", "bf16-mixed"] = "32-true"

    def __post_init__(self) -> None:
        ranges: dict[str, tuple[float, float]] = {"steps": (1, 1e7), "batch_size": (1, 4096)}
        check_ranges(self, {**ranges, "learning_rate": (1e-9, 10.0)}, whole=tuple(ranges))
        if self.mode not in ("probe", "finetune"):
            raise ConfigError(f"mode={self.mode!r}: use probe or finetune")
        if self.precision not in ("32-true", "bf16-mixed"):
            raise ConfigError(f"precision={self.precision!r}: use 32-true or bf16-mixed")


@dataclass(frozen=True, eq=False)
class Example:
    """A volume to learn from.

    Attributes:
        image: ``(1, 1, *spatial)`` float32 in [0, 1].
        target: ``(1, 1, *spatial)`` int64 classes, 0 the background.
    """

    image: torch.Tensor
    target: torch.Tensor


class SegmentationNet(nn.Module):
    """A backbone and a linear classification of its fine features.

    Args:
        model: gives the backbone, of which this is a copy, and by how much it sees images smaller.
        classes: of voxels, the background among them.
        seed: of the linear layer's weights.
    """

    def __init__(self, model: GvslModel, classes: int, seed: int) -> None:
        super().__init__()
        config = model.config
        self.shrink = config.shrink
        self.backbone = copy.deepcopy(model.backbone)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.classifier = Convolution(
                config.spatial_dims, config.channels[0], classes, kernel_size=1, conv_only=True
            )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits ``(B, classes, *spatial)`` of images ``(B, C, *spatial)`` in [0, 1]."""
        return self.classify(self.features(image), image.shape[2:])

    def features(self, image: torch.Tensor) -> torch.Tensor:
        """The backbone's fine features, ``shrink`` times smaller than the image."""
        fine: torch.Tensor = self.backbone(shrunk(image, self.shrink))[1]
        return fine

    def classify(self, features: torch.Tensor, spatial: Sequence[int]) -> torch.Tensor:
        """Logits of features, in float32, enlarged to the image's size before anything that is not linear."""
        return enlarged_values(self.classifier(features).float(), self.shrink, spatial)


def train(net: SegmentationNet, examples: Sequence[Example], config: SegmentationConfig, seed: int) -> None:
    """Train ``net`` in place to minimise Dice loss + cross-entropy; afterwards it is in eval mode.

    Args:
        net: on any device; the examples are moved there.
        examples: at least one, of one size.
        config: what to train and how long.
        seed: of order and augmentation; the same one gives the same result.

    Raises:
        ConfigError: no examples, or the loss is no longer finite.
    """
    if not examples:
        raise ConfigError("there is no labelled volume to learn from: give at least one")
    rng = np.random.default_rng(seed)
    net.eval()  # nothing in the network behaves otherwise in training
    if config.mode == "probe":
        _probe(net, examples, config, rng)
    else:
        _fine_tune(net, examples, config, rng)


def _fine_tune(
    net: SegmentationNet, examples: Sequence[Example], config: SegmentationConfig, rng: np.random.Generator
) -> None:
    device = next(net.parameters()).device

    def logits(chosen: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        shown = [augmented(examples[k], rng) if config.augment else examples[k] for k in chosen]
        images = torch.cat([example.image for example in shown]).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16-mixed"):
            found = net(images)
        return found, torch.cat([example.target for example in shown]).to(device)

    _minimise(net.parameters(), logits, len(examples), config, rng)


def _probe(
    net: SegmentationNet, examples: Sequence[Example], config: SegmentationConfig, rng: np.random.Generator
) -> None:
    device = next(net.parameters()).device
    with torch.no_grad():
        features = [net.features(example.image.to(device)) for example in examples]
        axes = [0, *range(2, features[0].dim())]
        # Initialisations differ in their features' scale, which must not decide how well a learning rate suits them.
        spread, mean = torch.std_mean(torch.cat(features), axes, keepdim=True)
        spread = spread.clamp_min(1e-6)
        features = [(feature - mean) / spread for feature in features]

    def logits(chosen: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        target = torch.cat([examples[k].target for k in chosen]).to(device)
        return net.classify(torch.cat([features[k] for k in chosen]), target.shape[2:]), target

    _minimise(net.classifier.parameters(), logits, len(examples), config, rng)
    with torch.no_grad():  # the same function of the features as they are
        weight, bias = net.classifier.parameters()
        weight.div_(spread)
        bias.sub_((weight * mean).flatten(1).sum(1))


def _minimise(
    parameters: Iterable[nn.Parameter],
    logits: Callable[[Sequence[int]], tuple[torch.Tensor, torch.Tensor]],
    count: int,
    config: SegmentationConfig,
    rng: np.random.Generator,
) -> None:
    """Adam on batches of ``count`` examples; ``logits`` gives logits and targets of some of them."""
    from monai.losses.dice import DiceCELoss  # takes seconds

    loss = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False)
    optimiser = torch.optim.Adam(parameters, lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)
    for chosen in _batches(count, config.batch_size, config.steps, rng):
        value = loss(*logits(chosen))
        if not bool(torch.isfinite(value)):
            raise ConfigError(
                f"the loss is {float(value.detach())} at learning_rate={config.learning_rate:g}: lower it"
            )
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        schedule.step()


def _batches(count: int, size: int, steps: int, rng: np.random.Generator) -> Iterator[list[int]]:
    """``steps`` batches of indices below ``count``, every one as often as any other, to within one."""
    passes = math.ceil(size * steps / count)
    order = np.concatenate([rng.permutation(count) for _ in range(passes)])
    return (order[k * size : (k + 1) * size].tolist() for k in range(steps))


def augmented(example: Example, rng: np.random.Generator) -> Example:
    """The example under a random affine map (10° about each axis, shear 5°, scale 15%, shift 5%) and a random gamma."""
    spatial = example.image.shape[2:]
    raw = torch.from_numpy(rng.uniform(-2, 2, (1, parameter_count(len(spatial)))).astype(np.float32))
    field = affine_field(bounded_matrix(raw, spatial, _LIMITS), spatial)
    gamma = math.exp(rng.uniform(-_LARGEST_LOG_GAMMA, _LARGEST_LOG_GAMMA))
    image = warp(example.image, field).clamp(0.0, 1.0) ** gamma
    return Example(image, warp(example.target, field, "nearest", "zeros"))


def segment(net: SegmentationNet, prepared: Prepared, shape: Sequence[int]) -> NDArray[np.int64]:
    """Classes of a volume's stored voxels.

    Args:
        net: the network.
        prepared: the volume on the network's grid.
        shape: of the stored array.

    Returns:
        ``shape``: the class with the largest logit, interpolated between the grid's voxels.
    """
    with torch.inference_mode():
        logits = net(prepared.image.to(next(net.parameters()).device)).cpu()
        stored = identity_grid(shape, torch.empty(0, dtype=torch.float64))
        on_grid = transform(np.linalg.inv(prepared.grid.voxel_from_grid).astype(np.float64), stored)
        return np.asarray(warp(logits, (on_grid - stored).float())[0].argmax(0).numpy())
