"""Matching: two images (:class:`Matcher`) or a stream (:class:`StreamMatcher`)."""

from endomatch_ros.matching.config import MatcherConfig
from endomatch_ros.matching.matcher import Matcher
from endomatch_ros.matching.stream import StreamMatcher
from endomatch_ros.matching.types import Matches

__all__ = ["Matcher", "MatcherConfig", "Matches", "StreamMatcher"]
