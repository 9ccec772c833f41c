"""Variational refinement of a dense flow: constant brightness and gradient, robust, under a smooth flow.

The functional of Brox et al. (ECCV 2004) in the discretisation and with the parameters that OpenCV gives inverse
search. Unknown is the flow itself rather than its increment, so that smoothness needs no right-hand side; a pixel's two
components are solved for together. Red and black pixels of a checkerboard take turns, each colour a view of the flow.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from endomatch_ros.matching.refiners.constants import constant, remembered
from endomatch_ros.matching.refiners.photometric_torch.gradients import differences
from endomatch_ros.matching.refiners.photometric_torch.resampling import sample_grid

_ALPHA, _DELTA, _GAMMA = 20.0, 5.0, 10.0  # weights of smoothness, brightness and gradient
_EPSILON = 0.01  # where the robust penalty turns from a square to an absolute value
_ZETA_2 = 0.01  # added to the squared gradients that the constancies are divided by
_OMEGA = 1.6  # over-relaxation


class Effort(NamedTuple):
    """How much to compute.

    Attributes:
        fixed_points: how often the robust weights are found anew.
        sweeps: rounds over both colours, per set of these weights.
    """

    fixed_points: int
    sweeps: int


class _Data(NamedTuple):
    """The linearised constancies of a level.

    Attributes:
        a, b, z: ``(B, 2, 3, h, w)``: residuals a·u + b·v − z, in two groups: brightness (one, nothing, ε) and gradient
            (two and ε).
        products: ``(B, 2, 5, h, w)``: a group's sums of aa, bb, ab, az and bz, times its weight.
        pull: ``(B, 5, h, w)``: the same for a weak pull to where the flow started.
    """

    a: Tensor
    b: Tensor
    z: Tensor
    products: Tensor
    pull: Tensor


class _Colour(NamedTuple):
    """A colour's pixels: their flow ``(B, 2, h/2, 2, w/2)``, and their neighbours' ``(B, 2, 2, 2, h/2, 2, w/2)``."""

    own: Tensor
    around: Tensor


def refined(image0: Tensor, image1: Tensor, flow: Tensor, effort: Effort) -> Tensor:
    """A flow that fits better.

    Args:
        image0: ``(B, h, w)`` float32 grey levels; h and w even.
        image1: of the same shape.
        flow: ``(B, 2, h, w)`` px from ``image0`` to ``image1``, x and y.
        effort: how much to compute.

    Returns:
        ``(B, 2, h, w)`` px.
    """
    data = _data(image0, image1, flow)
    batch, _, height, width = flow.shape
    state = flow.new_zeros(batch, 2, height + 2, width + 2)  # beyond the border anything: nothing pulls from there
    inner = state[..., 1:-1, 1:-1]
    inner.copy_(flow)
    colours = _colour(state, 0), _colour(state, 1)
    for _ in range(effort.fixed_points):
        _relax(colours, _equations(data, inner), _neighbour_weights(state), effort.sweeps)
    return inner


def _data(image0: Tensor, image1: Tensor, flow: Tensor) -> _Data:
    height, width = flow.shape[-2:]
    positions = flow.permute(0, 2, 3, 1) + _pixels(height, width, flow.device)
    warped = sample_grid(image1[:, None], positions)[:, 0]
    mean_and_change = torch.stack([torch.lerp(image0, warped, 0.5), warped - image0], dim=1)
    x, y = differences(mean_and_change)
    xx, yy = differences(torch.cat([x[:, :1], y[:, :1]], dim=1))  # of x along x and of y along x; then along y
    none = torch.zeros_like(x[:, :1])
    a = torch.cat([x[:, :1], none, none, xx, none], dim=1)
    b = torch.cat([y[:, :1], none, none, yy, none], dim=1)
    z = torch.cat([mean_and_change[:, 1:], none, none, x[:, 1:], y[:, 1:], none], dim=1)
    scale = (a * a + b * b).add_(_ZETA_2).rsqrt_()
    a, b = a * scale, b * scale
    u, v = flow[:, :1], flow[:, 1:]
    z = torch.addcmul(torch.addcmul(a * u, b, v), z, scale, value=-1)
    z[:, 2::3] = _EPSILON
    a, b, z = (torch.unflatten(part, 1, (2, 3)) for part in (a, b, z))
    products = torch.stack([a * a, b * b, a * b, a * z, b * z], dim=2).sum(3) * _group_weights(flow.device)
    pull = torch.cat([torch.ones_like(flow), none, flow], dim=1) * _ZETA_2
    return _Data(a, b, z, products, pull)


def _equations(data: _Data, flow: Tensor) -> Tensor:
    """``(B, 5, h, w)``: sums of aa, bb, ab, az and bz of each pixel, under the robust weights of this ``flow``."""
    u, v = flow[:, None, None, 0], flow[:, None, None, 1]
    residual = torch.addcmul(torch.addcmul(data.z, data.a, u, value=-1), data.b, v, value=-1)
    norm = torch.linalg.vector_norm(residual, dim=2, keepdim=True)
    brightness = torch.addcdiv(data.pull, data.products[:, 0], norm[:, 0])
    return torch.addcdiv(brightness, data.products[:, 1], norm[:, 1])


def _neighbour_weights(state: Tensor) -> Tensor:
    """``(B, 4, h, w)`` pull of the upper, right, left and lower neighbour, 0 from beyond the border.

    ``state`` is the flow ``(B, 2, h + 2, w + 2)`` with a border of one pixel.
    """
    batch, _, rows, columns = state.shape
    weight, counts = _edges(rows - 1, columns - 1, state.device)
    strides = state.stride(0), state.stride(1), columns - 1, columns, 1
    ahead = state.as_strided((batch, 2, 2, rows - 1, columns - 1), strides, 1)  # the right and the lower neighbour
    slope = (ahead - state[:, :, None, :-1, :-1]) * counts
    norm = torch.hypot(torch.linalg.vector_norm(slope, dim=(1, 2)), _epsilon(state.device))
    right, down = (weight / norm[:, None]).unbind(1)
    return torch.stack([down[:, :-1, 1:], right[:, 1:, 1:], right[:, 1:, :-1], down[:, 1:, 1:]], dim=1)


def _relax(colours: tuple[_Colour, _Colour], equations: Tensor, weights: Tensor, sweeps: int) -> None:
    """Sweeps over the flow, in place: a pixel goes to, and beyond, what its equations and its neighbours want."""
    equations[:, :2] += weights.sum(1, keepdim=True)
    aa, bb, ab = equations[:, :3].unbind(1)
    minus = -ab
    inverse = torch.stack([bb, minus, minus, aa], dim=1) / torch.addcmul(aa * bb, ab, ab, value=-1)[:, None]
    inverse = torch.unflatten(inverse, 1, (2, 2))
    alone = (inverse * equations[:, None, 3:]).sum(2)
    work = []
    for number, colour in enumerate(colours):
        # What each neighbour's two components add to a pixel's two: (B, 2, 2, 2, 2, h/2, 2, w/2)
        pulls = torch.unflatten(_checkered(weights, number), 1, (2, 2))
        factors = _checkered(inverse, number)[:, :, :, None, None] * pulls[:, None, None]
        terms = alone.new_empty(factors.shape[0], 2, 9, *factors.shape[5:])
        terms[:, :, 8] = _checkered(alone, number)
        work.append((colour, factors, terms, torch.unflatten(terms[:, :, :8], 2, (2, 2, 2))))
    for _ in range(sweeps):
        for colour, factors, terms, products in work:
            torch.mul(factors, colour.around[:, None], out=products)
            colour.own.lerp_(terms.sum(2), _OMEGA)


def _colour(state: Tensor, number: int) -> _Colour:
    own = _checkered(state[..., 1:-1, 1:-1], number)
    line = state.stride(-2)
    # Two steps down the diagonals of the diamond of neighbours: upper, right, left, lower.
    shape, strides = (*own.shape[:2], 2, 2, *own.shape[2:]), (*own.stride()[:2], line - 1, line + 1, *own.stride()[2:])
    return _Colour(own, state.as_strided(shape, strides, own.storage_offset() - line))


def _checkered(values: Tensor, number: int) -> Tensor:
    """The pixels ``(…, h/2, 2, w/2)`` of colour 0, which the top-left one has, or 1 of ``(…, h, w)``: a view."""
    height, width = values.shape[-2:]
    line, step = values.stride()[-2:]
    shape = (*values.shape[:-2], height // 2, 2, width // 2)
    strides = (*values.stride()[:-2], 2 * line, line + step - 2 * number * step, 2 * step)
    return values.as_strided(shape, strides, values.storage_offset() + number * step)


@remembered
def _pixels(height: int, width: int, device: torch.device) -> Tensor:
    """``(h, w, 2)`` positions of the pixels."""
    return constant(np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1), device)


@remembered
def _edges(rows: int, columns: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Weights ``(2, rows, columns)`` of smoothness to the right and down, and 1 where there is a neighbour, else 0.

    Row and column 0 lie before the picture.
    """
    there = np.ones((2, rows, columns))
    there[:, 0] = there[:, :, 0] = there[0, :, -1] = there[1, -1] = 0
    return constant(0.5 * _ALPHA * there, device), constant(there, device)


@remembered
def _group_weights(device: torch.device) -> Tensor:
    return constant(np.array([0.5 * _DELTA, 0.5 * _GAMMA]).reshape(2, 1, 1, 1), device)


@remembered
def _epsilon(device: torch.device) -> Tensor:
    return constant(np.array([_EPSILON]), device)
