"""What a segmentation's backbone starts from: checkpoints and random weights that can be compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from endomatch_ros.errors import CheckpointError, ConfigError
from endomatch_ros.gvsl.model import GvslModel
from endomatch_ros.gvsl.registration import load_volume_model
from endomatch_ros.gvsl.volumes import VolumeConfig

SCRATCH = "none"
"""In place of a checkpoint: random weights, drawn anew for each seed."""


@dataclass(frozen=True, eq=False)
class Initialisation:
    """What a segmentation's backbone starts from.

    Attributes:
        name: in the table.
        source: the checkpoint, or :data:`SCRATCH`.
        model: a model of a seed; the same one for all seeds if it was pre-trained.
        pretrained_on: names of the subjects that it has seen, as far as the checkpoint says.
    """

    name: str
    source: str
    model: Callable[[int], GvslModel]
    pretrained_on: frozenset[str] = frozenset()


def read_initialisations(named: Mapping[str, str]) -> tuple[list[Initialisation], VolumeConfig]:
    """Initialisations by name, and how volumes are prepared for all of them.

    Args:
        named: checkpoints (``hippocampus`` or .safetensors files) or :data:`SCRATCH` by name. Random weights get the
            architecture of the first checkpoint.

    Raises:
        CheckpointError: missing or damaged files, or backbones or preparations that differ.
        ConfigError: no checkpoint among them.
    """
    loaded = {name: load_volume_model(source) for name, source in named.items() if source != SCRATCH}
    if not loaded:
        raise ConfigError("there is no checkpoint to take the architecture from: name one beside `scratch=none`")
    first, (model, volumes, _) = next(iter(loaded.items()))
    for name, (other, prepared, _) in loaded.items():
        ours, theirs = ((m.config.channels, m.config.shrink, v) for m, v in ((model, volumes), (other, prepared)))
        if ours != theirs:
            raise CheckpointError(
                f"checkpoint {name} has channels, shrink and preparation {theirs}, {first} {ours}: "
                "only equals can be compared; run them one by one"
            )
    initialisations = []
    for name, source in named.items():
        if name in loaded:
            pretrained, _, notes = loaded[name]
            seen = frozenset(notes.get("subjects", "").split())
            initialisations.append(Initialisation(name, source, lambda _, m=pretrained: m, seen))  # type: ignore[misc]
        else:
            initialisations.append(Initialisation(name, source, lambda seed: _random_model(model, seed)))
    return initialisations, volumes


def _random_model(like: GvslModel, seed: int) -> GvslModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GvslModel(like.config).eval()
