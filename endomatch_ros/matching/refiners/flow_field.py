"""A smooth flow field from scattered, partly wrong matches: robust local affine fits, without loops over points."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float64]


class FlowField:
    """Moving least squares: at every node of a grid the affine motion that fits the matches around it best.

    Solved in closed form from blurred moments of positions and flows, re-weighted against outliers (Geman–McClure).

    Args:
        points: ``(N, 2)`` positions in any unit.
        flow: ``(N, 2)`` displacements in any unit.
        size: ``(width, height)`` of the area, in the unit of the positions, from 0.
        spacing: distance of the grid's nodes, in the unit of the positions.
        sigma: reach of a fit in nodes.
        tolerance: displacement residual that halves a match's influence, in the unit of the flow.
        iterations: re-weightings.
        weights: ``(N,)`` how much a match counts from the start; 1 for all, if not given.
    """

    def __init__(
        self,
        points: NDArray[np.floating],
        flow: NDArray[np.floating],
        size: tuple[float, float],
        spacing: float,
        sigma: float = 2.5,
        tolerance: float = 2.0,
        iterations: int = 4,
        weights: NDArray[np.floating] | None = None,
    ) -> None:
        self._spacing = spacing
        self._shape = int(np.ceil(size[1] / spacing)) + 1, int(np.ceil(size[0] / spacing)) + 1
        self._points = np.asarray(points, np.float64) / spacing
        self._flow = np.asarray(flow, np.float64)
        columns = np.clip(np.round(self._points[:, 0]).astype(int), 0, self._shape[1] - 1)
        rows = np.clip(np.round(self._points[:, 1]).astype(int), 0, self._shape[0] - 1)
        self._bins = rows * self._shape[1] + columns
        prior = np.ones(len(self._points)) if weights is None else np.asarray(weights, np.float64)
        robust = prior
        # Wide first, then narrow: an early narrow fit would believe a cluster of wrong matches.
        for k in range(max(1, iterations)):
            reach = sigma * (2.0 if k < iterations // 2 else 1.0)
            self.nodes = self._fit(robust, reach)
            residual = np.linalg.norm(self._flow - self(np.asarray(points, np.float64)), axis=1)
            robust = prior / (1.0 + (residual / tolerance) ** 2) ** 2
        self.residual = residual

    def _fit(self, weights: NDArray[np.float64], sigma: float) -> Field:
        x, y = self._points.T
        u, v = self._flow.T
        layers = (np.ones_like(x), x, y, x * x, x * y, y * y, u, v, x * u, x * v, y * u, y * v)
        size = self._shape[0] * self._shape[1]
        moments = np.stack([np.bincount(self._bins, weights * layer, size).reshape(self._shape) for layer in layers], 2)
        # A thin long-range tail bridges regions without matches by their surroundings.
        blurred = np.add(_blur(moments, sigma), 1e-3 * _blur(moments, 4.0 * sigma))
        w, sx, sy, sxx, sxy, syy, su, sv, sxu, sxv, syu, syv = np.moveaxis(blurred, 2, 0)
        safe = np.maximum(w, 1e-12)
        mx, my, mu, mv = sx / safe, sy / safe, su / safe, sv / safe
        # Ridge of one node²: few or collinear matches give a translation instead of a wild slope.
        cxx, cxy, cyy = sxx / safe - mx * mx + 1.0, sxy / safe - mx * my, syy / safe - my * my + 1.0
        cxu, cxv = sxu / safe - mx * mu, sxv / safe - mx * mv
        cyu, cyv = syu / safe - my * mu, syv / safe - my * mv
        determinant = cxx * cyy - cxy * cxy
        gy, gx = np.mgrid[: self._shape[0], : self._shape[1]].astype(np.float64)
        # Slopes act over a few nodes at most: extrapolation stays near the mean motion.
        dx, dy = np.clip(gx - mx, -2 * sigma, 2 * sigma), np.clip(gy - my, -2 * sigma, 2 * sigma)

        def at_node(mean: Field, c0: Field, c1: Field) -> Field:
            ax, ay = (c0 * cyy - c1 * cxy) / determinant, (c1 * cxx - c0 * cxy) / determinant
            return np.asarray(mean + ax * dx + ay * dy)

        return np.stack([at_node(mu, cxu, cyu), at_node(mv, cxv, cyv)], 2)

    def __call__(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Flow ``(N, 2)`` at ``points`` ``(N, 2)``, bilinear between the nodes."""
        return bilinear(self.nodes, np.asarray(points, np.float64) / self._spacing)

    def dense(self, width: int, height: int) -> NDArray[np.float32]:
        """Flow ``(height, width, 2)`` float32 at integer positions, bilinear between the nodes."""
        spacing = int(self._spacing)
        if spacing != self._spacing or spacing % 2 == 0:
            raise ValueError(f"a dense field needs an odd whole spacing, not {self._spacing}")
        rows, columns = self._shape
        # Resizing centres node n at pixel (n + ½)·spacing − ½: whole for an odd spacing, so that a crop aligns exactly
        # (cv2.warpAffine would round its coordinates to 1/32 node).
        nodes = self.nodes.astype(np.float32)
        whole = cv2.resize(nodes, (columns * spacing, rows * spacing), interpolation=cv2.INTER_LINEAR)
        offset = (spacing - 1) // 2
        return np.ascontiguousarray(whole[offset : offset + height, offset : offset + width])


def bilinear(grid: NDArray[np.floating], points: NDArray[np.floating]) -> Field:
    """Values ``(N, C)`` of a grid ``(h, w, C)`` at ``(x, y)`` positions ``(N, 2)``; those of its border outside it."""
    h, w = grid.shape[:2]
    x, y = np.clip(points[:, 0], 0, w - 1 - 1e-9), np.clip(points[:, 1], 0, h - 1 - 1e-9)
    x0, y0 = np.minimum(x.astype(int), w - 2), np.minimum(y.astype(int), h - 2)
    fx, fy = (x - x0)[:, None], (y - y0)[:, None]
    top = grid[y0, x0] * (1 - fx) + grid[y0, x0 + 1] * fx
    bottom = grid[y0 + 1, x0] * (1 - fx) + grid[y0 + 1, x0 + 1] * fx
    return np.asarray(top * (1 - fy) + bottom * fy)


def _blur(moments: NDArray[Any], sigma: float) -> Field:
    # OpenCV's own choice of kernel for doubles reaches 4 σ: 3 σ cost less and change nothing here.
    side = 2 * int(np.ceil(3.0 * sigma)) + 1
    return np.asarray(cv2.GaussianBlur(moments, (side, side), sigma), np.float64)
