"""Where tensors live: one resolver for everything that takes a device's name."""

from __future__ import annotations


def device_name(device: str) -> str:
    """``cpu``, or which GPU ``device`` (a torch device's name) is."""
    import torch

    kind = torch.device(device)
    return torch.cuda.get_device_name(kind) if kind.type == "cuda" else kind.type
