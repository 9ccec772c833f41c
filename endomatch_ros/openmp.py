"""How many threads PyTorch has and how they wait for each other, to be set before a process loads PyTorch."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

WAITING = {"GOMP_SPINCOUNT": "1000"}
"""Rounds that a thread waits busily, some hundredths of a millisecond, before it sleeps."""
# By itself GNU's OpenMP waits for 300000 rounds, milliseconds: where another process has the core of the thread that is
# waited for, each of a frame's hundreds of waits takes as long. Median of StreamMatcher.push, 1280x1024, two cores, in
# ms, alone and beside another busy process: 300000 rounds 75 and up to 1500, 1000 rounds 69 and 160,
# OMP_WAIT_POLICY=passive 121 alone, a single thread (of PyTorch's, OpenCV with two) 76 and 97.

_CHOICES = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME"}


def prepare(environment: MutableMapping[str, str] = os.environ, live: bool = False) -> None:
    """Put :data:`WAITING` into ``environment``, unless the user has chosen there.

    Args:
        environment: changed in place; of this process before it loads PyTorch, or for one to be started.
        live: the process works beside others that never rest, a camera's driver at least. PyTorch then gets half of the
            cores, unless ``OMP_NUM_THREADS`` is set: a share of work whose core is taken keeps the others waiting.
    """
    if not _CHOICES & environment.keys():
        environment.update(WAITING)
    if live:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // 2)))
