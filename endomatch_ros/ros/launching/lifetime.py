"""From start to an orderly end: what every process with a node does around its spinning."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

import rclpy
from rclpy.executors import ExternalShutdownException


@contextlib.contextmanager
def until_told(ros_args: list[str] | None = None) -> Iterator[contextlib.ExitStack]:
    """Start rclpy; on SIGINT, SIGTERM or shutdown leave the block quietly, then tidy up undisturbed.

    Args:
        ros_args: command line for rclpy; None: the process's.

    Yields:
        A stack for what has to be undone before rclpy ends, e.g. ``stack.callback(node.destroy_node)``.
    """
    with contextlib.ExitStack() as stack:
        try:
            rclpy.init(args=ros_args)
            stack.callback(rclpy.try_shutdown, uninstall_handlers=False)
            yield stack
        except (KeyboardInterrupt, ExternalShutdownException):
            pass
        finally:
            # Under launch Ctrl-C arrives twice: the second one must not break into the tidying up.
            signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Inside the block SIGTERM and SIGHUP (the terminal is closed) end the process in the orderly way of Ctrl-C."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {kind: signal.signal(kind, interrupt) for kind in (signal.SIGTERM, signal.SIGHUP)}
    before[signal.SIGINT] = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
