"""endomatch_ros: a DINOv2 feature matcher for live endoscopes, as a library and a ROS 2 node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from endomatch_ros.matching import Matcher, MatcherConfig, Matches, StreamMatcher

__version__ = "0.1.0"
__all__ = ["Matcher", "MatcherConfig", "Matches", "StreamMatcher"]


def __getattr__(name: str) -> Any:
    # PyTorch takes seconds to import: whoever asks for a version or a message type must not pay for it.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from endomatch_ros import matching

    return getattr(matching, name)
