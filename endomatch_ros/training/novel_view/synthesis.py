"""Novel views: a picture and its depth, seen by another camera, with exact correspondences both ways.

The depth map becomes a mesh of triangles between pixels; the mesh is moved (camera motion, tissue deformation) and
drawn with a z-buffer. Each pixel of the novel view then knows the point of a triangle that it shows, and that point
knows its pixel in the source: the correspondence is exact for the mesh, without rounding to pixels on either side.

Source: arXiv 2512.10379, section III (novel-view synthesis from a frame and its depth).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from endomatch_ros.errors import DataError
from endomatch_ros.training.novel_view.raster import Raster, rasterise

Array = NDArray[np.float64]

_JUMP = 1.06  # depth ratio within a triangle, per pixel between its vertices, above which it bridges a jump in depth
# Inverse depth is linear on any plane, however steep; where its second difference (a share of the value itself) is
# above this, a silhouette or a crease lies between the pixels and the mesh cannot know where.
_CREASE = 0.02
_STRETCH = 12.0  # growth in area above which a triangle is seen much better in the novel view than it was in the source
_ROUND_TRIP_PX = 1.0  # a source point is visible where its partner leads back this near


@dataclass(frozen=True, eq=False)
class Surface:
    """The tissue that a picture shows, as a mesh over every ``stride``-th pixel.

    Attributes:
        points: ``(N, 3)`` float64 vertices in the source's camera frame, row by row.
        triangles: ``(T, 3)`` vertex indices, clockwise on the screen.
        solid: ``(T,)`` bool, the triangle is tissue: depth known and usable at its corners, no jump in depth.
        matrix: ``(3, 3)`` intrinsics of the source.
        grid: ``(columns, rows)`` of vertices.
        stride: pixels between vertices.
        origin: ``(x, y)`` of the first vertex in the source picture.
    """

    points: Array
    triangles: NDArray[np.int64]
    solid: NDArray[np.bool_]
    matrix: Array
    grid: tuple[int, int]
    stride: int = 1
    origin: tuple[int, int] = (0, 0)

    def weights_at(self, pixels: NDArray[np.floating]) -> tuple[NDArray[np.int64], Array]:
        """Triangle ``(K,)`` (−1 outside the mesh) and perspective-correct weights ``(K, 3)`` at source pixels."""
        columns, rows = self.grid
        cells = (np.asarray(pixels, np.float64) - self.origin) / self.stride
        with np.errstate(invalid="ignore"):  # NaN is outside
            inside = np.asarray(((cells >= 0) & (cells <= np.array(self.grid) - 1)).all(axis=1))
        cells = np.where(inside[:, None], cells, 0.0)
        corner = np.minimum(np.floor(cells).astype(np.int64), np.array([columns, rows]) - 2)
        u, v = (cells - corner).T
        upper = u + v <= 1  # the cell's first triangle: (0,0), (1,0), (0,1); its second: (1,1), (0,1), (1,0)
        screen = np.where(
            upper[:, None], np.column_stack([1 - u - v, u, v]), np.column_stack([u + v - 1, 1 - u, 1 - v])
        )
        index = 2 * (corner[:, 1] * (columns - 1) + corner[:, 0]) + ~upper
        inverse = screen / self.points[self.triangles[index], 2]
        return np.where(inside, index, -1), inverse / inverse.sum(axis=1, keepdims=True)


@dataclass(frozen=True, eq=False)
class NovelView:
    """A rendered view and where its pixels come from.

    Attributes:
        source: ``(H, W, 2)`` float32, for each pixel the pixel of the source picture that shows the same tissue; NaN
            where nothing is drawn.
        visible: ``(H, W)`` bool, tissue that both show. Elsewhere a pixel is outside the source, or filled: it must
            not be used as a label.
        drawn: ``(H, W)`` bool, visible or filled.
        raster: triangle, weights and depth of each pixel.
        surface: what was drawn.
        moved: ``(N, 3)`` its vertices in the novel camera's frame.
        matrix: ``(3, 3)`` the novel camera's intrinsics.
    """

    source: NDArray[np.float32]
    visible: NDArray[np.bool_]
    drawn: NDArray[np.bool_]
    raster: Raster
    surface: Surface
    moved: Array
    matrix: Array

    def forward(self, pixels: NDArray[np.floating]) -> tuple[Array, NDArray[np.bool_]]:
        """Where source pixels ``(K, 2)`` are in this view: ``(K, 2)``, NaN if nowhere, and ``(K,)`` bool, visible.

        Visible means that the tissue at the partner is the same: the way back ends within a pixel of the start.
        """
        index, weights = self.surface.weights_at(pixels)
        corners = self.moved[self.surface.triangles[index]]
        points = (weights[..., None] * corners).sum(axis=1)
        ahead = (index >= 0) & (corners[..., 2] > 0).all(axis=1)
        target = _project(points, self.matrix)
        target[~ahead] = np.nan
        back = nearest_value(self.source, target)
        with np.errstate(invalid="ignore"):
            near = np.linalg.norm(back - pixels, axis=1) < _ROUND_TRIP_PX + self._magnification(target)
        seen = nearest_value(self.visible.astype(np.float32), target) > 0
        return target, ahead & near & seen & self.surface.solid[index]

    def _magnification(self, target: Array) -> Array:
        """Source pixels per pixel of this view at ``target`` ``(K, 2)``: what looking up the nearest one can miss."""
        right, below = (nearest_value(self.source, target + step) for step in ((1.0, 0.0), (0.0, 1.0)))
        here = nearest_value(self.source, target)
        steps = np.stack([np.linalg.norm(right - here, axis=1), np.linalg.norm(below - here, axis=1)], 1)
        return np.asarray(np.nan_to_num(steps).max(axis=1) * np.sqrt(0.5))


def surface_from_depth(
    depth: NDArray[np.floating],
    matrix: Array,
    usable: NDArray[np.bool_] | None = None,
    stride: int = 1,
    region: tuple[int, int, int, int] | None = None,
) -> Surface:
    """The mesh of a depth map.

    Args:
        depth: ``(H, W)`` z in the camera frame; unknown where not finite or not positive. Unknown depth is filled from
            the nearest pixel that has one, so that the picture has no tears, but is never solid.
        matrix: ``(3, 3)`` intrinsics, pinhole; skew and rotation in it are fine.
        usable: ``(H, W)`` bool, pixels that may be labelled.
        stride: pixels between vertices: 1 is exact at every pixel, 2 is four times as fast.
        region: left, top, right and bottom (exclusive) of the part to take; all if ``None``.

    Raises:
        DataError: no depth is known at all.
    """
    left, top, right, bottom = region or (0, 0, depth.shape[1], depth.shape[0])
    part = np.asarray(depth[top:bottom:stride, left:right:stride], np.float64)
    known = np.isfinite(part) & (part > 0)
    if not known.any():
        raise DataError("the depth map knows no pixel: use another depth provider or leave the frame out")
    filled = part if known.all() else _fill(part, known)
    ys, xs = np.mgrid[top:bottom:stride, left:right:stride]
    rows, columns = part.shape
    rays = np.stack([xs, ys, np.ones_like(xs)], -1).reshape(-1, 3) @ np.linalg.inv(matrix).T
    points = rays * (filled.reshape(-1) / rays[:, 2])[:, None]
    good = known if usable is None else known & usable[top:bottom:stride, left:right:stride]
    triangles = _triangles(columns, rows)
    vertex = (good & (_crease(filled) < _CREASE)).reshape(-1)
    a, b, c = (filled.reshape(-1)[triangles[:, k]] for k in range(3))
    jump = np.maximum(np.maximum(a, b), c) > np.minimum(np.minimum(a, b), c) * _JUMP**stride
    solid = ~jump & vertex[triangles[:, 0]] & vertex[triangles[:, 1]] & vertex[triangles[:, 2]]
    return Surface(points, triangles, solid, np.asarray(matrix, np.float64), (columns, rows), stride, (left, top))


def novel_view(
    surface: Surface,
    pose: Array,
    size: tuple[int, int],
    matrix: Array | None = None,
    displacement: Array | None = None,
) -> NovelView:
    """Draw a surface as another camera sees it.

    Args:
        surface: from :func:`surface_from_depth`.
        pose: ``novel_from_source`` ``(4, 4)``, in the unit of the depth.
        size: ``(width, height)`` of the novel view.
        matrix: ``(3, 3)`` its intrinsics; the source's if ``None``.
        displacement: ``(N, 3)`` motion of the tissue at each vertex before the camera moves, in the source's frame.
    """
    matrix = surface.matrix if matrix is None else np.asarray(matrix, np.float64)
    tissue = surface.points if displacement is None else surface.points + displacement
    moved = tissue @ pose[:3, :3].T + pose[:3, 3]
    pixels = _project(moved, matrix)
    raster = rasterise(pixels, moved[:, 2], surface.triangles, size)
    drawn = raster.triangle >= 0
    source = np.full((*drawn.shape, 2), np.nan, np.float32)
    shown = raster.triangle[drawn]
    corners = surface.triangles[shown]
    weights = raster.weights[drawn].astype(np.float64)
    a, b, c = (weights[:, k, None] * surface.points[corners[:, k]] for k in range(3))
    source[drawn] = _project(a + b + c, surface.matrix)
    visible = drawn.copy()
    visible[drawn] = surface.solid[shown] & (_areas(pixels, corners) < _STRETCH * surface.stride**2 / 2)
    return NovelView(source, visible, drawn, raster, surface, moved, matrix)


def nearest_value(values: NDArray[np.float32], pixels: Array) -> NDArray[np.float32]:
    """``values`` ``(H, W, …)`` at the pixels nearest to ``pixels`` ``(K, 2)``; NaN outside."""
    height, width = values.shape[:2]
    finite = np.isfinite(pixels[:, :1]) & np.isfinite(pixels[:, 1:])
    x, y = np.rint(np.where(finite, pixels, -1.0)).astype(np.int64).T
    inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
    out = np.full((len(pixels), *values.shape[2:]), np.nan, np.float32)
    out[inside] = values[y[inside], x[inside]]
    return out


def _project(points: Array, matrix: Array) -> Array:
    """Pixels ``(N, 2)`` of points ``(N, 3)``; NaN behind the camera."""
    x, y, z = np.ascontiguousarray(points.T)
    inverse = 1.0 / np.where(z > 0, z, np.nan)
    (fx, skew, cx), (shear, fy, cy) = matrix[:2]
    return np.stack([(fx * x + skew * y) * inverse + cx, (shear * x + fy * y) * inverse + cy], 1)


def _triangles(columns: int, rows: int) -> NDArray[np.int64]:
    """Two triangles per cell of a grid of vertices, cell by cell, clockwise on the screen."""
    corner = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).ravel()
    right, below, across = corner + 1, corner + columns, corner + columns + 1
    first, second = np.column_stack([corner, right, below]), np.column_stack([across, below, right])
    return np.stack([first, second], 1).reshape(-1, 3)


def _crease(depth: Array) -> Array:
    """Second difference of the inverse depth, relative to itself, the larger one of both axes: ``(H, W)``."""
    inverse = 1.0 / depth
    out = np.zeros_like(inverse)
    out[:, 1:-1] = np.abs(inverse[:, 2:] - 2 * inverse[:, 1:-1] + inverse[:, :-2])
    out[1:-1] = np.maximum(out[1:-1], np.abs(inverse[2:] - 2 * inverse[1:-1] + inverse[:-2]))
    return np.asarray(out / inverse)


def _areas(pixels: Array, triangles: NDArray[np.int64]) -> Array:
    """Areas on the screen ``(T,)``; NaN where a corner is behind the camera."""
    a, b, c = (pixels[triangles[:, k]] for k in range(3))
    return np.asarray(0.5 * np.abs((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]))


def _fill(depth: Array, known: NDArray[np.bool_]) -> Array:
    """Unknown depth replaced by that of the nearest pixel which has one."""
    _, labels = cv2.distanceTransformWithLabels(
        (~known).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    values = np.zeros(int(labels.max()) + 1)
    values[labels[known]] = depth[known]
    return np.asarray(values[labels])
