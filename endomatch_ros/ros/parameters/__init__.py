"""The parameters of the node: their table, their values at one moment."""

from endomatch_ros.ros.parameters.settings import changed, check, declare, read, spec_of
from endomatch_ros.ros.parameters.table import Settings

__all__ = ["Settings", "changed", "check", "declare", "read", "spec_of"]
