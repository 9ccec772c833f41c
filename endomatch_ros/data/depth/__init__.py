"""Depth for offline training: given, from stereo, from the scope's own light, or from a network."""

from endomatch_ros.data.depth.provider import DepthProvider, make_provider

__all__ = ["DepthProvider", "make_provider"]
