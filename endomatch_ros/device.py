"""Where networks run: one way to name a device, for all commands and nodes."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from endomatch_ros.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


def resolve_device(device: str) -> str:
    """``device`` as a torch device name; ``auto`` is CUDA where there is one.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        ConfigError: another name, or a device that is not there.
    """
    import torch  # takes seconds, and whoever only reads settings does not need it

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device {device!r} is unknown: use auto, cpu, cuda or cuda:N") from error
    if kind.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {device!r} is not supported: use auto, cpu, cuda or cuda:N")
    if kind.type == "cuda" and (kind.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ConfigError(f"device {device!r} was asked for, but PyTorch sees {count} CUDA devices: use auto or cpu")
    return str(kind)


def device_name(device: str) -> str:
    """``cpu``, or which GPU ``device`` (a torch device's name) is."""
    import torch

    kind = torch.device(device)
    return torch.cuda.get_device_name(kind) if kind.type == "cuda" else kind.type


def half_type(device: str) -> torch.dtype | None:
    """The type in which networks run faster on ``device`` at next to no loss; None where float32 is as fast.

    On a GPU float16; on a CPU bfloat16 if it multiplies that type (AVX-512 BF16, AMX, Arm BF16).
    """
    import torch

    if torch.device(device).type == "cuda":
        return torch.float16
    return torch.bfloat16 if multiplies_bfloat16() else None


@lru_cache(maxsize=1)
def multiplies_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this CPU has instructions that multiply bfloat16, as Linux says; False where that is not known."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return False
    known = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()}
    return bool(known & {"avx512_bf16", "amx_bf16", "bf16"})


def upload(array: NDArray[np.generic], device: torch.device) -> torch.Tensor:
    """A contiguous ``array`` as a tensor on ``device``; the host does not wait for a GPU, and may reuse the array."""
    import torch

    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


@lru_cache(maxsize=256)
def constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """``(N,)`` a tensor with few values, made once: to copy them anew each time would make the host wait for a GPU."""
    import torch

    with torch.inference_mode(False):  # training shares them
        return torch.tensor(values, dtype=dtype, device=device)
