"""The parameters written down for people, from their table.

python -m endomatch_ros.ros.parameters.document config/endomatch.yaml docs/parameters.md

makes what follows the line that names this command in each of the files; what is above it was written by hand.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from endomatch_ros.ros.parameters.table import GROUPS, allowed
from endomatch_ros.settings import Declaration, Value

_COMMAND = "python -m endomatch_ros.ros.parameters.document"
_TYPES: dict[type, str] = {bool: "bool", int: "integer", float: "double", str: "string"}
_WHEN = {"live": "at once", "unconfigured": "while unconfigured", "start": "at start"}
_COLUMNS = ("parameter", "type", "default", "allowed", "changes", "what it does")


def yaml_block() -> str:
    """Every parameter with its default and its description above it, as in ``config/endomatch.yaml``."""
    lines = []
    for title, group in GROUPS.items():
        lines += ["", f"# ---- {title} ----"]
        for name, spec in group.items():
            about = spec.text
            if allowed(spec) and not spec.choices:  # choices are told in the text
                about += f" Allowed: {allowed(spec)}."
            if spec.when != "live":
                about += f" Changes only {_WHEN[spec.when]}."
            comment = textwrap.wrap(about, 116, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
            lines += ["", *comment, f"{name}: {_literal(spec.initial)}"]
    return textwrap.indent("\n".join(lines) + "\n", "    ")


def tables() -> str:
    """A table per group, as in ``docs/parameters.md``, with the values that the default model brings."""
    from endomatch_ros.matching import Matcher

    own = asdict(Matcher.from_pretrained(device="cpu").config)
    lines = []
    for title, group in GROUPS.items():
        lines += ["", f"## {title}", "", _cells(*_COLUMNS), _cells(*["---"] * len(_COLUMNS))]
        for name, spec in group.items():
            default = f"`{_literal(spec.initial)}`" + (f" ({own[name]})" if spec.own else "")
            lines.append(_cells(f"`{name}`", _type(spec), default, allowed(spec), _WHEN[spec.when], spec.text))
    return "\n".join(lines) + "\n"


def renewed(path: Path) -> str:
    """The text that a file should have; ``path`` ends in ``.yaml`` or ``.md``."""
    head, command, rest = path.read_text().partition(_COMMAND)
    line = rest.partition("\n")[0]
    return f"{head}{command}{line}\n{yaml_block() if path.suffix == '.yaml' else tables()}"


def main(argv: Sequence[str] | None = None) -> int:
    """Renew the files that are named."""
    for path in map(Path, sys.argv[1:] if argv is None else argv):
        path.write_text(renewed(path))
    return 0


def _cells(*texts: str) -> str:
    return f"| {' | '.join(texts)} |"


def _type(spec: Declaration) -> str:
    """As ROS names it."""
    if isinstance(spec.default, tuple):
        return f"{_TYPES[type(spec.default[0])]}_array"
    return _TYPES[type(spec.default)]


def _literal(value: Value) -> str:
    """A value as YAML; text that needs no quotes has none."""
    return value if isinstance(value, str) and value else json.dumps(value)


if __name__ == "__main__":
    sys.exit(main())
