"""Bounded affine maps: from a network's raw numbers to a matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from endomatch_ros.errors import ConfigError, check_ranges


@dataclass(frozen=True)
class AffineLimits:
    """How far an affine map can go from the identity: the paper's values; the translation's bound is ours.

    Attributes:
        rotation: largest angle about each axis, radians.
        shear: largest shear angle, radians.
        scale: largest change of scale along each axis: factors run from 1 − scale to 1 + scale.
        translation: largest shift along each axis, as a fraction of the image's size there.
    """

    rotation: float = math.pi / 9
    shear: float = math.pi / 18
    scale: float = 0.25
    translation: float = 0.25

    def __post_init__(self) -> None:
        ranges = {"rotation": (0, math.pi), "shear": (0, math.pi / 3), "scale": (0, 0.9), "translation": (0, 1)}
        check_ranges(self, ranges, what="limits.")


def parameter_count(spatial_dims: int) -> int:
    """Numbers that make one map: 6 in 2D (1 angle, 2 scales, 1 shear, 2 shifts), 12 in 3D (3 of each)."""
    if spatial_dims not in (2, 3):
        raise ConfigError(f"spatial_dims={spatial_dims!r}: only 2 and 3 are supported")
    return spatial_dims * (spatial_dims + 1)


def bounded_matrix(raw: torch.Tensor, spatial: Sequence[int], limits: AffineLimits) -> torch.Tensor:
    """Matrices of unbounded numbers: each goes through tanh and is multiplied by its limit; zeros give the identity.

    A = rotation · shear · scale, with the shear upper triangular: the QR decomposition, so every matrix with a positive
    determinant has exactly one set of numbers. In 2D a positive angle turns axis 0 (down) towards axis 1 (right); in 3D
    the rotation is R₀ · R₁ · R₂, the one about axis k turning axis k + 1 towards k + 2 (modulo 3).

    Args:
        raw: ``(B, parameter_count(D))``: angles, scales along the axes, shears (0→1; in 3D 0→1, 0→2, 1→2), shifts.
        spatial: the image's size, D numbers, for the shifts.
        limits: the bounds.

    Returns:
        ``(B, D, D + 1)`` for :func:`endomatch_ros.geometry.fields.affine_field`, differentiable in ``raw``.
    """
    dims = len(spatial)
    angles = dims * (dims - 1) // 2
    rotation, scale, shear, shift = torch.split(torch.tanh(raw.float()), [angles, dims, angles, dims], dim=1)
    linear = _product(
        _rotation(rotation * limits.rotation), _shear_and_scale(shear * limits.shear, scale * limits.scale)
    )
    sizes = torch.tensor(list(spatial), dtype=raw.dtype).to(raw.device).float()
    return torch.cat([linear, (shift * limits.translation * sizes).unsqueeze(-1)], dim=-1)


def _matrix(rows: Sequence[Sequence[torch.Tensor]]) -> torch.Tensor:
    # torch.stack keeps the gradient; torch.tensor of a list of tensors would copy the numbers out of the graph.
    return torch.stack([torch.stack(list(row), dim=-1) for row in rows], dim=-2)


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    # Not a matrix product, which autocast and TF32 would round.
    return (left.unsqueeze(-1) * right.unsqueeze(-3)).sum(-2)


def _rotation(angles: torch.Tensor) -> torch.Tensor:
    """``(B, 1)`` or ``(B, 3)`` angles to ``(B, D, D)``."""
    cos, sin = angles.cos().unbind(1), angles.sin().unbind(1)
    if len(cos) == 1:
        return _matrix([[cos[0], -sin[0]], [sin[0], cos[0]]])
    one, zero = torch.ones_like(cos[0]), torch.zeros_like(cos[0])
    first = _matrix([[one, zero, zero], [zero, cos[0], -sin[0]], [zero, sin[0], cos[0]]])
    second = _matrix([[cos[1], zero, sin[1]], [zero, one, zero], [-sin[1], zero, cos[1]]])
    third = _matrix([[cos[2], -sin[2], zero], [sin[2], cos[2], zero], [zero, zero, one]])
    return _product(first, _product(second, third))


def _shear_and_scale(angles: torch.Tensor, changes: torch.Tensor) -> torch.Tensor:
    """Unit upper triangular matrix of the shears' tangents times the diagonal of scales: ``(B, D, D)``."""
    tangent, scale = angles.tan().unbind(1), (1.0 + changes).unbind(1)
    zero = torch.zeros_like(scale[0])
    if len(scale) == 2:
        return _matrix([[scale[0], tangent[0] * scale[1]], [zero, scale[1]]])
    return _matrix(
        [
            [scale[0], tangent[0] * scale[1], tangent[1] * scale[2]],
            [zero, scale[1], tangent[2] * scale[2]],
            [zero, zero, scale[2]],
        ]
    )
