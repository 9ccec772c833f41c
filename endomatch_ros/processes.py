"""Processes of this machine: one that ends with its parent, what one has used so far. Linux alone tells all of it."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_MIB = 2**20


@dataclass(frozen=True)
class Usage:
    """What a process has used so far.

    Attributes:
        cpu_s: seconds of processor time, all threads together.
        rss_mib: memory that it holds now, MiB.
    """

    cpu_s: float
    rss_mib: float


def usage(pid: int | None = None) -> Usage | None:
    """What a process has used.

    Args:
        pid: whose; None: this process's.

    Returns:
        None where there is no such process, or no ``/proc`` to ask.
    """
    folder = Path("/proc", "self" if pid is None else str(pid))
    try:
        # The name, in parentheses, may hold anything; times are the 12th and 13th field behind it.
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        pages = int((folder / "statm").read_text().split()[1])
    except (OSError, IndexError):
        return None
    cpu = (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    return Usage(cpu, pages * resource.getpagesize() / _MIB)


def end_with_parent() -> None:
    """Have Linux send this process SIGTERM when its parent has died; elsewhere nothing."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
