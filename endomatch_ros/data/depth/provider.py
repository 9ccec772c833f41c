"""What gives the depth of a frame."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from endomatch_ros.data.frames import Frame


class DepthProvider(Protocol):
    """Gives depth along the optical axis, ``(H, W)`` float32, NaN where unknown; relative depth has any scale."""

    @property
    def name(self) -> str:
        """As :func:`make_provider` takes it."""
        ...

    @property
    def metric(self) -> bool:
        """Whether the depth has the unit of the frame's poses."""
        ...

    def __call__(self, frame: Frame) -> NDArray[np.float32]:
        """Depth ``(H, W)`` of a frame; raises DataError if the frame lacks what it takes."""
        ...
