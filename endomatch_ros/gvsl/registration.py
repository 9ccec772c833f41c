"""Register two volumes with a pre-trained model: one pass through the network, one resampling of what was stored."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from endomatch_ros.device import resolve_device
from endomatch_ros.errors import CheckpointError, ConfigError
from endomatch_ros.geometry.fields import identity_grid, jacobian_determinant, warp
from endomatch_ros.gvsl import checkpoint as checkpoints
from endomatch_ros.gvsl.instance import instance_optimised
from endomatch_ros.gvsl.model import GvslModel
from endomatch_ros.gvsl.volumes import Prepared, Volume, VolumeConfig, isotropic_grid, prepare, transform

REFINE_STEPS = 5
"""Steps of instance optimisation unless a user says otherwise: they cost twice as much as the network's pass."""
_WEIGHTS = Path(__file__).parent / "weights"
VOLUMES_NOTE = "volumes"
"""Name under which a checkpoint's notes hold its :class:`VolumeConfig` as JSON."""

FieldFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Moving and fixed image ``(1, 1, *spatial)`` to the fused field ``(1, 3, *spatial)`` in voxels."""


@dataclass(frozen=True, eq=False)
class Registration:
    """How the fixed volume's voxels map into the moving one.

    Attributes:
        field: ``(1, 3, *grid)`` displacement in voxels of the common grid: warped(x) = moving(x + field(x)).
        fixed: the fixed volume on the common grid.
        moving: the moving volume on a grid of the same shape.
    """

    field: torch.Tensor
    fixed: Prepared
    moving: Prepared


@dataclass(frozen=True)
class JacobianReport:
    """Determinants of the map inside the fixed volume: 1 keeps volumes, at or below 0 the map folds.

    Attributes:
        minimum, mean, maximum: of the determinants.
        folding_percent: share of the voxels where the map folds.
    """

    minimum: float
    mean: float
    maximum: float
    folding_percent: float


class Registrar:
    """Registers volumes to each other.

    Args:
        field: what finds the field of a prepared pair, such as :func:`model_field` of a model.
        config: how volumes are prepared for it.
    """

    def __init__(self, field: FieldFunction, config: VolumeConfig) -> None:
        self.field, self.config = field, config

    def prepare(self, fixed: Volume, moving: Volume) -> tuple[Prepared, Prepared]:
        """Both volumes on grids of one size: the configured one, or larger where a volume is."""
        own = [isotropic_grid(volume, self.config.spacing).shape for volume in (fixed, moving)]
        size = np.max([self.config.size, *own], axis=0)
        first, second = (prepare(volume, self.config, size) for volume in (fixed, moving))
        return first, second

    def register(self, fixed: Volume, moving: Volume) -> Registration:
        """The map from ``fixed`` into ``moving``; the volumes' centres are laid on each other first."""
        return self.register_prepared(*self.prepare(fixed, moving))

    def register_prepared(self, fixed: Prepared, moving: Prepared) -> Registration:
        """The same for volumes from :meth:`prepare`."""
        return Registration(self.field(moving.image, fixed.image), fixed, moving)


def model_field(model: GvslModel, device: torch.device | str = "cpu", refine_steps: int = 0) -> FieldFunction:
    """The fused field of a model in eval mode, moved to ``device``; the result lies on the CPU.

    With ``refine_steps`` it is improved on the pair itself, see :mod:`endomatch_ros.gvsl.instance`.

    Raises:
        ConfigError: a negative number of steps.
    """
    if refine_steps < 0:
        raise ConfigError(f"refine_steps={refine_steps}: use 0 for the network's own field, or the steps to take")
    model = model.to(device).eval()

    def field(moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        return instance_optimised(model, moving.to(device), fixed.to(device), refine_steps).cpu()

    return field


def no_field(moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
    """The identity: no registration but the volumes' centres laid on each other."""
    return torch.zeros((1, 3, *fixed.shape[2:]))


def load_registrar(
    checkpoint: str | Path, device: str = "cpu", refine_steps: int = REFINE_STEPS
) -> tuple[Registrar, dict[str, str]]:
    """A registrar with a pre-trained model, and the notes of its checkpoint.

    Args:
        checkpoint: ``hippocampus`` or a .safetensors file of `endomatch pretrain volume`.
        device: cpu, cuda or cuda:N; auto takes a GPU if there is one.
        refine_steps: of :func:`model_field`.

    Raises:
        CheckpointError: missing, damaged, or for 2D images.
        ConfigError: a device that is not there, or a negative number of steps.
    """
    model, config, notes = load_volume_model(checkpoint)
    return Registrar(model_field(model, torch.device(resolve_device(device)), refine_steps), config), notes


def load_volume_model(checkpoint: str | Path) -> tuple[GvslModel, VolumeConfig, dict[str, str]]:
    """A pre-trained model for volumes, how to prepare volumes for it, and the notes of its checkpoint.

    Raises:
        CheckpointError: missing, damaged, or for 2D images.
    """
    path = checkpoint_path(checkpoint)
    model, notes = checkpoints.load(path)
    if model.config.spatial_dims != 3 or model.config.in_channels != 1:
        raise CheckpointError(f"{path} is a model for frames: volumes need one of `endomatch pretrain volume`")
    try:
        config = VolumeConfig(**json.loads(notes.get(VOLUMES_NOTE, "{}")))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path} does not say how to prepare volumes ({error}): it is damaged") from error
    return model, config, notes


def checkpoint_path(name: str | Path) -> Path:
    """File of a checkpoint: a preset of the package or a path.

    Raises:
        CheckpointError: neither.
    """
    path = _WEIGHTS / f"{name}.safetensors"
    known = sorted(p.stem for p in _WEIGHTS.glob("*.safetensors"))
    if str(name) in known:
        return path
    if not Path(name).expanduser().is_file():
        raise CheckpointError(
            f"there is no checkpoint {name}: give a .safetensors file of `endomatch pretrain volume`"
            + (f" or one of {', '.join(known)}" if known else "")
        )
    return Path(name).expanduser()


def warp_stored(moving: Volume, fixed: Volume, result: Registration, mode: str = "linear") -> NDArray[Any]:
    """The moving volume (or its labels) on the fixed volume's stored voxels, resampled once.

    Args:
        moving: intensities or labels as stored.
        fixed: the volume that gives the voxels.
        result: of the pair.
        mode: ``linear``, or ``nearest`` for labels. Beyond the moving volume its border values go on, but for labels
            there is background.

    Returns:
        ``fixed.data.shape``, in the type of ``moving.data``.
    """
    positions = moving_positions(fixed, result)
    data = torch.from_numpy(np.ascontiguousarray(moving.data))[None, None]
    offset = (positions - identity_grid(fixed.data.shape, positions)).float()
    warped = warp(data, offset, mode, "zeros" if mode == "nearest" else "border")
    return np.asarray(warped[0, 0].numpy())


def moving_positions(fixed: Volume, result: Registration) -> torch.Tensor:
    """Where each stored voxel of ``fixed`` lies in the moving volume's stored array, ``(1, 3, I, J, K)`` float64."""
    stored = identity_grid(fixed.data.shape, torch.empty(0, dtype=torch.float64))
    on_grid = transform(np.linalg.inv(result.fixed.grid.voxel_from_grid).astype(np.float64), stored)
    offset = (on_grid - identity_grid(fixed.data.shape, on_grid)).float()
    moved = on_grid + warp(result.field, offset).double()
    return transform(result.moving.grid.voxel_from_grid, moved)


def physical_displacement(fixed: Volume, moving: Volume, result: Registration) -> NDArray[np.float32]:
    """The map as ITK stores it: millimetres, axes left–posterior–superior, ``(I, J, K, 1, 3)``.

    A point p of the fixed volume's space corresponds to p + displacement in the moving volume's; SimpleITK's
    ``DisplacementFieldTransform`` and ANTs take it. It holds the laying of centre on centre, too.
    """
    stored = identity_grid(fixed.data.shape, torch.empty(0, dtype=torch.float64))
    moved = transform(moving.affine, moving_positions(fixed, result))
    displacement = (moved - transform(fixed.affine, stored))[0].movedim(0, -1).numpy()
    return np.asarray((displacement * [-1, -1, 1])[..., None, :], np.float32)


def jacobian_report(result: Registration) -> JacobianReport:
    """Determinants on the common grid, as far as the fixed volume reaches."""
    determinants = jacobian_determinant(result.field)[0][result.fixed.mask[0, 0]]
    folded = ~(determinants > 0)
    return JacobianReport(
        float(determinants.min()),
        float(determinants.mean()),
        float(determinants.max()),
        100.0 * float(folded.float().mean()),
    )
