"""The scope's view in the frames of a recording."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from endomatch_ros.data.frames import Frame
from endomatch_ros.matching.view import view_mask


def view_of(frame: Frame) -> NDArray[np.bool_]:
    """The scope's view in a frame, ``(H, W)`` bool: its mask, or found in its image."""
    return view_mask(frame.image) if frame.mask is None else frame.mask
