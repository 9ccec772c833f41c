"""Whether memory stays flat: many frames through one stream, and how much the process holds on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from endomatch_ros.bench.figures import MIB
from endomatch_ros.data.frames import to_and_fro
from endomatch_ros.errors import ConfigError
from endomatch_ros.matching import Matcher
from endomatch_ros.processes import usage

SETTLED = 0.1
"""Share of the frames at the start that fills caches and pools."""
_SAMPLES = 200


@dataclass(frozen=True)
class SoakFigures:
    """MiB that the process held, from the end of the first tenth on.

    Attributes:
        frames: how many were pushed in all.
        start, end: resident memory.
        slope: MiB per 1000 frames, least squares over all samples.
        device_start, device_end: what PyTorch held on the GPU; None on a CPU.
    """

    frames: int
    start: float
    end: float
    slope: float
    device_start: float | None
    device_end: float | None


def measure_soak(
    matcher: Matcher,
    images: Sequence[NDArray[np.uint8]],
    frames: int,
    on_frame: Callable[[int], None] = lambda n: None,
) -> SoakFigures:
    """Push ``frames`` frames, the images to and fro; raises :class:`ConfigError` where memory cannot be read."""
    first = usage()
    if first is None:
        raise ConfigError("--soak reads the process's memory from /proc, which this machine has not; leave it out")
    stream, every = matcher.stream(), max(1, frames // _SAMPLES)
    samples: list[tuple[int, float]] = []
    held: list[float] = []
    for number, image in enumerate(to_and_fro(images, frames), 1):
        stream.push(image)
        on_frame(number)
        if number >= SETTLED * frames and (number % every == 0 or number == frames):
            now = usage()
            samples.append((number, now.rss_mib if now is not None else np.nan))
            if matcher.device.type == "cuda":
                held.append(torch.cuda.memory_allocated(matcher.device) / MIB)
    at, rss = np.array(samples).T
    slope = 1000 * float(np.polyfit(at, rss, 1)[0]) if len(at) > 1 else 0.0
    ends = (round(held[0], 1), round(held[-1], 1)) if held else (None, None)
    return SoakFigures(frames, round(float(rss[0]), 1), round(float(rss[-1]), 1), round(slope, 2), *ends)
