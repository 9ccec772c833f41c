"""When a keyframe has served its time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from endomatch_ros.errors import check_ranges

Due = Literal["", "lost", "overlap", "inliers"]
"""Why a new keyframe is due; empty: it is not."""


@dataclass(frozen=True)
class KeyframeRules:
    """What a keyframe must still offer.

    Attributes:
        min_overlap: least coverage of the matches, relative to the best that this keyframe has had, 0 to 1.
        min_inlier_ratio: least share of inliers of the epipolar geometry, 0 to 1.
        min_matches: with fewer matches a frame counts as lost.
        lost_frames: after so many lost frames in a row the keyframe is given up: one frame behind smoke, water or a
            jerk is no reason.
    """

    min_overlap: float = 0.5
    min_inlier_ratio: float = 0.4
    min_matches: int = 30
    lost_frames: int = 3

    def __post_init__(self) -> None:
        ranges = {
            "min_overlap": (0.0, 1.0),
            "min_inlier_ratio": (0.0, 1.0),
            "min_matches": (0, 100_000),
            "lost_frames": (1, 1000),
        }
        check_ranges(self, ranges, whole=("min_matches", "lost_frames"))


class KeyframeWatch:
    """Follows the matches with one keyframe and says when the newest frame should replace it."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """A new keyframe was set."""
        self._best, self._lost = 0.0, 0

    def due(self, matches: int, coverage: float, inlier_ratio: float, rules: KeyframeRules) -> Due:
        """Why a new keyframe is due: ``lost``, ``overlap`` or ``inliers``; empty if it is not.

        Args:
            matches: of the newest frame with the keyframe.
            coverage: of those matches, 0 to 1.
            inlier_ratio: of their epipolar geometry, 0 to 1; NaN where there is none (a scope at rest).
            rules: the limits.
        """
        if matches < rules.min_matches:
            self._lost += 1
            return "lost" if self._lost >= rules.lost_frames else ""
        self._lost = 0
        self._best = max(self._best, coverage)
        if coverage < rules.min_overlap * self._best:
            return "overlap"
        return "inliers" if not math.isnan(inlier_ratio) and inlier_ratio < rules.min_inlier_ratio else ""
