"""The network that a run starts from."""

from __future__ import annotations

from dataclasses import replace

from endomatch_ros.errors import ConfigError
from endomatch_ros.models import MatcherNetwork, load_model
from endomatch_ros.models.adapter import Adapter
from endomatch_ros.models.backbones.registry import build_backbone
from endomatch_ros.models.checkpoints import checkpoint_file, read_metadata
from endomatch_ros.models.config import PRESETS, ModelConfig, preset_config
from endomatch_ros.training.config import TrainConfig

_FINE_DIM = 64


def starting_network(config: TrainConfig) -> MatcherNetwork:
    """Load or build it; raises :class:`ConfigError` or :class:`CheckpointError` where that cannot be."""
    if config.init == "random":
        network = _random(config)
    else:
        network, _ = load_model(config.preset, config.backbone_weights)
    network = _with_fine(network, config.fine)
    config.objective.make().prepare(network)
    if config.adapter == "new":
        network.adapter = Adapter(network.backbone)
    return network.train()


def starting_notes(config: TrainConfig) -> str:
    """The notes of the checkpoint that :func:`starting_network` loads; empty where it loads none."""
    file = None if config.init == "random" else checkpoint_file(config.preset)
    return "" if file is None else read_metadata(file).get("notes", "")


def _random(config: TrainConfig) -> MatcherNetwork:
    if config.preset not in PRESETS:
        raise ConfigError(f"init 'random' builds a preset ({', '.join(PRESETS)}) anew, but preset is {config.preset!r}")
    model = preset_config(config.preset)
    return MatcherNetwork(model, build_backbone(model))


def _with_fine(network: MatcherNetwork, fine: str) -> MatcherNetwork:
    """The network with the fine branch that is wanted; backbone and adapter keep their weights."""
    has = network.fine is not None
    if fine == "keep" or (fine == "add") == has:
        return network
    model: ModelConfig = replace(network.config, fine_dim=0 if has else _FINE_DIM)
    changed = MatcherNetwork(model, network.backbone)
    changed.adapter = network.adapter
    changed.log_scale_coarse = network.log_scale_coarse
    return changed
