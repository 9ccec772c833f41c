"""Where the pixels of a reference's working copy lie in the current frame's, by a flow field."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from endomatch_ros.matching.features import Window
from endomatch_ros.matching.refiners.field import Field


class WarpMap(NamedTuple):
    """Pixels of the current frame's working copy, for every pixel of the reference's.

    Attributes:
        x, y: ``(h, w)`` float32.
        inside: ``(h, w)`` bool, the current frame has pixels there.
    """

    x: Tensor
    y: Tensor
    inside: Tensor


def warp_map(field: Field, copy0: Window, copy1: Window) -> WarpMap:
    """By ``field`` from the working copy of a reference to that of the current frame, on the field's device."""
    flow = field.over(copy0.net_width, copy0.net_height)
    x, y = (flow[k] * float(copy1.scale[k]) for k in (0, 1))
    x = x + _scaled(copy0.net_width, 0, copy0, copy1, flow.device)
    y = y + _scaled(copy0.net_height, 1, copy0, copy1, flow.device)[:, None]
    inside = (x >= 0) & (y >= 0) & (x <= copy1.net_width - 1) & (y <= copy1.net_height - 1)
    return WarpMap(x, y, inside)


def _scaled(count: int, axis: int, copy0: Window, copy1: Window, device: torch.device) -> Tensor:
    """``(count,)`` float32: where pixels of copy 0 that stay in their place lie in copy 1, along an axis."""
    shift = ((copy0.x, copy0.y)[axis] - (copy1.x, copy1.y)[axis]) + 0.0
    pixels = torch.arange(count, device=device, dtype=torch.float64)
    places = (pixels + 0.5) / float(copy0.scale[axis]) + shift
    return (places * float(copy1.scale[axis]) - 0.5).float()
