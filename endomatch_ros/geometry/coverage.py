"""How much of a view a set of points covers."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

GRID = 16  # cells along each side of the image


def coverage(points: NDArray[np.floating], view: NDArray[np.bool_] | NDArray[np.uint8]) -> float:
    """Share (0 to 1) of the view's cells that hold at least one point.

    The image is cut into 16 × 16 cells; those at least half inside the view count. 0 for an empty view.

    Args:
        points: ``(N, 2)`` pixels; those outside the image are ignored.
        view: ``(H, W)``, true (non-zero) in the view.
    """
    height, width = view.shape
    rows = np.linspace(0, height, GRID + 1).round().astype(int)
    columns = np.linspace(0, width, GRID + 1).round().astype(int)
    if height < GRID or width < GRID:
        return 0.0
    mask = (view if view.dtype == bool else view != 0).view(np.uint8)
    sums = np.diff(np.diff(cv2.integral(mask)[np.ix_(rows, columns)], axis=0), axis=1)
    in_view = 2 * sums >= np.outer(np.diff(rows), np.diff(columns))
    # Pixel i covers [i − ½, i + ½).
    x, y = np.asarray(points, np.float64).reshape(-1, 2).T + 0.5
    inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
    hit = np.zeros((GRID, GRID), bool)
    i = np.searchsorted(rows, y[inside], side="right") - 1
    j = np.searchsorted(columns, x[inside], side="right") - 1
    hit[i, j] = True
    return float((hit & in_view).sum() / in_view.sum()) if in_view.any() else 0.0
