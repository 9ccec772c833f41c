"""The refinement's image work with OpenCV, on the CPU."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from endomatch_ros.matching.features import FrameFeatures
from endomatch_ros.matching.refiners.dense_flow import dense_flow
from endomatch_ros.matching.refiners.engine import Engine
from endomatch_ros.matching.refiners.field import Field
from endomatch_ros.matching.refiners.warping import warp_map


def make() -> Engine:
    """The engine, which keeps nothing."""
    return residual_flows


def residual_flows(
    features0: FrameFeatures, features1: FrameFeatures, field: Field, level: int
) -> tuple[Tensor, Tensor, Tensor]:
    """What a field leaves over, there and back: as :data:`~endomatch_ros.matching.refiners.engine.Engine` says."""
    to = warp_map(field, features0.working, features1.working)
    maps = to.x.cpu().numpy(), to.y.cpu().numpy()
    warped = cv2.remap(features1.normalised, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    images = features0.normalised, np.asarray(warped, np.uint8)
    there, back = (dense_flow(*pair, level) for pair in (images, images[::-1]))
    found = [torch.from_numpy(flow).permute(2, 0, 1).to(field.nodes.device) for flow in (there, back)]
    return found[0], found[1], to.inside
