"""Matching: two images (:class:`Matcher`) or a stream (:class:`StreamMatcher`)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from endomatch_ros.matching.config import MatcherConfig
    from endomatch_ros.matching.matcher import Matcher
    from endomatch_ros.matching.stream import StreamMatcher
    from endomatch_ros.matching.types import Matches

__all__ = ["Matcher", "MatcherConfig", "Matches", "StreamMatcher"]

_HOMES = {"Matcher": "matcher", "MatcherConfig": "config", "Matches": "types", "StreamMatcher": "stream"}


def __getattr__(name: str) -> Any:
    # PyTorch takes seconds to import: whoever needs only masks, rules or result types must not pay for it.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
