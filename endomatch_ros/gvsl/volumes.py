"""CT and MR volumes: reading and writing NIfTI, one orientation, one spacing, one intensity range, one size.

A volume is kept as it was stored. What a network sees is a *grid*: an isotropic lattice along the patient's axes (RAS:
the first axis runs to the right, the second to the front, the third up), cut or extended to a size, with a matrix that
takes its voxels to stored ones. So orientation, spacing and size cost one interpolation together, none where the volume
has the grid's spacing already, and every result finds its way back to the stored voxels.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray
from torch.nn import functional

from endomatch_ros.errors import ConfigError, DataError, check_ranges
from endomatch_ros.geometry.fields import identity_grid, warp

Matrix = NDArray[np.float64]
Shape = tuple[int, int, int]

_SAME_SPACING = 1e-3  # relative; headers hold rounded numbers


@dataclass(frozen=True)
class VolumeConfig:
    """What volumes are turned into; it travels in the checkpoint.

    Attributes:
        spacing: of the isotropic grid, mm.
        size: voxels along right, front and up. Training cuts and extends volumes to it; registration extends only, and
            takes larger grids where volumes are larger.
        low, high: percentiles of the intensities that become 0 and 1; beyond them intensities are clipped.
    """

    spacing: float = 1.0
    size: Shape = (48, 64, 48)
    low: float = 0.5
    high: float = 99.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", tuple(self.size))
        check_ranges(self, {"spacing": (0.01, 100.0), "low": (0.0, 49.0), "high": (51.0, 100.0)}, what="volumes.")
        if len(self.size) != 3 or not all(isinstance(n, int) and 8 <= n <= 1024 for n in self.size):
            raise ConfigError(f"volumes.size={self.size!r}: give three whole numbers of 8 to 1024 voxels")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume as it is stored.

    Attributes:
        data: ``(I, J, K)``, float32 intensities or int32 labels.
        affine: ``(4, 4)`` world_from_voxel, mm, RAS.
        path: where it came from, for messages.
        header: the file's, for units and the like.
    """

    data: NDArray[Any]
    affine: Matrix
    path: Path = Path("volume")
    header: Any = None


@dataclass(frozen=True, eq=False)
class Grid:
    """A lattice laid over a stored volume.

    Attributes:
        shape: voxels along each axis.
        voxel_from_grid: ``(4, 4)``, positions on the grid to positions in the stored array, both in voxels.
    """

    shape: Shape
    voxel_from_grid: Matrix


@dataclass(frozen=True, eq=False)
class Prepared:
    """A volume as a network sees it.

    Attributes:
        image: ``(1, 1, *grid.shape)`` float32 in [0, 1]; beyond the stored volume its border values go on.
        mask: ``(1, 1, *grid.shape)`` bool, True inside the stored volume.
        grid: where the voxels lie in it.
    """

    image: torch.Tensor
    mask: torch.Tensor
    grid: Grid


def read_volume(path: Path) -> Volume:
    """Intensities of a NIfTI file.

    Raises:
        DataError: missing, unreadable, not a NIfTI file, not 3D, not scalar, empty, with an impossible affine, or with
            one value only.
    """
    volume = _read(path)
    finite = volume.data[np.isfinite(volume.data)]
    if finite.size == 0 or finite.min() == finite.max():
        raise DataError(f"{path} holds one value only: there is nothing to see in it; leave it out")
    return volume


def read_labels(path: Path, image: Volume | None = None) -> Volume:
    """A label map, int32, of the size of ``image`` if that is given.

    Raises:
        DataError: as :func:`read_volume`, or values that are not whole, or another size.
    """
    volume = _read(path)
    if not np.array_equal(volume.data, np.round(volume.data)):
        raise DataError(f"{path} holds values that are not whole: labels are needed, not intensities")
    if image is not None and volume.data.shape != image.data.shape:
        raise DataError(
            f"{path} is {volume.data.shape}, its image {image.path} is {image.data.shape}: they must be equal"
        )
    return Volume(volume.data.astype(np.int32), volume.affine, path, volume.header)


def _read(path: Path) -> Volume:
    if not path.is_file():
        raise DataError(f"there is no file {path}: give a .nii or .nii.gz volume")
    try:
        image = nib.load(path)
        if not isinstance(image, nib.Nifti1Image):
            raise DataError(f"{path} is no NIfTI file: convert it to .nii or .nii.gz")
        if image.header.get_data_dtype().fields or np.issubdtype(image.header.get_data_dtype(), np.complexfloating):
            raise DataError(f"{path} holds {image.header.get_data_dtype()}: one real number per voxel is needed")
        data = np.asarray(image.dataobj, dtype=np.float32)
    except (ImageFileError, HeaderDataError, EOFError, OSError, ValueError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}): copy or export it again") from error
    # Some tools write a fourth axis of length 1.
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim != 3 or 0 in data.shape:
        raise DataError(f"{path} is {data.ndim}D {data.shape}: a 3D volume is needed; take one volume out of a series")
    affine = np.asarray(image.affine, np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise DataError(f"{path} has an affine without volume ({affine.tolist()}): repair its header")
    return Volume(data, affine, path, image.header)


def write_volume(path: Path, data: NDArray[Any], like: Volume) -> None:
    """Write an array as NIfTI on the grid of ``like``, with its affine, units and orientation codes.

    Args:
        path: ``.nii`` or ``.nii.gz``; the folder is made if need be.
        data: ``(I, J, K)`` or, one vector per voxel, ``(I, J, K, 1, C)``.
        like: the volume whose grid it is.

    Raises:
        DataError: another size.
    """
    if data.shape[:3] != like.data.shape:
        raise DataError(f"{path}: the result is {data.shape}, its grid {like.data.shape}")
    image = nib.Nifti1Image(data, like.affine, like.header)
    image.header.set_data_dtype(data.dtype)
    image.header["cal_min"] = image.header["cal_max"] = 0  # the original's window
    if data.ndim == 5:
        image.header.set_intent("vector")
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)


def normalise(data: NDArray[Any], low: float = 0.5, high: float = 99.5) -> NDArray[np.float32]:
    """Intensities with their robust range taken to [0, 1], clipped; values that are not finite become 0.

    Args:
        data: of any shape and unit.
        low: percentile of the finite values that becomes 0.
        high: percentile that becomes 1. Where both are the same value (few voxels differ from the background), the
            extremes are taken instead.

    Raises:
        DataError: all finite values are equal.
    """
    finite = data[np.isfinite(data)].astype(np.float64)
    ends = np.percentile(finite, [low, high]) if finite.size else np.zeros(2)
    if finite.size and ends[0] == ends[1]:
        ends = np.array([finite.min(), finite.max()])
    if ends[0] == ends[1]:
        raise DataError(f"all {data.size} intensities are equal: there is nothing to normalise")
    scaled = (np.where(np.isfinite(data), data, ends[0]).astype(np.float64) - ends[0]) / (ends[1] - ends[0])
    return np.clip(scaled, 0.0, 1.0).astype(np.float32)


def isotropic_grid(volume: Volume, spacing: float) -> Grid:
    """The lattice along the patient's axes with the given spacing (mm) about the volume's centre.

    Volumes that lie askew keep their own directions, named after the nearest axes. The lattice covers the stored voxels
    to within half a voxel of its own.
    """
    orientation = nib.orientations.io_orientation(volume.affine)
    voxel_from_canonical = nib.orientations.inv_ornt_aff(orientation, volume.data.shape)
    shape = np.empty(3, int)
    shape[orientation[:, 0].astype(int)] = volume.data.shape
    sizes = np.linalg.norm((volume.affine @ voxel_from_canonical)[:3, :3], axis=0)
    step = np.where(np.abs(sizes - spacing) < _SAME_SPACING * spacing, 1.0, spacing / sizes)
    new = np.maximum(1, np.round(shape / step).astype(int))
    canonical_from_grid = np.eye(4)
    canonical_from_grid[:3, :3] = np.diag(step)
    canonical_from_grid[:3, 3] = (shape - 1) / 2 - step * (new - 1) / 2
    return Grid(_shape(new), voxel_from_canonical @ canonical_from_grid)


def fit(grid: Grid, size: Sequence[int]) -> Grid:
    """``grid`` cut or extended about its centre to ``size``, by whole voxels: nothing is interpolated for it."""
    shift = np.eye(4)
    shift[:3, 3] = -((np.asarray(size) - grid.shape) // 2)
    return Grid(_shape(size), grid.voxel_from_grid @ shift)


def sample(volume: Volume, grid: Grid, mode: str = "linear") -> torch.Tensor:
    """Values of a volume on a grid, ``(1, 1, *grid.shape)``; border values go on beyond the stored array.

    Args:
        volume: intensities or labels.
        grid: of this volume, or of another one with the same affine.
        mode: ``linear``, or ``nearest`` for labels. Where the grid is coarser than the volume, intensities are smoothed
            first.
    """
    data = torch.from_numpy(np.ascontiguousarray(volume.data))[None, None]
    if mode == "linear":
        data = _smooth(data, np.linalg.norm(grid.voxel_from_grid[:3, :3], axis=1))
    positions = grid_positions(grid)
    return warp(data, positions - identity_grid(grid.shape), mode)


def prepare(volume: Volume, config: VolumeConfig, size: Sequence[int] | None = None) -> Prepared:
    """A volume on the network's grid.

    Args:
        volume: intensities.
        config: spacing and percentiles.
        size: voxels of the grid; None: as many as the volume needs.
    """
    grid = isotropic_grid(volume, config.spacing)
    grid = grid if size is None else fit(grid, size)
    data = normalise(volume.data, config.low, config.high)
    image = sample(Volume(data, volume.affine, volume.path), grid)
    return Prepared(image.clamp(0.0, 1.0), inside(volume, grid), grid)


def inside(volume: Volume, grid: Grid) -> torch.Tensor:
    """``(1, 1, *grid.shape)`` bool, True where the grid's voxel lies in a stored one."""
    positions = grid_positions(grid)
    end = torch.tensor(volume.data.shape, dtype=positions.dtype).view(1, 3, 1, 1, 1) - 0.5
    # Half-way positions carry rounding errors either way.
    return ((positions >= -0.501) & (positions <= end + 0.001)).all(1, keepdim=True)


def grid_positions(grid: Grid) -> torch.Tensor:
    """Positions of a grid's voxels in the stored array, ``(1, 3, *grid.shape)`` float32."""
    return transform(grid.voxel_from_grid, identity_grid(grid.shape, torch.empty(0, dtype=torch.float64))).float()


def transform(matrix: Matrix, positions: torch.Tensor) -> torch.Tensor:
    """Positions ``(1, 3, *spatial)`` through a ``(4, 4)`` affine matrix, in their own precision."""
    linear = torch.from_numpy(matrix[:3, :3]).to(positions)
    offset = torch.from_numpy(matrix[:3, 3]).to(positions)
    return torch.einsum("ij,bj...->bi...", linear, positions) + offset.view(1, 3, 1, 1, 1)


def _smooth(data: torch.Tensor, steps: NDArray[np.float64]) -> torch.Tensor:
    """Gaussian along each axis that is sampled more coarsely than stored; ``steps`` in stored voxels."""
    for axis, step in enumerate(steps):
        if step <= 1 + _SAME_SPACING:
            continue
        # The Gaussian of variance (step² − 1) / 12 makes a box of one voxel about as wide as one of `step` voxels.
        sigma = float(np.sqrt((step**2 - 1) / 12))
        radius = max(1, int(np.ceil(3 * sigma)))
        kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
        shape, padding = [1, 1, 1, 1, 1], [0] * 6
        shape[2 + axis] = len(kernel)
        padding[4 - 2 * axis] = padding[5 - 2 * axis] = radius
        data = functional.conv3d(functional.pad(data, padding, mode="replicate"), (kernel / kernel.sum()).view(shape))
    return data


def _shape(sizes: Sequence[int] | NDArray[np.int_]) -> Shape:
    x, y, z = (int(n) for n in sizes)
    return x, y, z
