"""Smooth flow fields over a frame's window, and their fit to scattered, partly wrong matches; on any device.

Shapes depend on sizes alone, never on what is found: a match that shall not count has weight 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

_TAIL = 1e-3  # weight of the long-range kernel that bridges regions without matches by their surroundings
_TAIL_REACH = 4.0


@dataclass(frozen=True, eq=False)
class Field:
    """A flow over a window, bilinear between the centres of equal cells; beyond the outermost, their value.

    Attributes:
        nodes: ``(2, rows, columns)`` float32, flow ``(x, y)`` in source pixels at the centres of the cells.
        size: ``(width, height)`` of the window in source pixels.
    """

    nodes: Tensor
    size: tuple[int, int]

    def at(self, points: Tensor) -> Tensor:
        """Flow ``(N, 2)`` at ``points`` ``(N, 2)`` of the window, source px, (0, 0) its top-left pixel's centre."""
        return bilinear(self.nodes, points + 0.5, self.size)

    def over(self, width: int, height: int) -> Tensor:
        """Flow ``(2, height, width)`` float32 in source px at the centres of width × height equal cells."""
        # Resizing has the convention of the cells: centre s of n lies at (s + ½)·rows/n − ½.
        size = height, width
        return functional.interpolate(self.nodes[None], size=size, mode="bilinear", align_corners=False)[0]


def fit_field(
    points: Tensor,
    flow: Tensor,
    size: tuple[int, int],
    spacing: float,
    sigma: float = 2.5,
    tolerance: float = 2.0,
    iterations: int = 4,
    weights: Tensor | None = None,
) -> tuple[Field, Tensor]:
    """Moving least squares: at every node of a grid the affine motion that fits the matches around it best.

    Solved in closed form from blurred moments of positions and flows, re-weighted against outliers (Geman–McClure).

    Args:
        points: ``(N, 2)`` positions in the window, source px from its top-left pixel's centre.
        flow: ``(N, 2)`` displacements, source px.
        size: ``(width, height)`` of the window in source px.
        spacing: distance of the grid's nodes, about, in source px.
        sigma: reach of a fit in nodes.
        tolerance: displacement residual that halves a match's influence, source px.
        iterations: re-weightings, at least 1.
        weights: ``(N,)`` how much a match counts from the start, 0 for not at all; None: all count 1.

    Returns:
        The field, and ``(N,)`` how far each match is from it, source px.
    """
    columns, rows = (max(2, round(side / spacing)) for side in size)
    prior = torch.ones_like(points[:, 0]) if weights is None else weights.to(points)
    x, y = ((points[:, k] + 0.5) * (count / size[k]) - 0.5 for k, count in enumerate((columns, rows)))
    bins = y.round().clamp(0, rows - 1).long() * columns + x.round().clamp(0, columns - 1).long()
    # Moments about the middle and the mean flow: their differences keep more digits.
    mean = (prior[:, None] * flow).sum(0) / prior.sum().clamp_min(1e-6)
    layers = _layers(x - (columns - 1) / 2, y - (rows - 1) / 2, flow - mean)
    robust = prior
    field, residual = Field(flow.new_zeros((2, rows, columns)), size), prior
    for k in range(max(1, iterations)):
        # Wide first, then narrow: an early narrow fit would believe a cluster of wrong matches.
        reach = sigma * (2.0 if k < iterations // 2 else 1.0)
        moments = _sums(robust[:, None] * layers, bins, rows * columns)
        field = Field(_nodes(moments.T.reshape(-1, rows, columns), reach) + mean[:, None, None], size)
        residual = (flow - field.at(points)).square().sum(1).sqrt()
        robust = prior / (1.0 + (residual / tolerance) ** 2) ** 2
    return field, residual


def _sums(values: Tensor, bins: Tensor, count: int) -> Tensor:
    """``(count, C)`` sums of ``values`` ``(N, C)`` by their bins ``(N,)``, in the same order each time."""
    sums = values.new_zeros((count, values.shape[1]))
    if values.is_cuda:  # index_add_ would add in any order there
        return sums.index_put_((bins,), values, accumulate=True)
    return sums.index_add_(0, bins, values)


def bilinear(grid: Tensor, places: Tensor, size: tuple[float, float]) -> Tensor:
    """Values ``(N, C)`` of a grid ``(C, h, w)`` of equal cells over an area; outside, those of the border.

    Args:
        grid: values at the cells' centres.
        places: ``(N, 2)``, ``(x, y)`` from the area's corner.
        size: ``(width, height)`` of the area, in the unit of the places.
    """
    scaled = torch.stack([places[:, k] * (2.0 / size[k]) - 1.0 for k in (0, 1)], 1)[None, None]
    found = functional.grid_sample(grid[None], scaled.to(grid), align_corners=False, padding_mode="border")
    out: Tensor = found[0, :, 0].T
    return out


def _layers(x: Tensor, y: Tensor, flow: Tensor) -> Tensor:
    """``(N, 12)`` what the moments are sums of: 1, x, y, x², xy, y², u, v, xu, xv, yu, yv."""
    u, v = flow.T
    return torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y, u, v, x * u, x * v, y * u, y * v], 1)


def _nodes(moments: Tensor, sigma: float) -> Tensor:
    """``(2, rows, columns)`` flow at the nodes from the moments ``(12, rows, columns)``."""
    rows, columns = moments.shape[1:]
    blurred = _blur(moments, sigma) + _TAIL * _blur(moments, _TAIL_REACH * sigma)
    sx, sy, sxx, sxy, syy, su, sv, sxu, sxv, syu, syv = (blurred / blurred[0].clamp_min(1e-12))[1:]
    # Ridge of one node²: few or collinear matches give a translation instead of a wild slope.
    cxx, cxy, cyy = sxx - sx * sx + 1.0, sxy - sx * sy, syy - sy * sy + 1.0
    determinant = cxx * cyy - cxy * cxy
    # Slopes act over a few nodes at most: extrapolation stays near the mean motion.
    dx = (_middled(columns, moments)[None, :] - sx).clamp(-2 * sigma, 2 * sigma)
    dy = (_middled(rows, moments)[:, None] - sy).clamp(-2 * sigma, 2 * sigma)

    def at_node(mean: Tensor, sxf: Tensor, syf: Tensor) -> Tensor:
        c0, c1 = sxf - sx * mean, syf - sy * mean
        out: Tensor = mean + ((c0 * cyy - c1 * cxy) * dx + (c1 * cxx - c0 * cxy) * dy) / determinant
        return out

    return torch.stack([at_node(su, sxu, syu), at_node(sv, sxv, syv)])


def _middled(count: int, like: Tensor) -> Tensor:
    return torch.arange(count, device=like.device, dtype=like.dtype) - (count - 1) / 2


def _blur(moments: Tensor, sigma: float) -> Tensor:
    """Gaussian sums over rows and columns; as products with small matrices, since kernels are as wide as the grid."""
    rows, columns = moments.shape[1:]
    vertical, horizontal = (_gaussian(n, sigma, str(moments.device), moments.dtype) for n in (rows, columns))
    out: Tensor = vertical @ moments @ horizontal
    return out


@lru_cache(maxsize=64)
def _gaussian(count: int, sigma: float, device: str, dtype: torch.dtype) -> Tensor:
    """``(count, count)`` weights of each node for each other, symmetric; over all of them they would sum up to 1."""
    with torch.inference_mode(False):
        places = torch.arange(count, device=device, dtype=torch.float64)
        kernel: Tensor = torch.exp(-0.5 * ((places[:, None] - places) / sigma) ** 2) / (sigma * (2 * torch.pi) ** 0.5)
        return kernel.to(dtype)
