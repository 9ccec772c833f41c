"""Cosine similarity and mutual nearest neighbours on descriptor maps."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from endomatch_ros.geometry.warping import sample

_CHUNK = 1 << 24  # similarities held at a time: 64 MiB in float32


def mutual_matches(
    map0: Tensor, map1: Tensor, valid0: Tensor, valid1: Tensor, tolerance: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Mutual nearest neighbours between two descriptor maps by cosine similarity.

    Every similarity is computed once, in slices, and serves both directions.

    Args:
        map0: ``(C, h, w)``, L2-normalised.
        map1: ``(C, h', w')``, L2-normalised.
        valid0: ``(h, w)`` bool, cells of map 0 that may be matched.
        valid1: ``(h', w')`` bool, the same for map 1.
        tolerance: a match is mutual if the way back ends within this many cells; 0 demands the same cell.

    Returns:
        ``index0`` ``(K,)`` and ``index1`` ``(K,)``, flat cell indices, and ``similarity`` ``(K,)``.
    """
    cells0, cells1 = (torch.nonzero(valid.flatten())[:, 0] for valid in (valid0, valid1))
    if len(cells0) == 0 or len(cells1) == 0:
        empty = cells0.new_zeros(0)
        return empty, empty, map0.new_zeros(0)
    queries, keys = map0.flatten(1).T[cells0], map1.flatten(1)[:, cells1].contiguous()
    rows = max(1, _CHUNK // len(cells1))
    forward: list[tuple[Tensor, Tensor]] = []
    column_best = queries.new_full((len(cells1),), -torch.inf)
    back = torch.zeros_like(cells1)
    for start in range(0, len(queries), rows):
        part = queries[start : start + rows] @ keys
        values, indices = part.max(dim=1)
        forward.append((values, indices))
        values, indices = part.max(dim=0)
        better = values > column_best
        column_best = torch.where(better, values, column_best)
        back = torch.where(better, indices + start, back)
    similarity, target = (torch.cat(parts) for parts in zip(*forward, strict=True))
    returned, width = cells0[back[target]], map0.shape[-1]
    apart = torch.maximum((returned % width - cells0 % width).abs(), (returned // width - cells0 // width).abs())
    mutual = apart <= tolerance
    return cells0[mutual], cells1[target[mutual]], similarity[mutual]


def mutual_cells(
    map0: Tensor, map1: Tensor, valid0: Tensor, valid1: Tensor, tolerance: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`mutual_matches`, in shapes that depend on sizes alone, so that the host need not wait for a GPU.

    Returns:
        For every cell of map 0 its nearest valid neighbour in map 1, ``(h·w,)`` flat cell indices, their ``(h·w,)``
        similarity, and ``(h·w,)`` bool, which of the cells have one that is mutual.
    """
    rows0, rows1 = map0.flatten(1).T, map1.flatten(1).T
    similarity, target = _nearest(rows0, rows1, valid1.flatten())
    returned = _nearest(rows1, rows0, valid0.flatten())[1][target]
    here, width = torch.arange(len(rows0), device=map0.device), map0.shape[-1]
    across = (returned % width - here % width).abs()
    down = (returned.div(width, rounding_mode="floor") - here.div(width, rounding_mode="floor")).abs()
    mutual = (torch.maximum(across, down) <= tolerance) & valid0.flatten() & (similarity > -torch.inf)
    return target, similarity, mutual


def _nearest(queries: Tensor, keys: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """``(N,)`` largest products of queries ``(N, C)`` with the ``valid`` keys ``(M, C)``, −inf for none, and where."""
    rows = max(1, _CHUNK // len(keys))
    bias = torch.zeros_like(keys[:, 0]).masked_fill(~valid, -torch.inf)
    parts = [(part @ keys.T + bias).max(dim=1) for part in torch.split(queries, rows)]
    values, indices = (torch.cat(found) for found in zip(*parts, strict=True))
    return values, indices


def locate(anchors: Tensor, features: Tensor, corners: Tensor, reach: int, temperature: float) -> Tensor:
    """Where in a small window of a map each anchor fits best, to a fraction of a cell.

    The best cell of the window, then the softmax expectation over the 3×3 cells around it.

    Args:
        anchors: ``(K, C)`` L2-normalised descriptors.
        features: ``(C, h, w)`` L2-normalised.
        corners: ``(K, 2)`` whole cell coordinates ``(x, y)`` of the windows' top-left cells; may lie outside.
        reach: cells along a window's side.
        temperature: of the softmax over the similarities.

    Returns:
        ``(K, 2)`` cell coordinates ``(x, y)``.
    """
    best = corners + _offsets(reach, corners)[_window(anchors, features, corners, reach).argmax(dim=1)]
    logits = _window(anchors, features, best - 1, 3) / temperature
    step = _offsets(3, corners) - 1
    return best + torch.softmax(logits, dim=1) @ step.to(logits.dtype)


def _offsets(reach: int, like: Tensor) -> Tensor:
    side = torch.arange(reach, device=like.device)
    return torch.stack([side.repeat(reach), side.repeat_interleave(reach)], 1)  # (reach², 2), x fastest


def _window(anchors: Tensor, features: Tensor, corners: Tensor, reach: int) -> Tensor:
    """Similarities ``(K, reach²)`` of anchors with the cells of their windows, −inf outside the map."""
    h, w = features.shape[-2:]
    x, y = (corners[:, None] + _offsets(reach, corners)).unbind(2)  # (K, reach²)
    inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
    near = features.flatten(1).T[y.clamp(0, h - 1) * w + x.clamp(0, w - 1)]  # (K, reach², C)
    return (near @ anchors[:, :, None])[..., 0].masked_fill(~inside, -torch.inf)


def sample_descriptors(descriptors: Tensor, cells: Tensor) -> Tensor:
    """L2-normalised bilinear samples of ``(C, h, w)`` at cell coordinates ``(N, 2)``: ``(N, C)``."""
    return functional.normalize(sample(descriptors[None], cells[None])[0], dim=1)
