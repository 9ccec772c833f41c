"""Matches with known values."""

import numpy as np

from endomatch_ros.matching.types import Matches


def some_matches(points0, points1):
    count = len(points0)
    return Matches(
        np.asarray(points0, np.float32).reshape(-1, 2),
        np.asarray(points1, np.float32).reshape(-1, 2),
        np.ones(count, np.float32),
        np.arange(count, dtype=np.uint32),
        (320, 240),
        (320, 240),
    )
