"""Pictures of a registration: before and after with contours, a checkerboard, the deformed grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from endomatch_ros.geometry.fields import warp
from endomatch_ros.gvsl.registration import Registration
from endomatch_ros.gvsl.volumes import Volume, sample

_PLANES = (("sagittal", 0), ("coronal", 1), ("axial", 2))
_TILE = 6  # voxels of a checkerboard's square
_MESH = 3  # voxels between the lines of the deformed grid

Array = NDArray[Any]


def write_pictures(folder: Path, result: Registration, labels: Volume | None = None) -> list[Path]:
    """Write ``overlay.png`` and ``grid.png`` of the fixed volume's middle planes; returns the paths.

    Args:
        folder: exists.
        result: of the pair.
        labels: of the moving volume; their warped outlines are drawn on the fixed one.
    """
    box = _box(result.fixed.mask[0, 0].numpy())
    outlines = None if labels is None else _warped_labels(labels, result)[box]
    images = result.fixed.image, result.moving.image, warp(result.moving.image, result.field)
    fixed, moving, warped = (image[0, 0].numpy()[box] for image in images)
    overlay = Figure((14, 9), layout="constrained")
    for row, (plane, axis) in zip(overlay.subplots(3, 5), _PLANES, strict=True):
        middle = fixed.shape[axis] // 2
        f, m, w = (_slice(volume, axis, middle) for volume in (fixed, moving, warped))
        shown = {
            "fixed" if outlines is None else "fixed, warped labels": (f, None),
            "moving, with the fixed one's contours": (m, f),
            "warped, with the fixed one's contours": (w, f),
            "fixed and moving": (checkerboard(f, m, _TILE), None),
            "fixed and warped": (checkerboard(f, w, _TILE), None),
        }
        for axes, (title, (image, contours)) in zip(row, shown.items(), strict=True):
            _show(axes, image, contours)
            if outlines is not None and axes is row[0]:
                outline = _slice(outlines, axis, middle)
                if outline.any():
                    axes.contour(outline, levels=np.unique(outline[outline > 0]) - 0.5, colors="#ff50a0", linewidths=1)
            axes.set_title(f"{plane}: {title}" if axes is row[0] else title, fontsize=8)
    grid = Figure((12, 5), layout="constrained")
    field = result.field[0].numpy()[(slice(None), *box)]
    for axes, (plane, axis) in zip(grid.subplots(1, 3), _PLANES, strict=True):
        _deformed(axes, fixed, field, axis)
        axes.set_title(f"{plane}: where the moving volume is sampled", fontsize=9)
    paths = [folder / "overlay.png", folder / "grid.png"]
    for figure, path in zip((overlay, grid), paths, strict=True):
        figure.savefig(path, dpi=110)
    return paths


def _box(mask: Array) -> tuple[slice, ...]:
    """The smallest box around what is true: beyond the volume there are only its border's values, drawn out."""
    places = np.argwhere(mask)
    return tuple(slice(low, high + 1) for low, high in zip(places.min(axis=0), places.max(axis=0), strict=True))


def _warped_labels(labels: Volume, result: Registration) -> Array:
    on_grid = sample(labels, result.moving.grid, "nearest")
    inside = torch.where(result.moving.mask, on_grid, 0)  # border values go on beyond the volume
    return np.asarray(warp(inside, result.field, "nearest")[0, 0].numpy())


def checkerboard(first: Array, second: Array, tile: int) -> Array:
    """Squares of ``tile`` pixels, in turn of two images ``(H, W)``, beginning with ``first``."""
    rows, columns = np.indices(first.shape) // tile
    return np.where((rows + columns) % 2 == 0, first, second)


def _slice(volume: Array, axis: int, index: int) -> Array:
    """A plane with the patient's front or head at the top."""
    return np.asarray(np.take(volume, index, axis).T[::-1])


def _show(axes: Axes, image: Array, contours: Array | None) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=1)
    if contours is not None:
        axes.contour(contours, levels=[0.35, 0.65], colors=["#ffb000", "#40b0ff"], linewidths=0.7)
    axes.set_axis_off()


def _deformed(axes: Axes, fixed: Array, field: Array, axis: int) -> None:
    middle = fixed.shape[axis] // 2
    across, up = [k for k in range(3) if k != axis]
    axes.imshow(np.take(fixed, middle, axis).T, cmap="gray", vmin=0, vmax=1, origin="lower", alpha=0.6)
    flat = np.take(field, middle, axis + 1)  # (3, across, up)
    x, y = np.indices(flat.shape[1:]) + flat[[across, up]]
    for lines in (zip(x[::_MESH], y[::_MESH], strict=True), zip(x.T[::_MESH], y.T[::_MESH], strict=True)):
        for line in lines:
            axes.plot(*line, color="#0060a0", linewidth=0.7)
    axes.set_axis_off()
