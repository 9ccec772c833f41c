"""The one way from what a user names to frames."""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection, Hashable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endomatch_ros.data.frames import Frame, FrameSequence, Landmarks, Partners, landmarks_of, partners_of, scene_of
from endomatch_ros.data.readers.images import read_mask
from endomatch_ros.data.readers.interface import Fit, Reader, SourceOptions
from endomatch_ros.data.readers.registry import READERS
from endomatch_ros.errors import ConfigError, DataError
from endomatch_ros.geometry.camera import Camera

KINDS = ", ".join(reader.help for reader in READERS.values())
"""What a source may be."""

_FRAMES = re.compile(r"(-?\d+)?:(-?\d+)?")


DEFAULTS = SourceOptions()


class SequenceView:
    """A sequence made of another one: what that one knows of the truth, this one knows of its frames.

    Args:
        sequence: the other one.
    """

    def __init__(self, sequence: FrameSequence) -> None:
        self.sequence = sequence

    def __len__(self) -> int:
        return len(self.sequence)

    def __getitem__(self, position: int) -> Frame:
        return self.sequence[self.inner(position)]

    def __iter__(self) -> Iterator[Frame]:
        return (self[position] for position in range(len(self)))

    def inner(self, position: int) -> int:
        """Position of a frame in the other sequence."""
        return position

    @property
    def correspondence(self) -> Partners | None:
        """As :class:`~endomatch_ros.data.frames.FrameSequence` says; None if the other one has none."""
        known = partners_of(self.sequence)
        return known and (lambda first, second, points: known(self.inner(first), self.inner(second), points))

    @property
    def landmarks(self) -> Landmarks | None:
        """Likewise."""
        known = landmarks_of(self.sequence)
        return known and (lambda first, second: known(self.inner(first), self.inner(second)))

    @property
    def scene_id(self) -> Hashable:
        """The other one's."""
        return scene_of(self.sequence)


class SubSequence(SequenceView):
    """Part of a sequence.

    Args:
        sequence: the whole.
        start: position of the first frame, from the end if negative.
        stop: position after the last frame, likewise; None: the end.

    Raises:
        ConfigError: nothing is left.
    """

    def __init__(self, sequence: FrameSequence, start: int | None = None, stop: int | None = None) -> None:
        super().__init__(sequence)
        self.positions = range(len(sequence))[start:stop]
        if not self.positions:
            names = ("" if end is None else str(end) for end in (start, stop))
            raise ConfigError(f"frames {':'.join(names)} leave nothing of a sequence of {len(sequence)} frames")

    def __len__(self) -> int:
        return len(self.positions)

    def inner(self, position: int) -> int:
        """Position in the whole."""
        if not 0 <= position < len(self):
            raise IndexError(f"frame {position} of {len(self)}")
        return self.positions[position]


class CompletedSequence(SequenceView):
    """A sequence whose frames get a calibration and a mask where they have none of their own.

    Args:
        sequence: what to complete.
        camera: calibration of its frames.
        mask: ``(H, W)`` bool, True inside the view.
    """

    def __init__(
        self, sequence: FrameSequence, camera: Camera | None = None, mask: NDArray[np.bool_] | None = None
    ) -> None:
        super().__init__(sequence)
        self._camera, self._mask = camera, mask

    def __getitem__(self, position: int) -> Frame:
        """The frame; raises DataError where the calibration or the mask is of another size."""
        frame = super().__getitem__(position)
        sizes = {
            "calibration": None if self._camera is None else self._camera.size,
            "mask": None if self._mask is None else self._mask.shape[::-1],
        }
        for what, size in sizes.items():
            if size not in (None, frame.size):
                raise DataError(f"frame {frame.index} is {frame.size}, the {what} is for {size}; give one that fits")
        camera = self._camera if frame.camera is None else frame.camera
        return replace(frame, camera=camera, mask=self._mask if frame.mask is None else frame.mask)


def parse_frames(text: str) -> slice:
    """``start:stop`` as Python slices it: either may be empty or count from the end; raises :class:`ConfigError`."""
    match = _FRAMES.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"frames {text!r}: write START:STOP, such as 0:20, 100: or -50:")
    return slice(*(None if number is None else int(number) for number in match.groups()))


def open_sequence(
    name: str, options: SourceOptions = DEFAULTS, frames: str = "", kind: str | None = None
) -> FrameSequence:
    """The one recording that a user names.

    Args:
        name: see :data:`KINDS`.
        options: what the source does not tell of itself.
        frames: part of it, as ``0:20``; empty: all.
        kind: the reader's name in :data:`~endomatch_ros.data.readers.registry.READERS`; None: the one that fits best.

    Raises:
        ConfigError: a scene or a part that cannot be.
        DataError: nothing of that kind can be read there, or it is several recordings.
    """
    found = open_sources(name, options, frames, kind)
    if len(found) != 1:
        raise DataError(f"{name} holds {len(found)} recordings where one is needed: name one of its files or folders")
    return found[0]


def open_sources(
    name: str, options: SourceOptions = DEFAULTS, frames: str = "", kind: str | None = None
) -> list[FrameSequence]:
    """The recordings that a user names, one or more; arguments and errors are those of :func:`open_sequence`."""
    part = parse_frames(frames) if frames else None
    found = _reader(name, kind).open(name, options)
    if options.calibration is not None or options.mask is not None:
        from endomatch_ros.data.calibration import read_calibration

        camera = None if options.calibration is None else read_calibration(options.calibration)
        mask = None if options.mask is None else read_mask(options.mask)
        found = [CompletedSequence(sequence, camera, mask) for sequence in found]
    return found if part is None else [SubSequence(sequence, part.start, part.stop) for sequence in found]


def add_source_arguments(parser: argparse.ArgumentParser, leave_out: Collection[str] = ()) -> None:
    """The options of a command line that :func:`source_options` reads, without those that are left out by name."""
    group = parser.add_argument_group("source", "what a recording does not tell of itself")

    def add(name: str, text: str, **options: Any) -> None:
        if name not in leave_out:
            group.add_argument("--" + name.replace("_", "-"), help=text, **options)

    add("image_topic", "images of a bag, where it has several", default="", metavar="TOPIC")
    add("camera_info_topic", "their calibration in the bag", default="", metavar="TOPIC")
    add("partner_topic", "images of a stereo scope's other camera", default="", metavar="TOPIC")
    add("calibration", "ROS camera YAML, for frames that have none", type=Path, metavar="FILE")
    add("mask", "picture, bright inside the view, for frames without", type=Path, metavar="FILE")
    add("rate", "frames a second of pictures (default: %(default)s)", type=float, default=30.0)
    layouts = ("none", "left-right", "top-bottom")
    add("stereo", "in a video's pictures (default: %(default)s)", choices=layouts, default="none")


def source_options(args: argparse.Namespace, leave_out: Collection[str] = ()) -> SourceOptions:
    """Those of a parser that has :func:`add_source_arguments`."""
    names = [name for name in SourceOptions.__dataclass_fields__ if name not in leave_out]
    return SourceOptions(**{name: getattr(args, name) for name in names})


def _reader(name: str, kind: str | None) -> Reader:
    """The reader of that kind, or the one that is surest; raises DataError where none can read the name."""
    able = READERS if kind is None else {kind: READERS[kind]}
    fits = {reader.name: reader.accepts(name) for reader in able.values()}
    best = max(fits.values())
    found = [READERS[each] for each, fit in fits.items() if fit is best]
    if best is Fit.NO:
        what = "nothing that can be read" if kind is None else f"no {READERS[kind].plural}"
        raise DataError(f"{_not_found(name, what)}; a source may be {', '.join(r.help for r in found)}")
    if best is Fit.FILES and len(found) > 1:
        kinds = " and ".join(reader.plural for reader in found)
        raise DataError(f"{name} holds {kinds}: name a file, or a folder of one kind")
    return found[0]


def _not_found(name: str, what: str) -> str:
    path = Path(name)
    if path.is_dir():
        return f"the folder {name} holds {what}"
    return f"{name} is {what}" if path.exists() else f"there is no file or folder {name}"
