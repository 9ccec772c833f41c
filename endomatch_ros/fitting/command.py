"""What the commands that train have in common; light, for `--help` must not wait for Lightning."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


def with_kept(arguments: Sequence[str], kept: Callable[[Path], Sequence[str]]) -> list[str]:
    """The arguments, in a resumed run behind those that the run was begun with, so that they win.

    Args:
        arguments: of a command with ``--output DIR`` and ``--resume``.
        kept: arguments by folder, none where it holds no run.
    """
    finder = argparse.ArgumentParser(add_help=False)
    finder.add_argument("--output", nargs="?", type=Path)
    finder.add_argument("--resume", nargs="?", const=True)
    found, _ = finder.parse_known_args(arguments)
    return [*kept(found.output), *arguments] if found.resume and found.output else list(arguments)


def run_training(command: str, output: Path, train: Callable[[], Path]) -> int:
    """Train; says where the model is, or after Ctrl-C how to go on. Returns the exit status, errors are the caller's.

    Args:
        command: as it is called, without its options.
        output: the run's folder.
        train: returns the model's path.
    """
    try:
        path = train()
    except (KeyboardInterrupt, SystemExit):  # Lightning turns the first Ctrl-C into the second of these
        how = f"{command} --output {output} --resume goes on from the last validation"
        kept = (output / "last.ckpt").is_file()
        print(f"interrupted; {how if kept else 'nothing to resume yet'}", file=sys.stderr)
        return 130  # as `endomatch` does after Ctrl-C
    say(f"wrote {path}")
    return 0


def is_first_process() -> bool:
    """Whether this process is the only one or the one that speaks and writes for all."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str) -> None:
    """Print once, however many processes train."""
    if is_first_process():
        print(text, flush=True)
