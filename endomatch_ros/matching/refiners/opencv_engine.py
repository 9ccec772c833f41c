"""The refinement's image work with OpenCV, on the CPU."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from endomatch_ros.matching.features import FrameFeatures
from endomatch_ros.matching.refiners.dense_flow import dense_flow
from endomatch_ros.matching.refiners.field import Field


def residual_flows(
    features0: FrameFeatures, features1: FrameFeatures, field: Field, level: int
) -> tuple[Tensor, Tensor, Tensor]:
    """What a field leaves over, there and back: as :class:`~.photometric.Engine` says."""
    warped, inside = _warped(features0, features1, field)
    reference = features0.normalised
    flows = (dense_flow(*pair, level) for pair in ((reference, warped), (warped, reference)))
    there, back = (torch.from_numpy(flow).permute(2, 0, 1) for flow in flows)
    return there, back, torch.from_numpy(inside)


def _warped(
    features0: FrameFeatures, features1: FrameFeatures, field: Field
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The current frame's working copy seen from the reference, in its size; and where it has pixels at all."""
    copy0, copy1 = features0.working, features1.working
    flow = field.over(copy0.net_width, copy0.net_height).numpy()
    scale0, scale1 = copy0.scale, copy1.scale
    x = (np.arange(copy0.net_width) + 0.5) / scale0[0] + (copy0.x - copy1.x)
    y = (np.arange(copy0.net_height) + 0.5) / scale0[1] + (copy0.y - copy1.y)
    map_x = flow[0] * np.float32(scale1[0]) + (x * scale1[0] - 0.5).astype(np.float32)
    map_y = flow[1] * np.float32(scale1[1]) + (y * scale1[1] - 0.5).astype(np.float32)[:, None]
    warped = cv2.remap(features1.normalised, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    inside = (map_x >= 0) & (map_y >= 0) & (map_x <= copy1.net_width - 1) & (map_y <= copy1.net_height - 1)
    return np.asarray(warped, np.uint8), np.asarray(inside)
