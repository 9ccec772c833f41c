"""Where networks run: one way to name a device, for all commands and nodes."""

from __future__ import annotations

from endomatch_ros.errors import ConfigError


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
