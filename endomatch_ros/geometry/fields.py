"""Displacement fields: pure functions on tensors, in 2D and 3D.

Convention: a field ``u`` has shape ``(B, D, *spatial)``, D = 2 or 3. Component k is an offset along tensor axis k of
``spatial``, in voxels (pixels) of the image that is sampled, so in 2D the order is (row, column) and the offset in
(x, y) is ``(u[:, 1], u[:, 0])``. A field runs from the fixed grid to the moving image: ``warped(p) = moving(p + u(p))``
at voxel p, with voxel centres at whole numbers and (0, …, 0) the first voxel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from endomatch_ros.errors import ConfigError, ImageError

_MODES = {"linear": "bilinear", "nearest": "nearest"}
_PADDINGS = ("border", "zeros")


def identity_grid(spatial: Sequence[int], like: torch.Tensor | None = None) -> torch.Tensor:
    """Every voxel's own position, ``(1, D, *spatial)``, in the dtype and on the device of ``like``."""
    dtype, device = (torch.float32, None) if like is None else (like.dtype, like.device)
    axes = [torch.arange(size, dtype=dtype, device=device) for size in spatial]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).unsqueeze(0)


def warp(image: torch.Tensor, field: torch.Tensor, mode: str = "linear", padding: str = "border") -> torch.Tensor:
    """``image`` sampled at every voxel's position plus its displacement.

    A displacement by whole voxels, and so the zero field, gives the image's own values bit for bit. `grid_sample` alone
    does not: it divides positions by the image's size and multiplies them again, and what the rounding leaves mixes
    neighbours.

    Args:
        image: ``(B, C, *image_spatial)`` of any type; whole numbers (labels) are exact up to 2²⁴.
        field: ``(B, D, *spatial)``, in voxels of ``image``; ``spatial`` may differ from the image's.
        mode: ``linear``, or ``nearest`` (halves go to the even voxel; no gradient reaches the field).
        padding: beyond the outermost voxels' centres, their values (``border``) or 0 (``zeros``).

    Returns:
        ``(B, C, *spatial)`` of the image's type (linear samples of whole numbers: of the field's), differentiable in
        ``image`` and, if linear, in ``field``.

    Raises:
        ConfigError: unknown mode or padding.
        ImageError: shapes that do not fit each other.
    """
    if mode not in _MODES or padding not in _PADDINGS:
        raise ConfigError(f"mode={mode!r}, padding={padding!r}: use one of {sorted(_MODES)} and of {_PADDINGS}")
    _check(image, field)
    # Half precision holds no position beyond 256 to a pixel.
    values = image.to(torch.promote_types(image.dtype, field.dtype))
    positions = identity_grid(field.shape[2:], field) + field
    whole = positions.round()
    if mode == "nearest":
        return _sample(values, whole.detach(), mode, padding).to(image.dtype)
    sampled = _sample(values, positions, mode, padding)
    with torch.no_grad():
        exact = _sample(values, whole, "nearest", padding)
        on_voxel = (positions == whole).all(dim=1, keepdim=True)
    return _replace(sampled, exact, on_voxel).to(image.dtype if image.is_floating_point() else field.dtype)


def _check(image: torch.Tensor, field: torch.Tensor) -> None:
    dims = field.dim() - 2
    fits = dims in (2, 3) and field.shape[1] == dims and image.dim() == field.dim() and len(image) == len(field)
    if not fits:
        raise ImageError(
            f"image {tuple(image.shape)} and field {tuple(field.shape)} do not fit: use (B, C, *spatial) and "
            "(B, D, *spatial) with D = 2 or 3 spatial dimensions"
        )


def _sample(values: torch.Tensor, positions: torch.Tensor, mode: str, padding: str) -> torch.Tensor:
    sizes = torch.tensor([max(size - 1, 1) for size in values.shape[2:]], dtype=positions.dtype).to(positions.device)
    normalised = positions * (2.0 / sizes).view(1, -1, *[1] * len(sizes)) - 1.0
    grid = normalised.movedim(1, -1).flip(-1)  # (B, *spatial, D), the last axis of the image first
    return functional.grid_sample(
        values, grid.to(values.dtype), mode=_MODES[mode], padding_mode=padding, align_corners=True
    )


class _Replace(torch.autograd.Function):
    """Values of ``exact`` where ``chosen``; the gradient of ``sampled`` everywhere, for both are the same function."""

    @staticmethod
    def forward(ctx: Any, sampled: torch.Tensor, exact: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        return torch.where(chosen, exact, sampled)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return gradients[0], None, None


def _replace(sampled: torch.Tensor, exact: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = _Replace.apply(sampled, exact, chosen)
    return result


def compose(outer: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
    """Two fields in one, p → outer(inner(p)), so that an image is sampled once.

    ``warp(image, compose(outer, inner))`` shows what ``warp(warp(image, outer), inner)`` shows, with one interpolation.

    Args:
        outer: ``(B, D, *spatial)``; beyond its grid it keeps its border values.
        inner: ``(B, D, *spatial)``.
    """
    return inner + warp(outer, inner)


def compose_affine(matrix: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
    """:func:`compose` with an affine outer map in closed form: nothing is interpolated, nothing ends at the border.

    Args:
        matrix: ``(B, D, D + 1)``, as for :func:`affine_field`.
        inner: ``(B, D, *spatial)``.
    """
    dims, spatial = inner.shape[1], inner.shape[2:]
    if matrix.shape[1:] != (dims, dims + 1):
        raise ImageError(f"matrix {tuple(matrix.shape)} and field {tuple(inner.shape)} do not fit: use (B, D, D + 1)")
    linear = matrix[:, :, :dims] - torch.eye(dims, dtype=matrix.dtype, device=matrix.device)
    centre = torch.tensor([(size - 1) / 2 for size in spatial], dtype=inner.dtype).to(inner.device)
    ones = [1] * dims
    offset = identity_grid(spatial, inner) - centre.view(1, -1, *ones) + inner  # from the image's centre
    field = inner + matrix[:, :, dims].reshape(-1, dims, *ones)
    # Sums of products instead of a matrix product, which autocast and TF32 would round to half a pixel.
    for axis in range(dims):
        field = field + linear[:, :, axis].reshape(-1, dims, *ones) * offset[:, axis : axis + 1]
    return field


def affine_field(matrix: torch.Tensor, spatial: Sequence[int]) -> torch.Tensor:
    """Field of the affine map x → A(x − c) + c + t about the image's centre c = (size − 1) / 2.

    Args:
        matrix: ``(B, D, D + 1)``: A beside t, in voxels, axes in tensor order. It maps positions on the fixed grid to
            positions in the moving image: a scale of 2 samples twice as far out, and so halves what is seen.
        spatial: size of the grid.

    Returns:
        ``(B, D, *spatial)``; exactly zero for the identity.
    """
    zero = matrix.new_zeros((len(matrix), matrix.shape[1], *spatial))
    return compose_affine(matrix, zero)


def integrate(velocity: torch.Tensor, steps: int = 7) -> torch.Tensor:
    """Displacement of a stationary velocity field after unit time, by scaling and squaring with 2^``steps`` parts.

    Args:
        velocity: ``(B, D, *spatial)``, voxels per unit time; it keeps its border values beyond its grid.
        steps: squarings, 0 for none.
    """
    field = velocity * 0.5**steps
    for _ in range(steps):
        field = compose(field, field)
    return field


def resize_field(field: torch.Tensor, spatial: Sequence[int]) -> torch.Tensor:
    """``field`` on another grid over the same field of view, its offsets in the new grid's voxels.

    Grids map as x' = (x + ½)·s − ½, s = new size / old size, so offsets scale by s along each axis.

    Args:
        field: ``(B, D, *old)``.
        spatial: the new size.
    """
    scale = torch.tensor([new / old for new, old in zip(spatial, field.shape[2:], strict=True)], dtype=field.dtype)
    mode = "bilinear" if len(spatial) == 2 else "trilinear"
    resized = functional.interpolate(field, size=tuple(spatial), mode=mode, align_corners=False)
    scaled: torch.Tensor = resized * scale.to(field.device).view(1, -1, *[1] * len(spatial))
    return scaled


def jacobian_determinant(field: torch.Tensor) -> torch.Tensor:
    """Determinant of the map x → x + u(x) at every voxel, ``(B, *spatial)``: its local change of volume.

    Central differences inside, one-sided ones at the border; every axis needs 2 voxels. Above 1 the fixed voxel covers
    more than its own volume of the moving image, at or below 0 the map folds.
    """
    dims = field.shape[1]
    rows = torch.gradient(field, dim=list(range(2, 2 + dims)))  # per axis: (B, D, *spatial)
    jacobian = torch.stack([row.movedim(1, -1) for row in rows], dim=-1)  # (B, *spatial, D, D), du_i / dx_j
    jacobian = jacobian + torch.eye(dims, dtype=field.dtype, device=field.device)
    if dims == 2:
        a, b, c, d = jacobian.flatten(-2).unbind(-1)
        return a * d - b * c
    cross = torch.linalg.cross(jacobian[..., 1, :], jacobian[..., 2, :], dim=-1)
    volume: torch.Tensor = torch.linalg.vecdot(jacobian[..., 0, :], cross)
    return volume


def folding_percent(field: torch.Tensor) -> torch.Tensor:
    """Share of voxels where the map folds (determinant ≤ 0 or not a number), ``(B,)`` in percent."""
    folded = torch.logical_not(jacobian_determinant(field) > 0)
    return folded.flatten(1).float().mean(1).mul(100.0)
