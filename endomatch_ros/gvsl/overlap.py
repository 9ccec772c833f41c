"""Overlap of label maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endomatch_ros.errors import DataError


def dice_per_label(found: NDArray[Any], true: NDArray[Any], labels: Sequence[int]) -> NDArray[np.float64]:
    """Dice coefficient 2·|F ∩ T| / (|F| + |T|) of each label, ``(len(labels),)``.

    Args:
        found: a label map.
        true: another one of the same shape.
        labels: which to measure; the background is a label like others, so leave it out.

    Returns:
        1 for the same voxels, 0 for none in common, also where only one map has the label; NaN where neither has it.

    Raises:
        DataError: shapes that differ.
    """
    if found.shape != true.shape:
        raise DataError(f"label maps of {found.shape} and {true.shape}: they must lie on one grid")
    both = np.array([np.count_nonzero((found == k) & (true == k)) for k in labels], float)
    sizes = np.array([np.count_nonzero(found == k) + np.count_nonzero(true == k) for k in labels], float)
    return np.divide(2 * both, sizes, out=np.full(len(labels), np.nan), where=sizes > 0)


def mean_dice(values: NDArray[np.float64]) -> float:
    """Mean over the labels that one of the maps has; NaN if there is none."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")


def present_labels(*maps: NDArray[Any]) -> list[int]:
    """All labels of some maps but the background 0, sorted."""
    return sorted({int(k) for m in maps for k in np.unique(m)} - {0})
