"""Names in the ROS graph: of cameras, topics and namespaces."""

from __future__ import annotations

import re
from collections.abc import Sequence

import yaml

from endomatch_ros.errors import ConfigError
from endomatch_ros.ros.parameters.table import UNNAMED

_PLACE = "{camera}"


def camera_names(given: object) -> tuple[str, ...]:
    """The names in ``cameras``: a list, or the YAML text of one. Which names will do, the node says.

    Raises:
        ConfigError: no list of names, or an empty one.
    """
    try:
        names = yaml.safe_load(given) if isinstance(given, str) else given
    except yaml.YAMLError:
        names = None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"cameras={given!r} is no list of names; write cameras:='[left, right]'")
    return tuple(names)


def fill(argument: str, pattern: str, cameras: Sequence[str]) -> list[str]:
    """One topic per camera: ``{camera}`` in ``pattern`` replaced by each name.

    Raises:
        ConfigError: several cameras would share a topic, there is no name to put in, another placeholder, or a topic
            that ends in /compressed.
    """
    if _PLACE in pattern and UNNAMED in cameras:
        raise ConfigError(f"{argument}={pattern!r} needs names for {_PLACE}; give them: cameras:='[left, right]'")
    topics = [pattern.replace(_PLACE, camera) for camera in cameras]
    if len(set(topics)) < len(cameras):
        raise ConfigError(
            f"{argument}={pattern!r} is the same topic for the cameras {', '.join(cameras)}; write {_PLACE} where the "
            f"name goes, as in /stereo/{_PLACE}/image_raw"
        )
    if any(re.search(r"[{}\s]", topic) for topic in topics):
        raise ConfigError(f"{argument}={pattern!r} is no topic; {_PLACE} is all that is replaced in it")
    if any(topic.endswith("/compressed") for topic in topics):
        bare = pattern.removesuffix("/compressed")
        raise ConfigError(f"{argument}={pattern!r}: write {argument}:={bare} image_transport:=compressed")
    return topics


def join_namespaces(pushed: str, given: str) -> str:
    """The absolute namespace of a node with namespace ``given`` inside that of ``pushed``; either may be empty."""
    joined = given if given.startswith("/") else f"{pushed}/{given}"
    return "/" + joined.strip("/")


def resolve(name: str, namespace: str) -> str:
    """The absolute name of a topic or node in an absolute namespace."""
    return name if name.startswith("/") else f"{namespace.rstrip('/')}/{name}"
