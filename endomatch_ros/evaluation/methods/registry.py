"""The methods that a user can name, and what is made of a name.

A new method is a module with an entry, and its line here.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from endomatch_ros.errors import ConfigError
from endomatch_ros.evaluation.methods import baselines, learned, ours
from endomatch_ros.evaluation.methods.interface import Entry, NamedMethod, Request

METHODS: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        ours.ENTRY,
        *baselines.ENTRIES,
        *learned.ENTRIES,
    )
}
"""Every method by name."""

_log = logging.getLogger(__name__)


def named_methods(
    names: Sequence[str], model: str = "embedded", device: str = "auto", backbone_weights: Path | None = None
) -> list[NamedMethod]:
    """The methods that a user names, each once.

    Args:
        names: of :data:`METHODS`; learned ones with ``:PATH`` of their weights where these are not in the cache;
            ``endomatch`` or ``endomatch:[MODEL][,SETTING=VALUE]…`` with a preset or checkpoint and settings of
            :class:`~endomatch_ros.matching.MatcherConfig`.
        model: of ``endomatch``, where a name says none.
        device: of all that run on one.
        backbone_weights: of ``endomatch``, for models that do not carry them.

    Raises:
        ConfigError: an unknown name, model or setting, or a method that cannot run here.
        CheckpointError: weights that cannot be loaded.
    """
    unique = list(dict.fromkeys(names))
    entries = [_entry(name) for name in unique]
    for entry in entries:
        entry.check()
    shown = [_short(name) for name in unique]
    if len(set(shown)) < len(unique):
        shown = unique
    return [
        replace(entry.make(Request(name, model, device, backbone_weights)), name=short)
        for entry, name, short in zip(entries, unique, shown, strict=True)
    ]


def usable_methods() -> list[str]:
    """The methods that need nothing from the user and can run here; a warning says why others of them cannot."""
    usable = []
    for name, entry in METHODS.items():
        if not entry.by_default:
            continue
        try:
            entry.check()
        except ConfigError as error:
            _log.warning("left out: %s", error)
        else:
            usable.append(name)
    return usable


def _entry(name: str) -> Entry:
    base, colon, _ = name.partition(":")
    entry = METHODS.get(base)
    if entry is None:
        known = ", ".join(f"{each.name}[:…]" if each.takes_arguments else each.name for each in METHODS.values())
        raise ConfigError(f"there is no method {name!r}; choose from {known}")
    if colon and not entry.takes_arguments:
        raise ConfigError(f"method {name!r}: nothing can follow the name {base}; leave {name[len(base) :]!r} out")
    return entry


def _short(name: str) -> str:
    """A name for the tables: of a path no more than file and folder."""
    if ":" not in name:
        return name
    path, settings = ours.parse_matcher(name)
    parts = ["/".join(Path(path).parts[-2:]), *(f"{key}={value}" for key, value in settings.items())]
    return f"{name.partition(':')[0]}:{','.join(filter(None, parts))}"
