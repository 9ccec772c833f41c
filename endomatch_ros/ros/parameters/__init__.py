"""The parameters of the node: their table, their values at one moment."""

from endomatch_ros.ros.parameters.settings import Settings, changed, check, declare, read, spec_of

__all__ = ["Settings", "changed", "check", "declare", "read", "spec_of"]
