"""Which frames of a recording are worth learning from: sharp ones, each seen once, with tissue in view."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from endomatch_ros.data.frames import Frame, FrameSequence
from endomatch_ros.data.quality import Look, look_at, mean_motion, sharpness
from endomatch_ros.data.view import view_of
from endomatch_ros.errors import DataError, ImageError, check_ranges

_log = logging.getLogger(__name__)

_START, _WINDOW = 31, 301  # frames that the running median begins with, and goes over


@dataclass(frozen=True)
class SelectionConfig:
    """What makes a frame usable.

    Attributes:
        sharpness: least sharpness relative to the recording's own running median, 0 to 1; 0 switches the test off.
        motion: least mean motion against the last frame kept, as a share of the image's long side, 0 to 0.5; 0
            switches the test off. Slow motion adds up until it is reached, so that a slow passage is thinned, not lost.
        view: least share of the image that shows tissue (inside the view, neither dark nor saturated), 0 to 0.9.
        stride: only every so many-th frame is looked at, 1 to 100000.
        max_frames: most frames to keep, spread evenly over the recording; 0 keeps all.
    """

    sharpness: float = 0.45
    motion: float = 0.002
    view: float = 0.1
    stride: int = 1
    max_frames: int = 0

    def __post_init__(self) -> None:
        ranges = {
            "sharpness": (0.0, 1.0),
            "motion": (0.0, 0.5),
            "view": (0.0, 0.9),
            "stride": (1, 100_000),
            "max_frames": (0, 100_000_000),
        }
        check_ranges(self, ranges, whole=("stride", "max_frames"), what="frame selection: ")


@dataclass
class SelectionReport:
    """What became of a recording's frames; every one of them is counted once.

    Attributes:
        kept: frames handed on.
        blurred: frames less sharp than the recording's others.
        duplicate: frames that hardly differ from the last one kept.
        dark: frames that show too little tissue.
        skipped: frames not looked at, because of the stride or the number wanted.
        broken: position and reason of every frame that could not be read.
    """

    kept: int = 0
    blurred: int = 0
    duplicate: int = 0
    dark: int = 0
    skipped: int = 0
    broken: list[tuple[int, str]] = field(default_factory=list)

    @property
    def read(self) -> int:
        """Frames that were looked at, whatever came of it."""
        return self.kept + self.blurred + self.duplicate + self.dark + len(self.broken)

    def describe(self) -> str:
        """One line for a person; at most three of the broken frames are named."""
        causes = (
            (len(self.broken), "broken"),
            (self.blurred, "blurred"),
            (self.duplicate, "repeated"),
            (self.dark, "dark or without a view"),
            (self.skipped, "skipped"),
        )
        text = f"{self.kept} of {self.read + self.skipped} frames kept"
        text += "".join(f", {count} {cause}" for count, cause in causes if count)
        if self.broken:
            named = "; ".join(f"frame {position}: {reason}" for position, reason in self.broken[:3])
            text += f" ({named}{f'; and {len(self.broken) - 3} more' if len(self.broken) > 3 else ''})"
        return text

    def to_dict(self) -> dict[str, Any]:
        """Everything in types that JSON has."""
        counts = {name: getattr(self, name) for name in ("read", "kept", "blurred", "duplicate", "dark", "skipped")}
        return counts | {"broken": [{"position": position, "reason": reason} for position, reason in self.broken]}


def select_frames(
    sequence: FrameSequence, config: SelectionConfig | None = None, report: SelectionReport | None = None
) -> Iterator[Frame]:
    """The usable frames of a recording, in order, each with a mask.

    One frame is held at a time, so that recordings may be long. A frame without a mask gets that of
    :func:`~endomatch_ros.matching.view.view_mask`; one that cannot be read is logged, counted and passed over.

    Args:
        sequence: the recording. Its first frames are read twice, to know how sharp it is before the first is judged.
        config: what is usable.
        report: counts what happens, up to date whenever a frame comes out.

    Raises:
        DataError: at the end, if no frame was usable; it says why and what to change.
    """
    config = config or SelectionConfig()
    report = SelectionReport() if report is None else report
    positions = range(0, len(sequence), config.stride)
    report.skipped += len(sequence) - len(positions)
    judge = _Judge(config, (_read(sequence, position, None) for position in positions[:_START]))
    # Each share of the recording gives one frame, its first usable one: the number is kept without a look ahead.
    shares = min(config.max_frames or len(positions), len(positions))
    served = -1
    for number, position in enumerate(positions):
        share = number * shares // len(positions)
        if share == served:
            report.skipped += 1
            continue
        frame = _read(sequence, position, report)
        if frame is None:
            continue
        cause = judge.cause(look_at(frame), known=number < _START)
        setattr(report, cause, getattr(report, cause) + 1)
        if cause == "kept":
            served = share
            yield frame
    if report.kept == 0:
        raise DataError(f"the recording has no usable frame: {report.describe()}; {_remedy(report)}")


def _remedy(report: SelectionReport) -> str:
    remedies = {
        "give a recording that is not empty": 1,
        "check the files": 2 * len(report.broken),
        "lower the least sharpness": 2 * report.blurred,
        "lower the least motion": 2 * report.duplicate,
        "lower the least share of the view": 2 * report.dark,
    }
    return max(remedies, key=lambda remedy: remedies[remedy])


def _read(sequence: FrameSequence, position: int, report: SelectionReport | None) -> Frame | None:
    """The frame with a mask, or None if it cannot be read, which goes into the report if there is one."""
    try:
        frame = sequence[position]
    except (ImageError, DataError) as error:
        if report is not None:
            report.broken.append((position, str(error)))
            _log.warning("frame %d cannot be used: %s", position, error)
        return None
    return replace(frame, mask=view_of(frame))


class _Judge:
    """Knows the last frame kept and how sharp the recording has been lately.

    Args:
        config: what is usable.
        first: the recording's first frames, to know how sharp it is before the first is judged; None for broken ones.
    """

    def __init__(self, config: SelectionConfig, first: Iterator[Frame | None]) -> None:
        self._config = config
        self._kept: Look | None = None
        self._heard: Look | None = None
        self._sharpness: deque[float] = deque(maxlen=_WINDOW)
        for look in (look_at(frame) for frame in first if frame is not None) if config.sharpness > 0 else ():
            if look.share >= config.view:
                self._hear(look, sharpness(look))

    def cause(self, look: Look, known: bool) -> str:
        """The report's field that counts the frame; ``known`` says that it was among the first."""
        if look.share < self._config.view:
            return "dark"
        if self._config.sharpness > 0:
            value = sharpness(look)
            if not known:
                self._hear(look, value)
            # Not "<": frames without any structure are blurred, also if all of them are.
            if value <= self._config.sharpness * np.median(self._sharpness or [value]):
                return "blurred"
        if self._repeats(self._kept, look):
            return "duplicate"
        self._kept = look
        return "kept"

    def _hear(self, look: Look, value: float) -> None:
        """Let a frame join the running median of the sharpness.

        Blurred frames join too: were they left out, tissue that has less detail than what came before it would never
        be accepted. Repeats do not: a pause on one frame must not decide what is sharp.
        """
        if not self._repeats(self._heard, look):
            self._sharpness.append(value)
            self._heard = look

    def _repeats(self, earlier: Look | None, look: Look) -> bool:
        return earlier is not None and self._config.motion > 0 and mean_motion(earlier, look) < self._config.motion
