"""The matcher of this package as a method of the evaluation: ``endomatch[:[MODEL][,SETTING=VALUE]…]``."""

from __future__ import annotations

import json
import re
from dataclasses import asdict

from endomatch_ros.device import device_name
from endomatch_ros.errors import ConfigError
from endomatch_ros.evaluation.methods.interface import OURS, Entry, NamedMethod, Request
from endomatch_ros.evaluation.provenance import code_digest
from endomatch_ros.matching import Matcher, MatcherConfig, refiners
from endomatch_ros.models.checkpoints import state_digest
from endomatch_ros.settings import Scalar, declared

_SETTING = re.compile(r"\w+=.*")


def parse_matcher(name: str) -> tuple[str, dict[str, str]]:
    """Model (empty: not said) and settings, as text, of ``endomatch[:[MODEL][,SETTING=VALUE]…]``."""
    parts = name.partition(":")[2].split(",")
    count = len(parts)
    while count and _SETTING.fullmatch(parts[count - 1]):
        count -= 1
    settings = dict(part.split("=", 1) for part in parts[count:])
    return ",".join(parts[:count]), settings


def make(request: Request) -> NamedMethod:
    """The matcher that a user asks for; raises ConfigError for settings it refuses, CheckpointError for weights."""
    own, settings = parse_matcher(request.name)
    typed = _typed(request.name, settings)
    matcher = Matcher.from_pretrained(own or request.model, request.device, request.backbone_weights, **typed)
    parts = [OURS, *matcher_code(matcher.config), device_name(matcher.info.device), asdict(matcher.config)]
    # The network's own digest: the file's leaves out a backbone that comes from elsewhere.
    parts += [state_digest(matcher.network), matcher.network.config.to_dict()]
    facts = asdict(matcher.info) | asdict(matcher.config)
    return NamedMethod(request.name, matcher.match, json.dumps(parts, sort_keys=True), facts)


def matcher_code(config: MatcherConfig) -> list[str]:
    """Digests of the code that answers with these settings: the matcher's, the refiner's, the checks' in use."""
    return [code_digest(module) for module in (Matcher.__module__, *refiners.modules(config))]


def _typed(name: str, settings: dict[str, str]) -> dict[str, Scalar]:
    """Settings with the types of :class:`MatcherConfig`; unknown ones are left to it to refuse."""
    known = declared(MatcherConfig)
    try:
        return {key: known[key].parse(text) if key in known else text for key, text in settings.items()}
    except ConfigError as error:
        raise ConfigError(f"method {name!r}: {error}") from error


ENTRY = Entry(OURS, make, takes_arguments=True)
