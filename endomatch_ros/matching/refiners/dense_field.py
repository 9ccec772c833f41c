"""The dense field of the model's head in source pixels, for refinements to start from and checks to hold against."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from endomatch_ros.matching.features import FrameFeatures
from endomatch_ros.matching.refiners.field import Field
from endomatch_ros.matching.refiners.interface import Pair
from endomatch_ros.models import Descriptors, MatcherNetwork


def missing_head(network: MatcherNetwork) -> str:
    """What a network without head needs, and what to do; empty for one that has it."""
    if network.dense is not None:
        return ""
    return (
        "a model with a head for dense fields, which this one has not: use embedded-dense, train one with `endomatch "
        "train --objective gvsl`, or set refinement to photometric and dense_consistency_cells to 0"
    )


def head_field(pair: Pair) -> Field:
    """The field from the pair's reference to its current frame, computed once per pair."""
    return pair.once("dense", lambda: dense_field(pair.network, pair.features0, pair.features1))


def dense_field(network: MatcherNetwork, features0: FrameFeatures, features1: FrameFeatures) -> Field:
    """The field of the network's head from reference to current frame.

    Args:
        network: with a head.
        features0: the reference.
        features1: the current frame.

    Raises:
        ConfigError: the network has no head.
    """
    with torch.inference_mode():
        reference = _descriptors(features0)
        found = network.register(reference, _sized(_descriptors(features1), reference))
        moved = found.field[0].double().flip(0)  # the head's order is (row, column)
        nodes = [_flow(moved[axis], axis, features0, features1) for axis in (0, 1)]
        return Field(torch.stack(nodes).float(), (features0.window.width, features0.window.height))


def _flow(moved: Tensor, axis: int, features0: FrameFeatures, features1: FrameFeatures) -> Tensor:
    """From cells to source px: ``(h, w)`` movement along an axis (0: x, 1: y) at the centres of the cells."""
    window0, window1, count = features0.window, features1.window, moved.shape[1 - axis]
    # The current frame's map has been brought to the reference's size, so its cells may be no squares.
    side0 = features0.cell / window0.scale[axis]
    side1 = (window1.width, window1.height)[axis] / count
    shift = (window1.x - window0.x, window1.y - window0.y)[axis]
    centres = torch.arange(count, device=moved.device, dtype=moved.dtype) + 0.5
    rest = centres * (side1 - side0) + shift
    flow: Tensor = moved * side1 + (rest if axis == 0 else rest[:, None])
    return flow


def _descriptors(features: FrameFeatures) -> Descriptors:
    """The frame's maps as a batch of one."""
    # Without fine branch the tokens are the finest map.
    fine = None if features.tokens.shape == features.descriptors.shape else features.descriptors[None]
    return Descriptors(features.tokens[None], fine)


def _sized(current: Descriptors, reference: Descriptors) -> Descriptors:
    """``current`` with maps of the reference's size, as the head wants them."""
    fine = None
    if current.fine is not None and reference.fine is not None:
        fine = _resized(current.fine, reference.fine)
    return Descriptors(_resized(current.coarse, reference.coarse), fine)


def _resized(maps: Tensor, like: Tensor) -> Tensor:
    size = like.shape[-2:]
    if maps.shape[-2:] == size:
        return maps
    return functional.normalize(functional.interpolate(maps, size=size, mode="bilinear", align_corners=False), dim=1)
