"""What a reader of figures needs to know about the machine and the code that made them."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path

import torch

from endomatch_ros.device import device_name


def machine(device: str = "cpu", **versions: str) -> dict[str, object]:
    """Facts for a benchmark's JSON.

    Args:
        device: torch's name of the device that was measured.
        **versions: of what was compared with, by library; the model's hash.
    """
    name = device_name(device)
    return {
        "device": f"{platform.machine()} CPU, {torch.get_num_threads()} threads" if name == "cpu" else name,
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **versions,
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d"),
    }


def _processor() -> str:
    """The processor's name, as far as the machine tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _commit() -> str:
    """The commit of this code, with ``-dirty`` where it was changed since; "unknown" outside a checkout."""
    folder = Path(__file__).parent
    try:
        for command in (["ls-files", "--error-unmatch", __file__], ["describe", "--always", "--dirty", "--exclude=*"]):
            run = subprocess.run(["git", "-C", folder, *command], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return run.stdout.strip()
