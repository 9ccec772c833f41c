"""Times of work, on whatever device it runs, and what is said of many of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

T = TypeVar("T")

MIB = 2**20
Quantiles = dict[str, float]
"""Milliseconds by ``p50``, ``p95`` and ``p99``."""
WARM_UP = 2
"""Pairs at the start of a stream that do not count: they load, allocate and compile."""


@dataclass(frozen=True)
class Took:
    """What a piece of work took.

    Attributes:
        ms: by the clock on the wall.
        cpu_ms: processor time of all threads of the process.
        device_mib: the most that PyTorch held on the GPU meanwhile; 0 on a CPU.
    """

    ms: float
    cpu_ms: float
    device_mib: float = 0.0


def clock(work: Callable[[], T], device: torch.device) -> tuple[T, Took]:
    """The work's result, and what it took until the device was done with it."""
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    start, cpu = time.perf_counter(), time.process_time()
    result = work()
    if on_gpu:
        torch.cuda.synchronize(device)
    ms, cpu_ms = 1e3 * (time.perf_counter() - start), 1e3 * (time.process_time() - cpu)
    held = torch.cuda.max_memory_allocated(device) / MIB if on_gpu else 0.0
    return result, Took(ms, cpu_ms, held)


def percentiles(values: Sequence[float] | NDArray[np.float64]) -> Quantiles | None:
    """p50, p95 and p99; None of nothing."""
    if not len(values):
        return None
    return {f"p{q}": round(float(np.percentile(values, q)), 2) for q in (50, 95, 99)}
