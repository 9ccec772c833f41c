"""Child processes that never outlive their parent, whatever ends it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from endomatch_ros.errors import EndomatchError
from endomatch_ros.processes import end_with_parent


class ChildError(EndomatchError):
    """A child process ended when it should not have."""


class Child:
    """A process in a session of its own, ended with all its descendants on leaving the ``with`` block.

    Ctrl-C in the terminal reaches only the parent, which decides the order in which the children end. Should the parent
    be killed outright, Linux sends the child SIGTERM.

    Args:
        name: for messages.
        command: program and arguments.
        log: file that takes the output (stderr, and stdout unless it is read).
        environment: the child's whole environment.
        read_output: make stdout a pipe, :attr:`lines`.
    """

    def __init__(
        self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str], read_output: bool = False
    ) -> None:
        self.name, self.log = name, log
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if read_output else file,
                stderr=file,
                env=dict(environment),
                start_new_session=True,
                preexec_fn=end_with_parent,
            )
        self._rest = b""
        if self._process.stdout is not None:
            os.set_blocking(self._process.stdout.fileno(), False)

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Exit status, None while running."""
        return self._process.poll()

    def lines(self) -> list[str]:
        """The whole lines that the child has printed since the last call; never waits."""
        if self._process.stdout is None:
            return []
        while chunk := self._process.stdout.read(65536):
            self._rest += chunk
        *whole, self._rest = self._rest.split(b"\n")
        return [line.decode(errors="replace") for line in whole]

    def check(self) -> None:
        """Raise :class:`ChildError` with the end of the log if the child has ended."""
        if self.status is not None:
            raise ChildError(f"the {self.name} ended with status {self.status}; the end of {self.log}:\n{self.tail()}")

    def tail(self, lines: int = 15) -> str:
        """The last lines of the log."""
        return "\n".join("  " + line for line in self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self, patience_s: float = 10.0) -> None:
        """End the child as Ctrl-C would, then more firmly, and whatever it has started."""
        for kind in (signal.SIGINT, signal.SIGTERM):
            if self.status is not None:
                break
            self._process.send_signal(kind)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience_s)
        with contextlib.suppress(ProcessLookupError):  # the group outlives its leader where a worker hangs
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def node_command(parameters: Mapping[str, object], remappings: Mapping[str, str]) -> list[str]:
    """The command line of the matcher node, for a :class:`Child`; the topics by the node's own names."""
    rules = [part for name, topic in remappings.items() for part in ("-r", f"{name}:={topic}")]
    given = [part for name, value in parameters.items() for part in ("-p", f"{name}:={value}")]
    return [sys.executable, "-m", "endomatch_ros.ros.node", "--ros-args", *rules, *given]
