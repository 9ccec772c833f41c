"""Settings of an evaluation that belong together, by name, so that figures of different people can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from endomatch_ros.data.readers.interface import Fit
from endomatch_ros.data.readers.registry import READERS
from endomatch_ros.errors import ConfigError


@dataclass(frozen=True)
class Protocol:
    """What is measured, how much of it, and what to hold it against.

    Attributes:
        description: one line for the help and the report.
        gaps: frames between the two of a pair.
        max_pairs: for each gap and recording, spread evenly over it.
        scared: whether the data must be SCARED.
        published: a figure that others give for it, with its source; empty: none.
    """

    description: str
    gaps: tuple[int, ...]
    max_pairs: int
    scared: bool = False
    published: str = ""

    def check(self, names: Sequence[str]) -> None:
        """Raise :class:`ConfigError` for data that the protocol is not made for.

        Args:
            names: what the user names as data.
        """
        for name in names:
            if self.scared and READERS["scared"].accepts(name) is Fit.NO:
                raise ConfigError(
                    f"{name} is not SCARED: give the folder that holds dataset_1, dataset_2 and so on, one of these, "
                    "or a keyframe_N in it; measure other data without --protocol scared"
                )


PROTOCOLS = {
    "default": Protocol("any recordings", gaps=(1, 5, 10, 20), max_pairs=10),
    "scared": Protocol(
        "all keyframes of SCARED that have a video, left camera, data sets 4 and 5 left out unless named",
        gaps=(1, 5, 10, 20),
        max_pairs=10,
        scared=True,
        published="mean epipolar error 8.63 px (arXiv 2512.10379, on pairs of its own choice)",
    ),
}
"""The protocols by name."""
