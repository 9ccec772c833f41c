"""The dense field of the model's head in source pixels, for refinements to start from and checks to hold against."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from endomatch_ros.matching.features import FrameFeatures
from endomatch_ros.matching.refiners.flow_field import bilinear
from endomatch_ros.matching.refiners.interface import Pair
from endomatch_ros.models import Descriptors, MatcherNetwork


@dataclass(frozen=True, eq=False)
class DenseField:
    """A flow over the reference's window, bilinear between cells.

    It is a :class:`~endomatch_ros.matching.refiners.photometric.Flow`.

    Attributes:
        nodes: ``(h, w, 2)`` float32, flow ``(x, y)`` in source pixels at the centres of h × w equal cells.
        size: ``(width, height)`` of the window in source pixels.
    """

    nodes: NDArray[np.float32]
    size: tuple[int, int]

    def __call__(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Flow ``(N, 2)`` at ``points`` ``(N, 2)`` of the window, (0, 0) its top-left pixel's centre."""
        per_pixel = np.array(self.nodes.shape[1::-1]) / np.array(self.size)
        return bilinear(self.nodes, (np.asarray(points, np.float64) + 0.5) * per_pixel - 0.5)

    def dense(self, width: int, height: int) -> NDArray[np.float32]:
        """Flow ``(height, width, 2)`` float32 at the pixels of the window's top-left part of that size."""
        # Resizing has the convention of the cells: pixel s lies at (s + ½)·w/width − ½.
        whole = cv2.resize(self.nodes, self.size, interpolation=cv2.INTER_LINEAR)
        return np.ascontiguousarray(whole[:height, :width])


def missing_head(network: MatcherNetwork) -> str:
    """What a network without head needs, and what to do; empty for one that has it."""
    if network.dense is not None:
        return ""
    return (
        "a model with a head for dense fields, which this one has not: use embedded-dense, train one with `endomatch "
        "train --objective gvsl`, or set refinement to photometric and dense_consistency_cells to 0"
    )


def head_field(pair: Pair) -> DenseField:
    """The field from the pair's reference to its current frame, computed once per pair."""
    return pair.once("dense", lambda: dense_field(pair.network, pair.features0, pair.features1))


def dense_field(network: MatcherNetwork, features0: FrameFeatures, features1: FrameFeatures) -> DenseField:
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
        field = found.field[0].double().cpu().numpy()
    h, w = field.shape[1:]
    cells = np.stack(np.meshgrid(np.arange(w), np.arange(h)), 2).reshape(-1, 2).astype(np.float64)
    targets = cells + field[::-1].reshape(2, -1).T  # the head's order is (row, column)
    window = features1.window
    # The current frame's map has been brought to the reference's size, so its cells may be no squares.
    sides = np.array([window.net_width / w, window.net_height / h])
    flow = window.to_source(targets, sides) - features0.window.to_source(cells, features0.cell)
    return DenseField(flow.reshape(h, w, 2).astype(np.float32), (features0.window.width, features0.window.height))


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
