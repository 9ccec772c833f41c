"""One worker thread behind a buffer of waiting frames: whoever hands a frame over never waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from endomatch_ros.ros.sync import FrameBuffer

T = TypeVar("T")


class Worker(Generic[T]):
    """Calls ``process`` with the frames that are due, one set at a time, on a thread of its own.

    Args:
        buffer: which frames wait; used by this worker alone from now on.
        process: does the work on a set of frames, by camera.
        on_error: gets the set and what ``process`` raised; the worker goes on with the next set.
        on_drop: gets the camera and the cause of each frame that is dropped.
        name: the thread's name.
    """

    def __init__(
        self,
        buffer: FrameBuffer[T],
        process: Callable[[dict[str, T]], None],
        on_error: Callable[[dict[str, T], Exception], None],
        on_drop: Callable[[str, str], None],
        name: str = "endomatch-worker",
    ) -> None:
        self._buffer, self._process, self._on_error, self._on_drop = buffer, process, on_error, on_drop
        self._condition = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, camera: str, item: T, stamp: int, tolerance: int = 0, patience: float = 0.0) -> None:
        """Hand a frame over; see :class:`~endomatch_ros.ros.sync.FrameBuffer` for the arguments."""
        with self._condition:
            self._buffer.tolerance, self._buffer.patience = tolerance, patience
            dropped = self._buffer.put(camera, item, stamp, time.monotonic())
            self._condition.notify()
        self._tell(dropped)

    def clear(self) -> list[str]:
        """Forget the waiting frames; the cameras whose they were, one entry per frame."""
        with self._condition:
            return self._buffer.clear()

    def stop(self, timeout: float | None = 10.0) -> bool:
        """Finish the running set, drop what waits, end the thread; False if that took more than ``timeout`` s."""
        with self._condition:
            self._stopping = True
            self._buffer.clear()
            self._condition.notify()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _tell(self, dropped: list[tuple[str, str]]) -> None:
        for camera, cause in dropped:
            self._on_drop(camera, cause)

    def _next(self) -> dict[str, T] | None:
        """The next set, once it is due; None at the end."""
        with self._condition:
            while not self._stopping:
                now = time.monotonic()
                items, dropped = self._buffer.take(now)
                self._tell(dropped)
                if items:
                    return items
                self._condition.wait(self._buffer.due_in(now))
        return None

    def _run(self) -> None:
        while (items := self._next()) is not None:
            try:
                self._process(items)
            except Exception as error:
                self._on_error(items, error)
            del items  # not while waiting for the next: a set may hold megabytes
