"""A synthetic scene as a sequence of frames."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from endomatch_ros.data.frames import Frame
from endomatch_ros.data.synthetic.scene import SyntheticEndoscope

Array = NDArray[np.float64]


class SyntheticSequence:
    """Frames of a synthetic scene at a fixed rate, rendered when they are asked for.

    Args:
        scene: what to render.
        count: number of frames.
        rate: frames a second.
    """

    def __init__(self, scene: SyntheticEndoscope, count: int = 60, rate: float = 30.0) -> None:
        self.scene = scene
        self._count = count
        self._rate = rate

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, position: int) -> Frame:
        if not 0 <= position < self._count:
            raise IndexError(f"frame {position} of {self._count}")
        return self.scene.render(position / self._rate, position)

    def __iter__(self) -> Iterator[Frame]:
        return (self[position] for position in range(self._count))

    def correspondence(self, position0: int, position1: int, points: Array) -> tuple[Array, NDArray[np.bool_]]:
        """True partners ``(N, 2)`` of pixels ``(N, 2)`` of frame ``position0``, and which of them are visible."""
        return self.scene.correspondence(position0 / self._rate, position1 / self._rate, points)
