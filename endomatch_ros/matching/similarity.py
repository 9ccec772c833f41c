"""Cosine similarity and mutual nearest neighbours on descriptor maps."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from endomatch_ros.geometry.warping import pixels_to_grid

_CHUNK = 1 << 24  # similarities held at a time: 64 MiB in float32


def nearest(queries: Tensor, keys: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Best key for every query by cosine similarity, without ever holding the whole similarity matrix.

    Args:
        queries: ``(N, C)`` L2-normalised.
        keys: ``(M, C)`` L2-normalised.
        valid: ``(M,)`` bool, keys that may be chosen.

    Returns:
        ``similarity`` ``(N,)`` and ``index`` ``(N,)``; similarity −1 or less where no key is valid.
    """
    if valid is not None:
        # Choosing among the valid keys alone is cheaper than masking every similarity.
        positions = torch.nonzero(valid)[:, 0]
        if len(positions) == 0:
            return queries.new_full((len(queries),), -2.0), torch.zeros(
                len(queries), dtype=torch.long, device=keys.device
            )
        similarity, index = nearest(queries, keys[positions])
        return similarity, positions[index]
    rows = max(1, _CHUNK // max(1, len(keys)))
    best = [(part @ keys.T).max(dim=1) for part in torch.split(queries, rows)]
    if not best:
        return queries.new_zeros(0), torch.zeros(0, dtype=torch.long, device=keys.device)
    return torch.cat([b.values for b in best]), torch.cat([b.indices for b in best])


def mutual_matches(
    map0: Tensor, map1: Tensor, valid0: Tensor, valid1: Tensor, stride: int = 1, tolerance: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Mutual nearest neighbours between two descriptor maps.

    Args:
        map0: ``(C, h, w)``, L2-normalised.
        map1: ``(C, h', w')``, L2-normalised.
        valid0: ``(h, w)`` bool, cells of map 0 that may be matched.
        valid1: ``(h', w')`` bool, the same for map 1.
        stride: only every ``stride``-th cell of map 0 in each direction asks; all cells of map 1 may answer.
        tolerance: a match is mutual if the way back ends within this many cells; 0 demands the same cell.

    Returns:
        ``index0`` ``(K,)`` and ``index1`` ``(K,)``, flat cell indices, and ``similarity`` ``(K,)``.
    """
    width = map0.shape[-1]
    keys0, keys1 = map0.flatten(1).T.contiguous(), map1.flatten(1).T.contiguous()
    asking = torch.zeros_like(valid0)
    offset = stride // 2
    asking[offset::stride, offset::stride] = True
    source = torch.nonzero((asking & valid0).flatten())[:, 0]
    similarity, target = nearest(keys0[source], keys1, valid1.flatten())
    _, back = nearest(keys1[target], keys0, valid0.flatten())
    dx = (back % width - source % width).abs()
    dy = (back // width - source // width).abs()
    mutual = (torch.maximum(dx, dy) <= tolerance) & (similarity > -1.5)
    return source[mutual], target[mutual], similarity[mutual]


def sub_cell(anchors: Tensor, map1: Tensor, index1: Tensor, temperature: float) -> Tensor:
    """Sub-cell position of matches: the expectation over the 3×3 cells around the best one.

    Args:
        anchors: ``(K, C)`` descriptors of image 0.
        map1: ``(C, h, w)``.
        index1: ``(K,)`` flat index of the best cell.
        temperature: softmax temperature over the similarities.

    Returns:
        ``(K, 2)`` cell coordinates ``(x, y)``.
    """
    h, w = map1.shape[-2:]
    x, y = index1 % w, index1 // w
    offsets = torch.tensor([(dx, dy) for dy in (-1, 0, 1) for dx in (-1, 0, 1)], device=map1.device)
    nx, ny = x[:, None] + offsets[:, 0], y[:, None] + offsets[:, 1]  # (K, 9)
    inside = (nx >= 0) & (nx < w) & (ny >= 0) & (ny < h)
    near = map1.flatten(1)[:, (ny.clamp(0, h - 1) * w + nx.clamp(0, w - 1)).flatten()]
    logits = torch.einsum("kc,ckn->kn", anchors, near.reshape(len(near), -1, 9)) / temperature
    weights = torch.softmax(logits.masked_fill(~inside, -torch.inf), dim=1)
    return torch.stack([x, y], 1) + weights @ offsets.to(weights.dtype)


def sample_descriptors(descriptors: Tensor, cells: Tensor) -> Tensor:
    """L2-normalised bilinear samples of ``(C, h, w)`` at cell coordinates ``(N, 2)``: ``(N, C)``."""
    grid = pixels_to_grid(cells, (descriptors.shape[-1], descriptors.shape[-2]))[None, None].to(descriptors.dtype)
    out = functional.grid_sample(descriptors[None], grid, align_corners=False, padding_mode="border")
    return functional.normalize(out[0, :, 0].T, dim=1)
