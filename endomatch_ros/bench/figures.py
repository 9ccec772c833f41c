"""Times of work, on whatever device it runs, and what is said of many of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from endomatch_ros.processes import usage

T = TypeVar("T")

Quantiles = dict[str, float]
"""Milliseconds by ``p50``, ``p95`` and ``p99``."""
WARM_UP = 2
"""Pairs at the start of a stream that do not count: they load, allocate and compile."""


@dataclass(frozen=True)
class Took:
    """Wall-clock and processor time of a piece of work, ms; the processor's of all threads of the process."""

    ms: float
    cpu_ms: float


def clock(work: Callable[[], T], device: torch.device) -> tuple[T, Took]:
    """The work's result, and how long it took until the device was done with it."""
    start, cpu = time.perf_counter(), time.process_time()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, Took(1e3 * (time.perf_counter() - start), 1e3 * (time.process_time() - cpu))


def percentiles(values: Sequence[float] | NDArray[np.float64]) -> Quantiles | None:
    """p50, p95 and p99; None of nothing."""
    if not len(values):
        return None
    return {f"p{q}": round(float(np.percentile(values, q)), 2) for q in (50, 95, 99)}


def memory(device: torch.device) -> dict[str, float]:
    """MiB that this process holds, ``rss``, and the most that it held on a GPU, ``device``; without what is unknown."""
    known = {}
    if (own := usage()) is not None:
        known["rss"] = round(own.rss_mib, 1)
    if device.type == "cuda":
        known["device"] = round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    return known
