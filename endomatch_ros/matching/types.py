"""The result of matching two images."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

Stamp = int | float | None


@dataclass(frozen=True)
class Matches:
    """Correspondences between a reference image 0 and a current image 1.

    Attributes:
        keypoints0: ``(N, 2)`` float32, ``(x, y)`` in source pixels of image 0; (0, 0) is the top-left pixel's centre.
        keypoints1: ``(N, 2)`` float32, the partners in source pixels of image 1.
        similarity: ``(N,)`` float32 in [-1, 1], cosine similarity of the descriptors that made the match.
        track_ids: ``(N,)`` uint32, the same number for the same physical point over consecutive frames of a stream;
            0 … N-1 for a single pair.
        size0, size1: ``(width, height)`` of the two source images.
        stamp0, stamp1: the stamps given to :meth:`StreamMatcher.push`, untouched; ``None`` for a single pair.
        coverage: share (0 to 1) of the reference view's cells that hold a match; 16 × 16 cells over the image, those
            at least half in view count.
        timings: milliseconds by stage: ``backbone``, ``matching``, ``refinement``, and those that refiner or checks
            have of their own (:func:`~endomatch_ros.matching.refiners.timing_stages`).
        dropped: number of matches that an optional check left out, by its name; empty where none is on
            (:func:`~endomatch_ros.matching.refiners.drop_causes`).
    """

    keypoints0: NDArray[np.float32]
    keypoints1: NDArray[np.float32]
    similarity: NDArray[np.float32]
    track_ids: NDArray[np.uint32]
    size0: tuple[int, int]
    size1: tuple[int, int]
    stamp0: Stamp = None
    stamp1: Stamp = None
    coverage: float = 0.0
    timings: dict[str, float] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keypoints0)

    def select(self, index: NDArray[np.bool_] | NDArray[np.intp]) -> Matches:
        """The matches at ``index`` (boolean mask or integer positions); image-level attributes are kept."""
        return replace(
            self,
            keypoints0=self.keypoints0[index],
            keypoints1=self.keypoints1[index],
            similarity=self.similarity[index],
            track_ids=self.track_ids[index],
        )
