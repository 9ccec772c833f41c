"""Starting processes: what launch files decide, names in the ROS graph, DDS, bags, an orderly end."""

from endomatch_ros.ros.launching.arguments import (
    INPUT_ARGUMENTS,
    NODE_ARGUMENTS,
    Inputs,
    declare,
    environment,
    find_inputs,
    flag,
    log_level,
    overrides,
    perform,
    pushed_namespace,
    rviz_remappings,
)

__all__ = [
    "INPUT_ARGUMENTS",
    "NODE_ARGUMENTS",
    "Inputs",
    "declare",
    "environment",
    "find_inputs",
    "flag",
    "log_level",
    "overrides",
    "perform",
    "pushed_namespace",
    "rviz_remappings",
]
