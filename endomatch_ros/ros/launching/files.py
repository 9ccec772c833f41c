"""ROS parameter files and other YAML files, read with errors that name the file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from endomatch_ros.errors import ConfigError
from endomatch_ros.ros.launching.names import resolve


def read_parameters(files: Iterable[Path], node: str) -> dict[str, Any]:
    """What parameter files say for ``node`` (fully qualified): the later over the earlier, its name over ``/**``.

    Raises:
        ConfigError: a file that cannot be read or is no ROS parameter file.
    """
    everyone: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for file in files:
        content = load_yaml(file)
        for name, block in content.items():
            parameters = block.get("ros__parameters") if isinstance(block, dict) else None
            if not isinstance(parameters, dict):
                raise ConfigError(f"{file}: {name!r} has no ros__parameters; write '/**: {{ros__parameters: {{…}}}}'")
            if name == "/**":
                everyone |= parameters
            elif resolve(str(name), "/") == node:
                own |= parameters
    return everyone | own


def load_yaml(file: Path) -> dict[Any, Any]:
    """The mapping in a YAML file; empty for an empty file.

    Raises:
        ConfigError: it cannot be read, is no YAML or no mapping.
    """
    try:
        content = yaml.safe_load(file.read_text())
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror}); check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is no YAML: {error}") from error
    if content is not None and not isinstance(content, dict):
        raise ConfigError(f"{file} holds no mapping; a parameter file begins with '/**:'")
    return content or {}
