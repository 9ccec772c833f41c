"""What a user calls a method, made into a function with an identity: all but the images that its answers depend on."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from endomatch_ros.errors import ConfigError
from endomatch_ros.evaluation.methods.baselines import BASELINES
from endomatch_ros.evaluation.methods.interface import OURS, Method
from endomatch_ros.evaluation.methods.learned import LEARNED, LearnedMethod, learned_method
from endomatch_ros.evaluation.provenance import code_digest
from endomatch_ros.matching import Matcher, MatcherConfig, refiners
from endomatch_ros.models.checkpoints import state_digest

_NOTHING = np.zeros((64, 64, 3), np.uint8)
_log = logging.getLogger(__name__)
_SETTING = re.compile(r"\w+=.*")
_READERS: dict[type, tuple[Callable[[str], Any], str]] = {
    bool: (lambda text: {"true": True, "false": False}[text.lower()], "true or false"),
    int: (int, "a whole number"),
    float: (float, "a number"),
    str: (str, "text"),
}


@dataclass(frozen=True, eq=False)
class NamedMethod:
    """A method of an evaluation.

    Attributes:
        name: in the tables.
        call: function of (image0, image1, mask0, mask1).
        identity: changes with whatever its answers depend on: code, versions of libraries, weights, settings, device;
            None if that is not known: its answers are then never kept.
        about: facts for the report.
    """

    name: str
    call: Method
    identity: str | None = None
    about: dict[str, Any] | None = None


def named_methods(
    names: Sequence[str], model: str = "embedded", device: str = "auto", backbone_weights: Path | None = None
) -> list[NamedMethod]:
    """The methods that a user names, each once.

    Args:
        names: of :data:`~endomatch_ros.evaluation.methods.baselines.BASELINES`; of
            :data:`~endomatch_ros.evaluation.methods.learned.LEARNED`, with ``:PATH`` of its weights where these are not
            in the cache; ``endomatch`` or ``endomatch:[MODEL][,SETTING=VALUE]…`` with a preset or checkpoint and
            settings of :class:`~endomatch_ros.matching.MatcherConfig`.
        model: of ``endomatch``, where a name says none.
        device: of all that run on one.
        backbone_weights: of ``endomatch``, for models that do not carry them.

    Raises:
        ConfigError: an unknown name, model or setting, or a method that cannot run here.
        CheckpointError: weights that cannot be loaded.
    """
    unique = list(dict.fromkeys(names))
    for name in unique:
        if name not in BASELINES and name.partition(":")[0] not in (OURS, *LEARNED):
            known = ", ".join([OURS, f"{OURS}:MODEL,SETTING=VALUE,…", *BASELINES, *LEARNED])
            raise ConfigError(f"there is no method {name!r}; choose from {known}")
    shown = [_short(name) for name in unique]
    if len(set(shown)) < len(unique):
        shown = unique
    found = []
    for name, short in zip(unique, shown, strict=True):
        if name in BASELINES:
            method = _baseline(name)
        elif name.partition(":")[0] == OURS:
            method = _matcher(name, model, device, backbone_weights)
        else:
            method = _learned(name, device)
        found.append(replace(method, name=short))
    return found


def usable_methods() -> list[str]:
    """``endomatch`` and the baselines that can run here; each of the others is named in a warning, with the reason."""
    usable = [OURS]
    for name in BASELINES:
        try:
            _baseline(name)
        except ConfigError as error:
            _log.warning("left out: %s", error)
        else:
            usable.append(name)
    return usable


def parse_matcher(name: str) -> tuple[str, dict[str, str]]:
    """Model (empty: not said) and settings, as text, of ``endomatch[:[MODEL][,SETTING=VALUE]…]``."""
    parts = name.partition(":")[2].split(",")
    count = len(parts)
    while count and _SETTING.fullmatch(parts[count - 1]):
        count -= 1
    settings = dict(part.split("=", 1) for part in parts[count:])
    return ",".join(parts[:count]), settings


def _baseline(name: str) -> NamedMethod:
    method = BASELINES[name]
    method(_NOTHING, _NOTHING, None, None)  # one that cannot run here says so now, not after hours
    return NamedMethod(name, method, f"{name} {code_digest(method.__module__)}")


def _learned(name: str, device: str) -> NamedMethod:
    kind, _, weights = name.partition(":")
    method = learned_method(kind, Path(weights) if weights else None, device)
    parts = [code_digest(LearnedMethod.__module__), method.about, _machine_of(method.about["device"])]
    return NamedMethod(name, method, json.dumps(parts, sort_keys=True), method.about)


def _matcher(name: str, model: str, device: str, backbone_weights: Path | None) -> NamedMethod:
    own, settings = parse_matcher(name)
    matcher = Matcher.from_pretrained(own or model, device, backbone_weights, **_typed(name, settings))
    parts = [OURS, *matcher_code(matcher.config), _machine_of(matcher.info.device), asdict(matcher.config)]
    # The network's own digest: the file's leaves out a backbone that comes from elsewhere.
    parts += [state_digest(matcher.network), matcher.network.config.to_dict()]
    facts = asdict(matcher.info) | asdict(matcher.config)
    return NamedMethod(name, matcher.match, json.dumps(parts, sort_keys=True), facts)


def matcher_code(config: MatcherConfig) -> list[str]:
    """Digests of the code that answers with these settings: the matcher's, the refiner's, the checks' in use."""
    return [code_digest(module) for module in (Matcher.__module__, *refiners.modules(config))]


def _typed(name: str, settings: dict[str, str]) -> dict[str, Any]:
    """Settings with the types of :class:`MatcherConfig`; unknown ones are left to it to refuse."""
    out: dict[str, Any] = {}
    for setting, text in settings.items():
        kind = type(getattr(MatcherConfig(), setting, ""))
        read, wanted = _READERS[kind]
        try:
            out[setting] = read(text)
        except (KeyError, ValueError) as error:
            raise ConfigError(f"method {name!r}: {setting} is {text!r}; it must be {wanted}") from error
    return out


def _machine_of(device: str) -> str:
    """``cpu``, or which GPU it is."""
    kind = torch.device(device)
    return torch.cuda.get_device_name(kind) if kind.type == "cuda" else kind.type


def _short(name: str) -> str:
    """A name for the tables: of a path no more than file and folder."""
    if ":" not in name:
        return name
    path, settings = parse_matcher(name)
    parts = ["/".join(Path(path).parts[-2:]), *(f"{key}={value}" for key, value in settings.items())]
    return f"{name.partition(':')[0]}:{','.join(filter(None, parts))}"
