"""One worker thread behind a one-slot mailbox: the latest frame wins, whoever hands it over never waits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class LatestWorker(Generic[T]):
    """Calls ``process`` with the newest item, one at a time, on a thread of its own.

    Args:
        process: does the work.
        on_error: gets the item and what ``process`` raised; the worker goes on with the next item.
        name: the thread's name.
    """

    def __init__(
        self, process: Callable[[T], None], on_error: Callable[[T, Exception], None], name: str = "endomatch-worker"
    ) -> None:
        self._process = process
        self._on_error = on_error
        self._condition = threading.Condition()
        self._slot: list[T] = []
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, item: T) -> bool:
        """Hand an item over; True if it replaces one that had not been taken yet."""
        with self._condition:
            superseded = bool(self._slot)
            self._slot[:] = [item]
            self._condition.notify()
        return superseded

    def clear(self) -> bool:
        """Forget the waiting item; True if there was one."""
        with self._condition:
            waiting = bool(self._slot)
            self._slot.clear()
        return waiting

    def stop(self, timeout: float | None = 10.0) -> bool:
        """Finish the running item, drop the waiting one, end the thread; False if that took more than ``timeout`` s."""
        with self._condition:
            self._stopping = True
            self._slot.clear()
            self._condition.notify()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._slot or self._stopping)
                if self._stopping:
                    return
                item = self._slot.pop()
            try:
                self._process(item)
            except Exception as error:
                self._on_error(item, error)
