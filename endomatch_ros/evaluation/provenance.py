"""Which code an answer comes from."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from endomatch_ros import __version__

_PACKAGE = __name__.partition(".")[0]
_FOLDER = Path(__file__).parents[1]


def code_digest(module: str) -> str:
    """SHA-256 of what a module's behaviour depends on, as far as its text tells.

    That is this package's version, the module's source, that of every module of this package that it names in an
    import, directly or through others, and the versions of all other packages that these import. The ``__init__`` of a
    package counts only where the package itself is imported; that of the whole package holds but its version and its
    door for others.

    Args:
        module: dotted name, of this package.
    """
    files, foreign = dependencies(module)
    digest = hashlib.sha256(__version__.encode())
    for name in sorted(files):
        digest.update(f"{name} {len(files[name])}\n".encode() + files[name])
    digest.update(json.dumps({name: _version(name) for name in sorted(foreign)}).encode())
    return digest.hexdigest()


@functools.cache
def dependencies(module: str) -> tuple[dict[str, bytes], frozenset[str]]:
    """Source by name of a module of this package and all that it imports of it, and the other packages imported."""
    files: dict[str, bytes] = {}
    foreign: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _file(name)
        if path is None or name in files or name == _PACKAGE:
            continue
        files[name] = path.read_bytes()
        for imported in _imports(files[name]):
            top = imported.partition(".")[0]
            if top == _PACKAGE:
                waiting.append(imported)
            elif top not in sys.stdlib_module_names:
                foreign.add(top)
    return files, frozenset(foreign)


def _imports(source: bytes) -> Iterator[str]:
    """Names of what a source imports anywhere in it; of ``from a import b`` both ``a`` and ``a.b``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _file(module: str) -> Path | None:
    """Source of a module of this package; None if the name is no module's."""
    path = _FOLDER.joinpath(*module.split(".")[1:])
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def _version(package: str) -> str:
    try:
        return str(getattr(importlib.import_module(package), "__version__", "unknown"))
    except ImportError:
        return "absent"
