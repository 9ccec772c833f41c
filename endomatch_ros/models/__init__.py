"""The network: backbone Φ, adapter Ψ, fine branch, checkpoints and presets."""

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
