"""What a reader of figures needs to know about the machine and the code that made them."""

from __future__ import annotations

import platform
import subprocess
import time

import torch

from endomatch_ros.device import device_name


def machine(device: str = "cpu", **versions: str) -> dict[str, object]:
    """Facts for a benchmark's JSON.

    Args:
        device: torch's name of the device that was measured.
        **versions: of what was compared with, by library; the model's hash.
    """
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    name = device_name(device)
    return {
        "device": f"{platform.machine()} CPU, {torch.get_num_threads()} threads" if name == "cpu" else name,
        "platform": platform.platform(),
        "torch": torch.__version__,
        **versions,
        "commit": commit.stdout.strip(),
        "date": time.strftime("%Y-%m-%d"),
    }
