"""The refinement's image work with PyTorch, on the model's device: nothing is read back by the host."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.nn import functional

from endomatch_ros.device import upload
from endomatch_ros.matching.features import FrameFeatures
from endomatch_ros.matching.graphs import Graphs
from endomatch_ros.matching.refiners.field import Field
from endomatch_ros.matching.refiners.photometric_torch import flow_both_ways, grey_copy, normalise, warp
from endomatch_ros.matching.refiners.warping import warp_map

_LEVELS = 2  # the field has aligned the images before


class TorchEngine:
    """An :data:`~endomatch_ros.matching.refiners.engine.Engine`; on a GPU it keeps CUDA graphs for sizes that recur."""

    def __init__(self) -> None:
        self.flows = Graphs(_flows)

    def __call__(
        self, features0: FrameFeatures, features1: FrameFeatures, field: Field, level: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What a field leaves over, there and back."""
        to = warp_map(field, features0.working, features1.working)
        there, back = self.flows(normalised(features0), normalised(features1), to.x, to.y, number=level)
        return there, back, to.inside


make = TorchEngine


def normalised(features: FrameFeatures) -> Tensor:
    """:attr:`FrameFeatures.normalised` on the model's device, ``(h, w)`` float32; made once per frame."""
    return features.once("normalised", lambda: _normalised(features))


def _normalised(features: FrameFeatures) -> Tensor:
    window, device = features.working, features.descriptors.device
    colours = upload(np.ascontiguousarray(features.image[window.area]), device)
    usable = upload(features.usable_copy, device)
    size = window.net_width, window.net_height
    if window.net_width <= window.width and window.net_height <= window.height:
        return normalise(grey_copy(colours, size), usable)
    grey = grey_copy(colours, (window.width, window.height))[None, None]
    larger = functional.interpolate(grey, size[::-1], mode="bilinear", align_corners=False)[0, 0]
    return normalise(larger.round_(), usable)


def _flows(reference: Tensor, current: Tensor, map_x: Tensor, map_y: Tensor, level: int) -> Tensor:
    """``(2, 2, h, w)`` flow between the reference and the current frame, warped; there and back."""
    # In whole levels, as OpenCV's pictures are.
    return flow_both_ways(reference, warp(current, map_x, map_y).round_(), level, _LEVELS)
