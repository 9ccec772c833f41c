"""Depth for offline training: given, from stereo, from the scope's own light, or from a network."""

from endomatch_ros.data.depth.provider import DepthProvider
from endomatch_ros.data.depth.registry import PROVIDERS, make_provider

__all__ = ["PROVIDERS", "DepthProvider", "make_provider"]
