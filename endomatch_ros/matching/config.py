"""Settings of a matcher that a user may change, also while it runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from endomatch_ros import settings
from endomatch_ros.errors import ConfigError
from endomatch_ros.matching import refiners
from endomatch_ros.settings import Scalar, setting


@settings.documented
@dataclass(frozen=True)
class MatcherConfig:
    """Settings of :class:`~endomatch_ros.matching.Matcher`; raises :class:`ConfigError` for a value out of range.

    A field is all that a new setting needs: the node's parameter, the option of ``endomatch match`` and the tables in
    config and docs come from it.
    """

    resolution: int = setting(
        320,
        "Long side in px of the view as the network sees it; more is finer and slower, quadratically in the matching.",
        low=64,
        high=4096,
        own=True,
    )
    similarity_threshold: float = setting(0.5, "Least cosine similarity of a match.", low=0.0, high=1.0, own=True)
    max_keypoints: int = setting(
        6000, "Most points that are matched, spread over the view.", low=1, high=100_000, own=True
    )
    refinement: str = setting(
        "photometric",
        f"Sub-pixel refinement of the targets in the source image: {refiners.described()}.",
        choices=refiners.REFINERS,
        own=True,
    )
    forward_backward_px: float = setting(
        1.0,
        "Matches with a larger forward-backward error of the refinement, px of the image, are dropped.",
        low=0.01,
        high=100.0,
        own=True,
    )
    # In cells, a fixed share of what the network sees (with the embedded model a 128th of the view's long side), since
    # the field's errors grow with them.
    dense_consistency_cells: float = setting(
        0.0,
        "Matches further than this from the field of the model's head are dropped, in cells of its map (4 px of what "
        "the network sees); for models that have a head; 0: none are.",
        low=0.0,
        high=100.0,
    )
    engine: Literal["auto", "opencv", "torch"] = setting(
        "auto",
        "What finds the flow of the refinement: opencv (on the CPU), torch (on the model's device) or auto (torch "
        "where the model is on a GPU, else opencv).",
        choices=("auto", "opencv", "torch"),
    )
    mask: Literal["auto", "none"] = setting(
        "auto",
        "Where to match: auto (neither in the view's dark surround nor on saturated highlights) or none (everywhere).",
        choices=("auto", "none"),
    )
    half: bool = setting(
        True,
        "Run the network in half precision: float16 on a GPU, bfloat16 on a CPU that multiplies it (AVX-512 BF16, AMX, "
        "Arm BF16); other CPUs run float32 in any case.",
    )

    def __post_init__(self) -> None:
        settings.check(self)

    def engine_on(self, device: str) -> Literal["opencv", "torch"]:
        """The engine for a model on a device of this type, ``cpu`` or ``cuda``."""
        if self.engine == "auto":
            return "torch" if device == "cuda" else "opencv"
        return self.engine

    def changed(self, **changes: Scalar) -> MatcherConfig:
        """A copy with ``changes``; raises :class:`ConfigError` for unknown names and values out of range."""
        unknown = sorted(set(changes) - set(self.__dataclass_fields__))
        if unknown:
            raise ConfigError(f"unknown setting {unknown[0]!r}: a matcher has {', '.join(self.__dataclass_fields__)}")
        return replace(self, **changes)  # type: ignore[arg-type]
