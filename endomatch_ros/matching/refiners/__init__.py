"""Refinement: from coarse matches on the descriptor grid to targets in source pixels, then the checks of the matches.

This is the registry of both. A new refiner is a file whose ``STAGE`` is a
:class:`~endomatch_ros.matching.refiners.interface.Refiner`, and a line in :data:`REFINERS`; a check likewise, in
:data:`CHECKS`, with a setting of its own. Settings, parameters, command lines and diagnostics follow from these lines.
The files, and with them PyTorch, are loaded only for a matcher that uses them.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from endomatch_ros.errors import ConfigError

if TYPE_CHECKING:
    from endomatch_ros.matching.config import MatcherConfig
    from endomatch_ros.matching.refiners.interface import Check, Refiner
    from endomatch_ros.models import MatcherNetwork


@dataclass(frozen=True)
class Entry:
    """A refiner or a check, and what is told of it without loading it.

    Attributes:
        module: its module, whose ``STAGE`` it is.
        text: what it does, in a few words.
        stages: timing stages of its own that it may report, beside ``refinement``.
        drops: causes of its own under which it may leave matches out; a check's name is one in any case.
        setting: the matcher's setting that chooses it: a refiner by name, a check by a number above 0.
        loads: further modules that it may load by name.
    """

    module: str
    text: str
    stages: tuple[str, ...] = ()
    drops: tuple[str, ...] = ()
    setting: str = "refinement"
    loads: tuple[str, ...] = ()


_ENGINES = tuple(f"{__name__}.{name}_engine" for name in ("opencv", "torch"))
REFINERS: dict[str, Entry] = {
    "photometric": Entry(f"{__name__}.photometric", "from the smooth flow of the coarse matches", loads=_ENGINES),
    "dense": Entry(
        f"{__name__}.dense",
        "the same, started from the field of the model's head; for models that have one",
        stages=("dense",),
        loads=_ENGINES,
    ),
    "none": Entry(f"{__name__}.grid", "the network's own grid, accurate to about half a cell"),
}
CHECKS: dict[str, Entry] = {
    "dense_consistency": Entry(
        f"{__name__}.dense_consistency",
        "matches far from the field of the model's head are dropped; for models that have one",
        stages=("dense",),
        setting="dense_consistency_cells",
    ),
}


def names() -> tuple[str, ...]:
    """The refiners that the setting ``refinement`` can name."""
    return tuple(REFINERS)


def described() -> str:
    """The refiners with what each does, as part of a sentence."""
    *others, last = (f"{name} ({entry.text})" for name, entry in REFINERS.items())
    return f"{', '.join(others)} or {last}"


def drop_causes() -> tuple[str, ...]:
    """All keys that ``Matches.dropped`` can have."""
    own = (cause for entry in (*REFINERS.values(), *CHECKS.values()) for cause in entry.drops)
    return tuple(dict.fromkeys((*CHECKS, *own)))


def timing_stages() -> tuple[str, ...]:
    """All keys that ``Matches.timings`` can have beside ``backbone``, ``matching`` and ``refinement``."""
    return tuple(dict.fromkeys(stage for entry in (*REFINERS.values(), *CHECKS.values()) for stage in entry.stages))


def modules(config: MatcherConfig) -> list[str]:
    """Where the refiner and the checks are that these settings use."""
    entries = [REFINERS[config.refinement], *(CHECKS[name] for name in _active(config))]
    return [module for entry in entries for module in (entry.module, *entry.loads)]


def build(config: MatcherConfig, network: MatcherNetwork) -> tuple[Refiner, dict[str, Check]]:
    """The refiner and, by name, the checks that these settings use.

    Raises:
        ConfigError: the network has not what one of them needs.
    """
    refiner: Refiner = import_module(REFINERS[config.refinement].module).STAGE
    checks: dict[str, Check] = {name: import_module(CHECKS[name].module).STAGE for name in _active(config)}
    chosen = [("refinement", refiner), *((CHECKS[name].setting, check) for name, check in checks.items())]
    for setting, stage in chosen:
        lack = stage.lacks(network)
        if lack:
            raise ConfigError(f"{setting}={getattr(config, setting)!r} needs {lack}")
    return refiner, checks


def _active(config: MatcherConfig) -> list[str]:
    return [name for name, entry in CHECKS.items() if getattr(config, entry.setting) > 0]
