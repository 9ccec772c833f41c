"""Inverse search: the displacement of all patches of a picture at once, then of all pixels.

Dense inverse search (Kroeger et al., ECCV 2016) with OpenCV's parameters. OpenCV goes from patch to patch, tries the
flow that the one before has found, and descends; here all patches try their neighbours' flow at once, then all descend
by one step, in rounds. So what a patch has found travels a patch per round, and where a step made matters worse a
neighbour's flow can take its place.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from endomatch_ros.matching.refiners.constants import constant, remembered
from endomatch_ros.matching.refiners.photometric_torch.gradients import sobel
from endomatch_ros.matching.refiners.photometric_torch.pyramid import PATCH, STRIDE
from endomatch_ros.matching.refiners.photometric_torch.resampling import sample_units, unit_scale

_PIXELS = PATCH * PATCH
_DETERMINANT = 1e-3  # least determinant of a patch's normal matrix: flat ones stay where they are
_ROUNDS = 6
# Part of a Gauss–Newton step that is taken. OpenCV takes an eighth, sixteen times, and ends where that makes it worse.
_DAMPING = 1 - (7 / 8) ** 3


class _Patches(NamedTuple):
    """Constants of a level: P patches, in rows.

    Attributes:
        values: ``(B, P, 64)`` grey levels of picture 0.
        descent: ``(B, P, 2, 64)`` px of a step per grey level of difference, x and y.
    """

    values: Tensor
    descent: Tensor


def search(image0: Tensor, image1: Tensor, start: Tensor) -> Tensor:
    """Flow of the patches of ``image0`` in ``image1``.

    Args:
        image0: ``(B, h, w)`` grey levels, whole strides high and wide.
        image1: of the same shape.
        start: ``(B, 2, rows, columns)`` px, where to begin: a flow per patch, x and y.

    Returns:
        ``(B, P, 2)`` px.
    """
    patches = _patches(image0)
    flow = start.flatten(2).transpose(1, 2)
    for _ in range(_ROUNDS):
        flow = _round(flow, patches, image1)
    return flow


def densify(flow: Tensor, image0: Tensor, image1: Tensor) -> Tensor:
    """Flow of all pixels ``(B, 2, h, w)`` from that of the patches over them ``(B, P, 2)``.

    The mean, a patch counting less the more its grey level differs at the pixel.
    """
    shape = image0.shape[-2:]
    difference = _sampled(flow, image1) - _unfolded(image0)
    weight = difference.abs_().clamp_(min=1.0).reciprocal_()
    layers = torch.cat([flow, torch.ones_like(flow[..., :1])], dim=-1).transpose(1, 2)  # u, v, 1
    columns = (layers[:, :, None] * weight.transpose(1, 2)[:, None]).reshape(len(flow), 3 * _PIXELS, -1)
    total = functional.fold(columns, shape, PATCH, stride=STRIDE)
    return total[:, :2] / total[:, 2:]


def _patches(image: Tensor) -> _Patches:
    gx, gy = (_unfolded(part[:, 0]) for part in sobel(image[:, None]))
    xx, yy, xy = ((a * b).sum(-1, keepdim=True) for a, b in ((gx, gx), (gy, gy), (gx, gy)))
    determinant = torch.addcmul(xx * yy, xy, xy, value=-1).clamp_(min=_DETERMINANT)
    # Brightness may change: what all pixels of a patch have in common moves nothing.
    gx, gy = (part - part.mean(-1, keepdim=True) for part in (gx, gy))
    x, y = torch.addcmul(yy * gx, xy, gy, value=-1), torch.addcmul(xx * gy, xy, gx, value=-1)
    descent = torch.stack([x, y], dim=-2) * (8 * _DAMPING / determinant[..., None])  # Sobel's slope is that over 8 px
    return _Patches(_unfolded(image), descent)


def _round(flow: Tensor, patches: _Patches, image: Tensor) -> Tensor:
    """Of its own and its neighbours' flow, for each patch the one that changes it least, and one step on from there."""
    count = flow.shape[1]
    height, width = image.shape[-2:]
    candidates = flow.index_select(1, _neighbours(height, width, image.device))
    difference = torch.unflatten(_sampled(candidates, image), 1, (-1, count)) - patches.values[:, None]
    choice = torch.var(difference, dim=-1, correction=0, keepdim=True).argmin(dim=1, keepdim=True)
    chosen = torch.unflatten(candidates, 1, (-1, count)).gather(1, choice.expand(-1, -1, -1, 2))[:, 0]
    step = patches.descent * difference.gather(1, choice.expand(-1, -1, -1, _PIXELS))[:, 0, :, None]
    return torch.sub(chosen, step.sum(-1))


def _sampled(flow: Tensor, image: Tensor) -> Tensor:
    """The patches ``(B, k·P, 64)`` of ``image`` ``(B, h, w)``, displaced by ``flow`` ``(B, k·P, 2)``."""
    height, width = image.shape[-2:]
    base = _positions(height, width, image.device)
    shift = torch.unflatten(flow, 1, (-1, len(base)))[:, :, :, None]
    grid = torch.addcmul(base, shift, unit_scale(height, width, image.device))
    return sample_units(image[:, None], grid.flatten(1, 2))[:, 0]


def _unfolded(images: Tensor) -> Tensor:
    """All patches ``(B, P, 64)`` of ``(B, h, w)``."""
    return images.unfold(1, PATCH, STRIDE).unfold(2, PATCH, STRIDE).reshape(len(images), -1, _PIXELS)


@remembered
def _positions(height: int, width: int, device: torch.device) -> Tensor:
    """``(P, 64, 2)`` positions of the patches' pixels in units of ``grid_sample``."""
    rows, columns, y, x = np.ogrid[: height - PATCH + 1 : STRIDE, : width - PATCH + 1 : STRIDE, :PATCH, :PATCH]
    xs, ys = np.broadcast_arrays(columns + x, rows + y)
    units = np.stack([xs * (2 / (width - 1)) - 1, ys * (2 / (height - 1)) - 1], axis=-1)
    return constant(units.reshape(-1, _PIXELS, 2), device)


@remembered
def _neighbours(height: int, width: int, device: torch.device) -> Tensor:
    """``(5·P,)`` numbers of all patches, then of their upper, left, right and lower neighbours; own ones for none."""
    rows, columns = (height - PATCH) // STRIDE + 1, (width - PATCH) // STRIDE + 1
    around = np.pad(np.arange(rows * columns).reshape(rows, columns), 1, mode="edge")
    parts = around[1:-1, 1:-1], around[:-2, 1:-1], around[1:-1, :-2], around[1:-1, 2:], around[2:, 1:-1]
    return torch.from_numpy(np.stack(parts).reshape(-1)).to(device)
