"""When a keyframe has served its time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from endomatch_ros import settings
from endomatch_ros.settings import setting

Due = Literal["", "lost", "overlap", "inliers"]
"""Why a new keyframe is due; empty: it is not."""


@settings.documented
@dataclass(frozen=True)
class KeyframeRules:
    """What a keyframe must still offer; raises :class:`ConfigError` for a value out of range."""

    min_overlap: float = setting(
        0.5,
        "A keyframe is replaced when the matches' coverage falls below this share of the best that it has had; 0: "
        "never.",
        low=0.0,
        high=1.0,
    )
    min_inlier_ratio: float = setting(
        0.4,
        "A keyframe is replaced when a smaller share of matches are inliers of the epipolar geometry; 0: never.",
        low=0.0,
        high=1.0,
    )
    min_matches: int = setting(30, "With fewer matches a frame counts as lost.", low=0, high=100_000)
    # One frame behind smoke, water or a jerk is no reason.
    lost_frames: int = setting(
        3,
        "A keyframe is given up after so many frames in a row with fewer than min_matches matches.",
        low=1,
        high=1000,
    )

    def __post_init__(self) -> None:
        settings.check(self)


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
