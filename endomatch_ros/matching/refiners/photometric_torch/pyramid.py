"""The levels of the search: their sizes, and the averages that lead from one to the next."""

from __future__ import annotations

from dataclasses import dataclass
from math import log2

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from endomatch_ros.matching.refiners.constants import constant, remembered
from endomatch_ros.matching.refiners.photometric_torch.resampling import area_weights, weigh

PATCH = 8  # side of a patch, px of its level
STRIDE = 4  # px from patch to patch


@dataclass(frozen=True, eq=False)
class Level:
    """One level. Its pictures are padded to whole strides on the right and below by repeating their last pixels.

    Attributes:
        halvings: how often the image was halved.
        height, width: size in pixels without the padding.
        rows, columns: weights by which the next finer picture's pixels make this one's, padding included.
    """

    halvings: int
    height: int
    width: int
    rows: Tensor
    columns: Tensor

    @property
    def patches(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        height, width = self.rows.shape[0], self.columns.shape[0]
        return (height - PATCH) // STRIDE + 1, (width - PATCH) // STRIDE + 1

    def shrunk(self, finer: Tensor) -> Tensor:
        """The picture ``(B, h, w)`` of the next finer one, in whole grey levels."""
        inside = finer[..., : self.rows.shape[1], : self.columns.shape[1]]
        return weigh(inside, self.rows, self.columns).round_()

    def at_patches(self, flow: Tensor, finer: Level) -> Tensor:
        """A flow ``(B, 2, h, w)`` of this level at the patches of the next: ``(B, 2, rows, columns)`` px of that."""
        half = PATCH // 2
        return self.enlarged(flow, finer.height, finer.width, 1)[..., half::STRIDE, half::STRIDE]

    def enlarged(self, flow: Tensor, height: int, width: int, halvings: int) -> Tensor:
        """A flow ``(B, 2, h, w)`` of this level at the size of one so many halvings finer, in pixels of that."""
        inside = flow[..., : self.height, : self.width]
        return functional.interpolate(inside, (height, width), mode="bilinear", align_corners=False) * 2.0**halvings


@remembered
def levels(height: int, width: int, finest: int, device: torch.device) -> tuple[Level, ...]:
    """The levels for images of this size in pixels, the coarsest first, the last ``finest`` halvings small.

    The images' size bounds both: motion of up to a quarter of the image at the coarsest, patches that fit into it.
    """
    reach = int(log2(max(height, width) / (4 * PATCH)) + 0.5)
    coarsest = max(0, min(reach, int(log2(min(height, width) / PATCH))))
    finest = min(finest, coarsest)
    source, size = (height, width), (height >> finest, width >> finest)
    out = []
    for halvings in range(finest, coarsest + 1):
        rows, columns = (constant(_padded_weights(*sizes), device) for sizes in zip(source, size, strict=True))
        out.append(Level(halvings, *size, rows, columns))
        source, size = size, (size[0] // 2, size[1] // 2)
    return tuple(reversed(out))


def _padded_weights(source: int, target: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.pad(area_weights(source, target), ((0, -target % STRIDE), (0, 0)), mode="edge")
