"""A z-buffered rasteriser of triangle meshes, in floating point and without a loop over triangles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_LARGEST = 48  # px per side: a triangle that large spans a jump in depth, and would cost what thousands of others do
_EDGE = 1e-6  # share of a triangle: pixels on a shared edge belong to both, so that no crack stays open


@dataclass(frozen=True, eq=False)
class Raster:
    """What each pixel shows.

    Attributes:
        triangle: ``(H, W)`` int64, index of the nearest triangle, −1 for none.
        weights: ``(H, W, 3)`` float32, its perspective-correct barycentric weights at the pixel's centre; 0 for none.
        depth: ``(H, W)`` float32, inf for none.
    """

    triangle: NDArray[np.int64]
    weights: NDArray[np.float32]
    depth: NDArray[np.float32]


def rasterise(
    pixels: NDArray[np.floating], depth: NDArray[np.floating], triangles: NDArray[np.integer], size: tuple[int, int]
) -> Raster:
    """Draw triangles that face the camera; the nearest one wins in every pixel.

    Args:
        pixels: ``(N, 2)`` vertices in the picture; not finite where a vertex is behind the camera.
        depth: ``(N,)`` z of the vertices in the camera frame.
        triangles: ``(T, 3)`` vertex indices, clockwise as seen on the screen (y down) where they face the camera;
            those that show their back are left out.
        size: ``(width, height)`` of the picture.
    """
    width, height = size
    kept, corners = _facing(np.asarray(pixels, np.float32), triangles, size)
    owner, x, y = _candidates(corners, size)
    (ax, ay), (bx, by), (cx, cy) = ((corners[k][0][owner], corners[k][1][owner]) for k in range(3))
    # Screen-space weights by areas; the sum of the three is the triangle's own doubled area.
    px, py = x.astype(np.float32), y.astype(np.float32)
    w0 = (bx - px) * (cy - py) - (by - py) * (cx - px)
    w1 = (cx - px) * (ay - py) - (cy - py) * (ax - px)
    w2 = (ax - px) * (by - py) - (ay - py) * (bx - px)
    total = w0 + w1 + w2
    inside = np.minimum(np.minimum(w0, w1), w2) >= -_EDGE * total
    owner = kept[owner[inside]]
    # Inverse depth is linear on the screen, which is what makes the weights perspective-correct.
    inverse = np.stack([w0[inside], w1[inside], w2[inside]]) / total[inside]
    inverse /= np.asarray(depth, np.float32)[triangles[owner].T]
    z = 1.0 / (inverse[0] + inverse[1] + inverse[2])
    flat = y[inside] * width + x[inside]
    nearest = np.full(width * height, np.inf, np.float32)
    np.minimum.at(nearest, flat, z)
    wins = z == nearest[flat]
    out = np.full(width * height, -1, np.int64)
    chosen = np.zeros((width * height, 3), np.float32)
    out[flat[wins]] = owner[wins]
    chosen[flat[wins]] = (inverse[:, wins] * z[wins]).T
    return Raster(out.reshape(height, width), chosen.reshape(height, width, 3), nearest.reshape(height, width))


# numpy reduces over a short axis slowly, so corners are a tuple of three (x, y), each (S,), not one array (S, 3, 2).
_Corners = tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]


def _facing(
    pixels: NDArray[np.float32], triangles: NDArray[np.integer], size: tuple[int, int]
) -> tuple[NDArray[np.int64], _Corners]:
    """Indices ``(S,)`` and corners of the triangles that face the camera and may touch the picture."""
    columns = [np.ascontiguousarray(pixels[:, axis]) for axis in (0, 1)]
    corners = [[column[triangles[:, k]] for column in columns] for k in range(3)]
    good = np.ones(len(triangles), bool)
    with np.errstate(invalid="ignore"):  # comparisons with NaN are False, which leaves those triangles out
        for axis in (0, 1):
            low, high = _extent([corner[axis] for corner in corners])
            good &= (high >= 0) & (low <= size[axis] - 1) & (high - low < _LARGEST)
        (ax, ay), (bx, by), (cx, cy) = corners
        good &= (bx - ax) * (cy - ay) - (by - ay) * (cx - ax) > 0
    kept = np.flatnonzero(good)
    return kept, tuple((x[kept], y[kept]) for x, y in corners)


def _candidates(
    corners: _Corners, size: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Every pixel in every triangle's bounding box: the triangle's position, x and y, each ``(M,)``."""
    first, count = [], []
    for axis in (0, 1):
        low, high = _extent([corner[axis] for corner in corners])
        begin = np.maximum(np.ceil(low), 0).astype(np.int64)
        first.append(begin)
        count.append(np.maximum(np.minimum(np.floor(high), size[axis] - 1).astype(np.int64) - begin + 1, 0))
    total = count[0] * count[1]
    owner = np.repeat(np.arange(len(total)), total)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(total) - total, total)
    row, column = np.divmod(place, np.maximum(count[0], 1)[owner])
    return owner, first[0][owner] + column, first[1][owner] + row


def _extent(values: list[NDArray[np.float32]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Least and largest of three arrays, element by element."""
    a, b, c = values
    return np.minimum(np.minimum(a, b), c), np.maximum(np.maximum(a, b), c)
