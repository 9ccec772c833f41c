"""The similarity threshold that suits a trained network, chosen on validation pairs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from endomatch_ros.matching.similarity import mutual_matches
from endomatch_ros.training.module import MatcherModule, tolerance
from endomatch_ros.training.objectives.losses import to_cells
from endomatch_ros.training.objectives.mining import cells_in_view

LEAST_RIGHT = 100
"""Right matches without which no threshold is chosen: the recall of fewer is known to worse than 5 %."""

_GRID = np.arange(100) / 100


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold and what it does on the matches that it was chosen on.

    Attributes:
        threshold: least cosine similarity of a match; ``None`` if there were too few right matches to choose one.
        precision: share of right matches among those that are kept, 0 to 1.
        recall: share of the right matches that are kept, 0 to 1.
        matches: mutual nearest neighbours whose truth is known.
        right: those of them that are right.
    """

    threshold: float | None
    precision: float
    recall: float
    matches: int
    right: int

    def describe(self) -> str:
        """One line for the run's summary."""
        seen = f"{self.right} of {self.matches} mutual nearest neighbours of the validation pairs are right"
        if self.threshold is None:
            return f"similarity threshold kept as it was: {seen}, at least {LEAST_RIGHT} are needed to choose one"
        reached = f"precision {self.precision:.3f}, recall {self.recall:.3f}"
        return f"similarity threshold {self.threshold:.2f}: {reached}; {seen}"


def best_threshold(similarity: NDArray[np.floating], right: NDArray[np.bool_]) -> tuple[float, float, float]:
    """The threshold with the largest F1 score, 2·precision·recall / (precision + recall), of "right".

    F1 weighs what a threshold gains (wrong matches dropped) against what it costs (right ones dropped), without a
    weight that somebody would have to choose; precision alone would drop nearly all, recall alone nothing. Of
    thresholds that score alike the highest is taken: truth is known only for tissue that both images show, so the
    wrong matches of tissue that one of them hides, for which a high threshold is wanted, were not counted.

    Args:
        similarity: ``(N,)`` cosine similarity of matches, −1 to 1.
        right: ``(N,)`` whether they are right.

    Returns:
        Threshold (0.00, 0.01, … 0.99; a match is kept at or above it), precision of what is kept, and recall among all
        that are right. What would be 0/0 is 0.
    """
    kept = similarity >= _GRID[:, None].astype(similarity.dtype)  # (T, N)
    hits, number, total = (kept & right).sum(axis=1), kept.sum(axis=1), int(right.sum())
    score = 2 * hits / np.maximum(number + total, 1)
    best = len(_GRID) - 1 - int(np.argmax(score[::-1]))
    return float(_GRID[best]), float(hits[best] / max(number[best], 1)), float(hits[best] / max(total, 1))


def labelled_matches(
    maps: tuple[Tensor, Tensor], valid: tuple[Tensor, Tensor], points: tuple[Tensor, Tensor], width: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Mutual nearest neighbours of a pair, as at run time, in the cells of image 0 whose true partner is known.

    A match is right if it leads from its cell's centre as far and in the same direction as the truth leads from the
    known point in that cell, to :func:`~endomatch_ros.training.module.tolerance`. Of several points in a cell the one
    nearest to the centre counts.

    Args:
        maps: ``(C, h, w)`` L2-normalised descriptors of both images.
        valid: ``(h, w)`` bool, cells that may be matched.
        points: ``(K, 2)`` pixels; row k shows the same tissue in both images.
        width: of the images, pixels.

    Returns:
        ``similarity`` ``(M,)`` and ``right`` ``(M,)``.
    """
    columns, stride = maps[0].shape[-1], width / maps[0].shape[-1]
    index0, index1, similarity = (t.cpu().numpy() for t in mutual_matches(*maps, *valid))
    points0, points1 = (p.double().cpu() for p in points)
    cells = to_cells(points0, stride)
    x, y = (cells + 0.5).floor().long().unbind(1)  # the cell that holds the point
    flat = (y * columns + x).numpy()
    order = np.argsort((cells - torch.stack([x, y], 1)).norm(dim=1).numpy(), kind="stable")
    known, first = np.unique(flat[order], return_index=True)
    motion = (points1 - points0).numpy()[order[first]]  # (cells with a known point, 2)
    _, at, of = np.intersect1d(index0, known, assume_unique=True, return_indices=True)
    found = stride * (_column_row(index1[at], maps[1].shape[-1]) - _column_row(index0[at], columns))
    error = np.linalg.norm(found - motion[of], axis=1)
    return similarity[at], np.asarray(error < tolerance(maps[0], width))


def choose_operating_point(
    module: MatcherModule, batches: Iterable[dict[str, Tensor]], device: torch.device
) -> OperatingPoint:
    """The operating point of ``module``'s network on batches of validation pairs (:class:`~.pairs.Pairs`'s items)."""
    module = module.to(device).eval()
    similarities, rights = [np.zeros(0, np.float32)], [np.zeros(0, np.bool_)]
    for on_host in batches:
        batch = {name: value.to(device) for name, value in on_host.items()}
        with torch.inference_mode():
            maps = [d.finest.float() for d in module.descriptors(batch)]
            valid = [cells_in_view(batch[name], *maps[0].shape[-2:]) for name in ("view0", "view1")]
            for k in range(len(maps[0])):
                similarity, right = labelled_matches(
                    (maps[0][k], maps[1][k]),
                    (valid[0][k], valid[1][k]),
                    (batch["points0"][k], batch["points1"][k]),
                    batch["image0"].shape[-1],
                )
                similarities.append(similarity)
                rights.append(right)
    similarity, right = np.concatenate(similarities), np.concatenate(rights)
    threshold, precision, recall = best_threshold(similarity, right)
    enough = int(right.sum()) >= LEAST_RIGHT
    return OperatingPoint(threshold if enough else None, precision, recall, len(right), int(right.sum()))


def _column_row(index: NDArray[np.integer], columns: int) -> NDArray[np.integer]:
    return np.stack([index % columns, index // columns], 1)
