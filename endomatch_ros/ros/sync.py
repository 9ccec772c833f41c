"""Waiting frames of one or several cameras, and which of them to match next. Pure logic, no threads, no ROS."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Generic, TypeVar

T = TypeVar("T")

SUPERSEDED, UNPAIRED = "superseded", "unpaired"
_DEPTH = 4
"""Frames of a camera that wait for those of the others: one camera's transport may be some frames late."""


@dataclass
class _Waiting(Generic[T]):
    item: T
    stamp: int
    arrived: float
    gap: int | None = None  # between its stamp and the nearest of another camera so far


@dataclass
class FrameBuffer(Generic[T]):
    """Holds the newest frames of each camera and gives them out together, the newest complete set first.

    Args:
        cameras: their names.
        strict: only complete sets are given out; frames without partners are dropped as unpaired. Otherwise a frame
            waits for its partners for ``patience`` and then goes without them.

    Attributes:
        tolerance: stamps of one set differ by at most this, nanoseconds.
        patience: seconds.
        gap: nanoseconds between the stamps of the last unpaired frame and the nearest other one; None if unknown.
    """

    cameras: Sequence[str]
    strict: bool = False
    tolerance: int = 0
    patience: float = 0.0
    gap: int | None = None
    _queues: dict[str, deque[_Waiting[T]]] = field(init=False)

    def __post_init__(self) -> None:
        self._queues = {camera: deque() for camera in self.cameras}

    def put(self, camera: str, item: T, stamp: int, now: float) -> list[tuple[str, str]]:
        """Add a frame.

        Args:
            camera: whose frame it is.
            item: the frame.
            stamp: its stamp in nanoseconds.
            now: ``time.monotonic()``.

        Returns:
            Frames that are dropped for it, as (camera, cause).
        """
        queue, frame = self._queues[camera], _Waiting(item, stamp, now)
        for other in (each for name in self.cameras if name != camera for each in self._queues[name]):
            gap = abs(other.stamp - stamp)
            frame.gap, other.gap = (gap if w.gap is None else min(w.gap, gap) for w in (frame, other))
        queue.append(frame)
        complete = self._complete_set()
        if complete:
            return self._drop_before(complete)
        return self._drop_before({camera: queue[-_DEPTH]}) if len(queue) > _DEPTH else []

    def take(self, now: float) -> tuple[dict[str, T], list[tuple[str, str]]]:
        """The frames to match next, by camera, and what is dropped because it is older; both empty: nothing is due."""
        chosen = self._complete_set()
        if not chosen:
            due = self.due_in(now)
            if due is None or due > 0:
                return {}, []
            chosen = {camera: queue[-1] for camera, queue in self._queues.items() if queue}
        dropped = self._drop_before(chosen)
        for camera in chosen:
            self._queues[camera].popleft()
        return {camera: each.item for camera, each in chosen.items()}, dropped

    def due_in(self, now: float) -> float | None:
        """Seconds until an incomplete set is given out; None if nothing waits, or it would wait for ever."""
        arrivals = [queue[-1].arrived for queue in self._queues.values() if queue]
        if self.strict or not arrivals:
            return None
        return max(0.0, min(arrivals) + self.patience - now)

    def clear(self) -> list[str]:
        """Forget all frames; the cameras whose they were, one entry per frame."""
        waiting = [camera for camera, queue in self._queues.items() for _ in queue]
        for queue in self._queues.values():
            queue.clear()
        return waiting

    def _complete_set(self) -> dict[str, _Waiting[T]]:
        """The newest frames of all cameras whose stamps agree; empty if there are none."""
        for first in reversed(self._queues[self.cameras[0]]):
            found = {camera: self._nearest(camera, first.stamp) for camera in self.cameras}
            chosen = {camera: each for camera, each in found.items() if each and self._agree(each, first)}
            if len(chosen) == len(self.cameras):
                return chosen
        return {}

    def _drop_before(self, kept: Mapping[str, _Waiting[T]]) -> list[tuple[str, str]]:
        """Drop what came before the kept frames; as (camera, cause)."""
        older = {camera: self._before(camera, each) for camera, each in kept.items()}
        dropped = [(camera, self._cause(frame)) for camera, frames in older.items() for frame in frames]
        for camera, frames in older.items():
            for _ in frames:
                self._queues[camera].popleft()
        return dropped

    def _before(self, camera: str, frame: _Waiting[T]) -> list[_Waiting[T]]:
        return list(takewhile(lambda waiting: waiting is not frame, self._queues[camera]))

    def _agree(self, a: _Waiting[T], b: _Waiting[T]) -> bool:
        return abs(a.stamp - b.stamp) <= self.tolerance

    def _cause(self, frame: _Waiting[T]) -> str:
        if not self.strict or (frame.gap is not None and frame.gap <= self.tolerance):
            return SUPERSEDED
        self.gap = frame.gap
        return UNPAIRED

    def _nearest(self, camera: str, stamp: int) -> _Waiting[T] | None:
        return min(self._queues[camera], key=lambda waiting: abs(waiting.stamp - stamp), default=None)
