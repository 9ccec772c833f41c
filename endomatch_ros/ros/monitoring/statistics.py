"""What the node counts and times about one source of frames, for any thread to add to and to read."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from endomatch_ros.ros.monitoring.causes import Drop, Explained, Keyframe, Reset
from endomatch_ros.ros.monitoring.stages import Stage

C = TypeVar("C", bound=Explained)

_WINDOW_S = 5.0  # the input rate looks back this far
_ANSWERS = 300  # the percentiles look back this many answers


@dataclass(frozen=True)
class Snapshot:
    """Counters at one moment; times in seconds, latencies in milliseconds.

    Attributes:
        received, answered: frames that arrived, pairs that were published, since the start.
        rate: input rate in Hz over the last seconds.
        age: seconds since the last frame arrived; None before the first.
        latency: p50, p95, p99 from callback to publish; None before the first answer.
        stamp_latency: the same from the image's stamp; None where the stamp's clock is not the node's.
        stages: p50, p95, p99 of the same answers by stage: every :class:`Stage`, None before its first time, then what
            the matcher reported of its own.
        drops, resets, keyframes: counts by cause, of those that occurred.
        last_drop, last_reset, last_keyframe: the newest cause of each; None before the first.
        left_out: matches that an optional check dropped, by its name.
        tracks: p50, p90 and largest number of frames in which a track of the newest frame was seen; None without any.
        tracks_alive: the number of those tracks.
        problem: the last drop's or failure's message.
    """

    received: int
    answered: int
    rate: float
    age: float | None
    latency: tuple[float, ...] | None
    stamp_latency: tuple[float, ...] | None
    stages: dict[str, tuple[float, ...] | None]
    drops: dict[Drop, int]
    resets: dict[Reset, int]
    keyframes: dict[Keyframe, int]
    last_drop: Drop | None
    last_reset: Reset | None
    last_keyframe: Keyframe | None
    left_out: dict[str, int]
    tracks: tuple[float, ...] | None
    tracks_alive: int
    problem: str

    @property
    def faults(self) -> int:
        """Frames dropped for a cause that is a fault."""
        return sum(count for cause, count in self.drops.items() if cause.fault)


class _Answer(NamedTuple):
    """Milliseconds of one published pair."""

    latency: float
    stamp_latency: float | None
    stages: Mapping[str, float]


class _Tally(Generic[C]):
    """Counts by cause, and the newest cause; takes members of ``causes`` only, since only they are shown."""

    def __init__(self, causes: type[C]) -> None:
        self._causes = causes
        self.counts: Counter[C] = Counter()
        self.last: C | None = None

    def add(self, cause: C) -> None:
        """Count one; raises ValueError for what is no member."""
        self.last = self._causes(cause)
        self.counts[self.last] += 1


class Statistics:
    """Thread-safe counters, fed by the callbacks and by the worker; times are ``time.monotonic()`` seconds.

    A cause that is no member of its enum raises ValueError: it would be counted and never shown.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._arrivals: deque[float] = deque(maxlen=1000)
        self._answers: deque[_Answer] = deque(maxlen=_ANSWERS)
        self._drops, self._resets, self._keyframes = _Tally(Drop), _Tally(Reset), _Tally(Keyframe)
        self._left_out: Counter[str] = Counter()
        self._lengths: NDArray[np.int64] = np.zeros(0, np.int64)
        self._received = self._answered = 0
        self._problem = ""

    def arrived(self, now: float) -> None:
        """A frame came in."""
        with self._lock:
            self._received += 1
            self._arrivals.append(now)

    def dropped(self, cause: Drop, problem: str = "") -> None:
        """A frame was dropped; ``problem`` is kept as the last message if given."""
        with self._lock:
            self._drops.add(cause)
            self._problem = problem or self._problem

    def reset(self, cause: Reset) -> None:
        """The stream started again from the current frame."""
        with self._lock:
            self._resets.add(cause)

    def keyframe(self, cause: Keyframe) -> None:
        """A new keyframe was set."""
        with self._lock:
            self._keyframes.add(cause)

    def left_out(self, counts: Mapping[str, int]) -> None:
        """So many matches of a pair were dropped by each optional check."""
        with self._lock:
            self._left_out.update(counts)

    def tracks(self, lengths: NDArray[np.int64]) -> None:
        """In how many frames each track of the newest frame was seen."""
        with self._lock:
            self._lengths = lengths

    def published(self, latency: float, stamp_latency: float | None, stages: Mapping[str, float]) -> None:
        """A pair was published.

        Args:
            latency: seconds from the callback.
            stamp_latency: seconds from the image's stamp; None where they are not comparable.
            stages: milliseconds by stage.
        """
        answer = _Answer(1e3 * latency, None if stamp_latency is None else 1e3 * stamp_latency, dict(stages))
        with self._lock:
            self._answered += 1
            self._answers.append(answer)

    def snapshot(self, now: float) -> Snapshot:
        """The counters as of ``now``."""
        with self._lock:
            recent = [t for t in self._arrivals if now - t <= _WINDOW_S]
            span = now - recent[0] if recent else 0.0
            return Snapshot(
                received=self._received,
                answered=self._answered,
                rate=(len(recent) - 1) / span if len(recent) > 1 and span > 0 else 0.0,
                age=now - self._arrivals[-1] if self._arrivals else None,
                latency=_percentiles([answer.latency for answer in self._answers]),
                stamp_latency=_percentiles([a.stamp_latency for a in self._answers if a.stamp_latency is not None]),
                stages=_by_stage([answer.stages for answer in self._answers]),
                drops=dict(self._drops.counts),
                resets=dict(self._resets.counts),
                keyframes=dict(self._keyframes.counts),
                last_drop=self._drops.last,
                last_reset=self._resets.last,
                last_keyframe=self._keyframes.last,
                left_out=dict(self._left_out),
                tracks=_percentiles(self._lengths, (50, 90, 100)),
                tracks_alive=len(self._lengths),
                problem=self._problem,
            )


def _by_stage(answers: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, ...] | None]:
    """p50, p95 and p99 by stage, each of the answers that went through it."""
    reported = dict.fromkeys((*Stage, *(stage for answer in answers for stage in answer)))
    times = {stage: [answer[stage] for answer in answers if stage in answer] for stage in reported}
    return {str(stage): _percentiles(values) for stage, values in times.items()}


def _percentiles(
    values: Sequence[float] | NDArray[np.int64], which: tuple[int, ...] = (50, 95, 99)
) -> tuple[float, ...] | None:
    return tuple(float(value) for value in np.percentile(values, which)) if len(values) else None
