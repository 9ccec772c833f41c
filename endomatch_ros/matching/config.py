"""Settings of a matcher that a user may change, also while it runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from endomatch_ros.errors import ConfigError, check_ranges
from endomatch_ros.matching import refiners

Value = bool | int | float | str
"""What a setting can hold."""


@dataclass(frozen=True)
class MatcherConfig:
    """Settings of :class:`~endomatch_ros.matching.Matcher`.

    Attributes:
        resolution: long side in pixels of the view as the network sees it, 64 to 4096. More costs time (quadratically
            in the matching) and finds smaller detail.
        similarity_threshold: least cosine similarity of a match, 0 to 1.
        max_keypoints: most matches of a pair, 1 to 100000.
        refinement: how targets are refined to sub-pixel accuracy at source resolution, if at all: one of
            :data:`~endomatch_ros.matching.refiners.REFINERS`.
        forward_backward_px: largest distance in source pixels between a point and its way there and back, 0.01 to 100.
        dense_consistency_cells: matches whose displacement is further than this from the head's dense field are
            dropped, 0 to 100; 0: none. In descriptor cells, a fixed share of what the network sees (with the embedded
            model a 128th of the view's long side), since the field's errors grow with them.
        mask: ``auto`` (the dark surround of the view and saturated highlights give no matches) or ``none``.
        half: run the network in half precision on a GPU (ignored on a CPU).
    """

    resolution: int = 512
    similarity_threshold: float = 0.5
    max_keypoints: int = 6000
    refinement: str = "photometric"
    forward_backward_px: float = 1.0
    dense_consistency_cells: float = 0.0
    mask: Literal["auto", "none"] = "auto"
    half: bool = True

    def __post_init__(self) -> None:
        ranges = {
            "resolution": (64, 4096),
            "similarity_threshold": (0.0, 1.0),
            "max_keypoints": (1, 100_000),
            "forward_backward_px": (0.01, 100.0),
            "dense_consistency_cells": (0.0, 100.0),
        }
        check_ranges(self, ranges, whole=("resolution", "max_keypoints"))
        for name, allowed in (("refinement", refiners.names()), ("mask", ("auto", "none"))):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name}={getattr(self, name)!r} is unknown: use one of {', '.join(allowed)}")

    def changed(self, **changes: Value) -> MatcherConfig:
        """A copy with ``changes``; raises :class:`ConfigError` for unknown names and values out of range."""
        unknown = sorted(set(changes) - set(self.__dataclass_fields__))
        if unknown:
            raise ConfigError(f"unknown setting {unknown[0]!r}: a matcher has {', '.join(self.__dataclass_fields__)}")
        return replace(self, **changes)  # type: ignore[arg-type]
