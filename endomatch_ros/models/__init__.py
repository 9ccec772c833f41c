"""The network: backbone Φ, adapter Ψ, fine branch, checkpoints and presets."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from endomatch_ros.models.checkpoints import ModelInfo, load_checkpoint, load_model, save_checkpoint
    from endomatch_ros.models.config import PRESETS, ModelConfig
    from endomatch_ros.models.network import Descriptors, MatcherNetwork

__all__ = [
    "PRESETS",
    "Descriptors",
    "MatcherNetwork",
    "ModelConfig",
    "ModelInfo",
    "load_checkpoint",
    "load_model",
    "save_checkpoint",
]

_HOMES = {
    "checkpoints": ("ModelInfo", "load_checkpoint", "load_model", "save_checkpoint"),
    "config": ("PRESETS", "ModelConfig"),
    "network": ("Descriptors", "MatcherNetwork"),
}


def __getattr__(name: str) -> Any:
    # PyTorch takes seconds to import: whoever needs only the presets' names must not pay for it.
    home = next((home for home, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
