"""The network: backbone Φ, adapter Ψ, fine branch, checkpoints and presets."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from endomatch_ros.models.checkpoints import load_checkpoint, load_model, save_checkpoint
    from endomatch_ros.models.config import PRESETS, ModelConfig
    from endomatch_ros.models.info import ModelInfo
    from endomatch_ros.models.network import Descriptors, MatcherNetwork

_HOMES = {
    "PRESETS": "config",
    "Descriptors": "network",
    "MatcherNetwork": "network",
    "ModelConfig": "config",
    "ModelInfo": "info",
    "load_checkpoint": "checkpoints",
    "load_model": "checkpoints",
    "save_checkpoint": "checkpoints",
}
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


def __getattr__(name: str) -> Any:
    # PyTorch takes seconds to import: whoever needs only a preset's name or a model's description must not pay for it.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
