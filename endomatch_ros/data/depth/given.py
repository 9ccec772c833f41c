"""The depth that came with a recording."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from endomatch_ros.data.frames import Frame
from endomatch_ros.errors import DataError


class GivenDepth:
    """The depth that came with the frame."""

    name = "given"
    metric = True

    def __call__(self, frame: Frame) -> NDArray[np.float32]:
        """The frame's depth; NaN where it is not positive and finite. Raises :class:`DataError` without one."""
        if frame.depth is None:
            raise DataError(
                f"frame {frame.index} carries no depth: choose the depth provider stereo (for frames with a partner), "
                "mono or photometric"
            )
        depth = frame.depth.astype(np.float32)
        with np.errstate(invalid="ignore"):
            return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(np.nan))
