"""Where the time of a frame goes, from its callback to its answer. No ROS.

A stage is one line here, one row of the table in docs/troubleshooting.md and one ``with times.measure(…)`` around the
work; what the matcher reports of its own (``Matches.timings``) comes by itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from endomatch_ros.ros.monitoring.causes import Explained


class Stage(Explained):
    """A stage that every answered frame goes through, in this order; ``stage_NAME_p50_ms``, ``p95``, ``p99``."""

    WAIT = "wait", "from the callback until the worker takes the frame, alone or with its partners"
    DECODE = "decode", "from the message to an RGB image"
    PREPARE = "prepare", "the view circle and the highlights are found, mask, region and calibration applied"
    NETWORK = "network", "one pass of the network, for all frames of the moment"
    MATCHING = "matching", "descriptors compared on the network's grid"
    REFINEMENT = "refinement", "points chosen, their targets found in the source image"
    GEOMETRY = "geometry", "epipolar geometry; pose, covariance or stereo points"
    PUBLISH = "publish", "messages made and sent; markers and overlay drawn where they are subscribed to"


class StageTimes(dict[str, float]):
    """Milliseconds by stage of one frame, or of one answer; used by one thread at a time."""

    @contextmanager
    def measure(self, stage: Stage) -> Iterator[None]:
        """The time spent inside is this stage's."""
        start = time.perf_counter()
        yield
        self[stage] = 1e3 * (time.perf_counter() - start)
