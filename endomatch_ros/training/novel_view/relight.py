"""The light sits on the camera and moves with it: how a novel view's brightness differs from its source's."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from endomatch_ros.training.novel_view.synthesis import NovelView, Surface

Array = NDArray[np.float64]

_GAMMA = 2.2  # display values are linear light to the power of 1 / 2.2
_LIMIT = 5.0  # of the gain either way: shading from estimated depth is not trusted further
_GRAZING = 0.15  # least cosine between normal and light; scattered light keeps grazing tissue from going black
_SMOOTH = 7  # vertices across which normals are averaged: estimated depth is rough


def light_gain(surface: Surface, moved: Array) -> NDArray[np.float32]:
    """Radiance at each vertex ``(N,)`` under the moved light as a multiple of that under the source's.

    Lambert's law and the inverse square of the distance, light at the camera's centre: cos θ' / cos θ · d² / d'².
    """
    gain = _irradiance(moved, surface.grid) / _irradiance(surface.points, surface.grid)
    return np.asarray(np.clip(gain, 1 / _LIMIT, _LIMIT), np.float32)


def render(view: NovelView, image: NDArray[np.uint8], relit: bool = True) -> NDArray[np.uint8]:
    """The picture ``(H, W, 3)`` of a novel view: its source's colours under the moved light.

    Args:
        view: from :func:`~endomatch_ros.training.novel_view.synthesis.novel_view`.
        image: ``(h, w, 3)`` RGB uint8, the source.
        relit: False leaves the colours as they are.

    The exposure adapts as a camera's would: the median gain over the view is taken out again.
    """
    source = view.source
    colour = cv2.remap(image, source[..., 0], source[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    drawn = view.drawn
    if relit and drawn.any():
        gain = light_gain(view.surface, view.moved)
        corners = view.surface.triangles[view.raster.triangle[drawn]]
        weights = view.raster.weights[drawn]
        shown = sum(weights[:, k] * gain[corners[:, k]] for k in range(3))
        # (linear · gain)^(1/γ) = value · gain^(1/γ): nothing has to be linearised.
        factor = np.ones(drawn.shape, np.float32)
        factor[drawn] = (shown / np.median(shown)) ** (1 / _GAMMA)
        colour = np.clip(colour * factor[..., None] + 0.5, 0, 255).astype(np.uint8)
    return np.asarray(np.where(drawn[..., None], colour, 0), np.uint8)


def _irradiance(points: Array, grid: tuple[int, int]) -> Array:
    """Irradiance, cos θ / d², at vertices ``(N, 3)`` of a grid ``(columns, rows)`` lit from the origin."""
    columns, rows = grid
    surface = points.reshape(rows, columns, 3)
    side = min(_SMOOTH, rows, columns)
    smooth = cv2.blur(surface, (side, side), borderType=cv2.BORDER_REPLICATE)
    across, down = np.gradient(smooth, axis=1), np.gradient(smooth, axis=0)
    normals = np.cross(across, down).reshape(-1, 3)
    distance2 = (points**2).sum(axis=1)
    length = np.sqrt((normals**2).sum(axis=1) * distance2)
    cosine = np.abs((normals * points).sum(axis=1)) / np.maximum(length, 1e-300)
    return np.asarray(np.maximum(cosine, _GRAZING) / distance2)
