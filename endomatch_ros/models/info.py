"""Which model this is, for whoever shows or records it; loads no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelInfo:
    """Which model this is: name, where its weights came from, their SHA-256, parameter count, device."""

    name: str
    source: str
    sha256: str
    parameters: int
    device: str
