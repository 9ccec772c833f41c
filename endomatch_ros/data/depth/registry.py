"""Depth providers by name. A new one is a module with a class, and its line here."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import cast

from endomatch_ros.data.depth.provider import DepthProvider
from endomatch_ros.errors import ConfigError


@dataclass(frozen=True)
class Entry:
    """Where a provider is, imported when it is asked for: a network's libraries take seconds to load.

    Attributes:
        module: in this package.
        made_by: its class, made without arguments.
        network: it is made of weights and a device instead.
    """

    module: str
    made_by: str
    network: bool = False


PROVIDERS: dict[str, Entry] = {
    "given": Entry("given", "GivenDepth"),
    "stereo": Entry("stereo", "StereoDepth"),
    "mono": Entry("mono", "MonoDepth", network=True),
    "photometric": Entry("photometric", "PhotometricDepth"),
}
"""Every provider by name."""


def make_provider(name: str, weights: str | Path | None = None, device: str = "cpu") -> DepthProvider:
    """The depth provider of that name, with its defaults.

    Args:
        name: ``given``, ``stereo``, ``mono`` or ``photometric``.
        weights: for ``mono``: a model's folder or its name on the Hugging Face hub; None for the default one.
        device: where the network of ``mono`` runs: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        ConfigError: an unknown name, or weights for a provider that has none.
        CheckpointError: the network or what it needs is missing.
    """
    entry = PROVIDERS.get(name)
    if entry is None:
        raise ConfigError(f"depth provider {name!r} is unknown: use one of {', '.join(PROVIDERS)}")
    if weights is not None and not entry.network:
        raise ConfigError(f"depth provider {name} takes no weights ({weights}): leave them out, or choose mono")
    made_by = getattr(import_module(f"{__package__}.{entry.module}"), entry.made_by)
    return cast(DepthProvider, made_by(weights, device) if entry.network else made_by())
