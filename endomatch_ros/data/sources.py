"""The one way from what a user names to frames."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from endomatch_ros.data.frames import Frame, FrameSequence
from endomatch_ros.data.readers import images, scared, video
from endomatch_ros.data.readers.sfm import SfmSequence
from endomatch_ros.data.synthetic import SceneConfig, SyntheticEndoscope, SyntheticSequence
from endomatch_ros.errors import ConfigError, DataError
from endomatch_ros.geometry.camera import Camera

BAGS = (".mcap", ".db3")
"""File types that are taken for recordings of ROS 2, in lower case."""
KINDS = (
    f"synthetic[:SEED[,tunnel|cavity]], a video ({' '.join(video.SUFFIXES)}), a ROS 2 bag (.mcap, .db3 or its folder), "
    "or a folder: of pictures, of videos, of bags, an SfM recording (motion.yaml, structure.ply), "
    "or SCARED (a keyframe, a data set or all of it)"
)
"""What a source may be."""

_SYNTHETIC = re.compile(r"synthetic(?::(?P<seed>\d+)(?:,(?P<kind>\w+))?)?")
_FRAMES = re.compile(r"(-?\d+)?:(-?\d+)?")


@dataclass(frozen=True)
class SourceOptions:
    """What a source does not tell of itself.

    Attributes:
        image_topic: of a bag; may be left out where it has one only.
        camera_info_topic: of a bag; found by the image topic if left out.
        partner_topic: of a bag, images of the other camera of a stereo pair.
        calibration: a ROS camera YAML, for frames without a calibration of their own.
        mask: a picture, bright inside the view, for frames without a mask of their own.
        rate: frames a second of sources that tell no times: pictures and SfM recordings.
        stereo: how a stereo pair lies in a video's pictures.

    Raises:
        ConfigError: a value that cannot be.
    """

    image_topic: str = ""
    camera_info_topic: str = ""
    partner_topic: str = ""
    calibration: Path | None = None
    mask: Path | None = None
    rate: float = 30.0
    stereo: Literal["none", "left-right", "top-bottom"] = "none"

    def __post_init__(self) -> None:
        if not self.rate > 0 or not np.isfinite(self.rate):
            raise ConfigError(f"rate {self.rate}: a positive number of frames a second is needed")
        if self.stereo not in ("none", "left-right", "top-bottom"):
            raise ConfigError(f"stereo {self.stereo!r} is unknown: use none, left-right or top-bottom")


DEFAULTS = SourceOptions()


class SubSequence:
    """Part of a sequence.

    Args:
        sequence: the whole.
        start: position of the first frame, from the end if negative.
        stop: position after the last frame, likewise; None: the end.

    Raises:
        ConfigError: nothing is left.
    """

    def __init__(self, sequence: FrameSequence, start: int | None = None, stop: int | None = None) -> None:
        self.sequence = sequence
        self.positions = range(len(sequence))[start:stop]
        if not self.positions:
            names = ("" if end is None else str(end) for end in (start, stop))
            raise ConfigError(f"frames {':'.join(names)} leave nothing of a sequence of {len(sequence)} frames")

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, position: int) -> Frame:
        if not 0 <= position < len(self):
            raise IndexError(f"frame {position} of {len(self)}")
        return self.sequence[self.positions[position]]

    def __iter__(self) -> Iterator[Frame]:
        return (self[position] for position in range(len(self)))


class CompletedSequence:
    """A sequence whose frames get a calibration and a mask where they have none of their own.

    Args:
        sequence: what to complete.
        camera: calibration of its frames.
        mask: ``(H, W)`` bool, True inside the view.
    """

    def __init__(
        self, sequence: FrameSequence, camera: Camera | None = None, mask: NDArray[np.bool_] | None = None
    ) -> None:
        self.sequence = sequence
        self._camera, self._mask = camera, mask

    def __len__(self) -> int:
        return len(self.sequence)

    def __getitem__(self, position: int) -> Frame:
        """The frame; raises DataError where the calibration or the mask is of another size."""
        frame = self.sequence[position]
        sizes = {
            "calibration": None if self._camera is None else self._camera.size,
            "mask": None if self._mask is None else self._mask.shape[::-1],
        }
        for what, size in sizes.items():
            if size not in (None, frame.size):
                raise DataError(f"frame {frame.index} is {frame.size}, the {what} is for {size}; give one that fits")
        camera = self._camera if frame.camera is None else frame.camera
        return replace(frame, camera=camera, mask=self._mask if frame.mask is None else frame.mask)

    def __iter__(self) -> Iterator[Frame]:
        return (self[position] for position in range(len(self)))


def origin(sequence: FrameSequence, position: int) -> tuple[FrameSequence, int]:
    """The sequence that a frame comes from, under all views of it, and the frame's position there."""
    while isinstance(sequence, SubSequence | CompletedSequence):
        position = sequence.positions[position] if isinstance(sequence, SubSequence) else position
        sequence = sequence.sequence
    return sequence, position


def parse_frames(text: str) -> slice:
    """``start:stop`` as Python slices it: either may be empty or count from the end; raises :class:`ConfigError`."""
    match = _FRAMES.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"frames {text!r}: write START:STOP, such as 0:20, 100: or -50:")
    return slice(*(None if number is None else int(number) for number in match.groups()))


def open_sequence(name: str, options: SourceOptions = DEFAULTS, frames: str = "") -> FrameSequence:
    """The one recording that a user names.

    Args:
        name: see :data:`KINDS`.
        options: what the source does not tell of itself.
        frames: part of it, as ``0:20``; empty: all.

    Raises:
        ConfigError: a scene or a part that cannot be.
        DataError: nothing can be read there, or it is several recordings.
    """
    found = open_sources(name, options, frames)
    if len(found) != 1:
        raise DataError(f"{name} holds {len(found)} recordings where one is needed: name one of its files or folders")
    return found[0]


def open_sources(name: str, options: SourceOptions = DEFAULTS, frames: str = "") -> list[FrameSequence]:
    """The recordings that a user names, one or more; arguments and errors are those of :func:`open_sequence`."""
    part = parse_frames(frames) if frames else None
    found = _open(name, options)
    if options.calibration is not None or options.mask is not None:
        from endomatch_ros.data.calibration import read_calibration

        camera = None if options.calibration is None else read_calibration(options.calibration)
        mask = None if options.mask is None else images.read_mask(options.mask)
        found = [CompletedSequence(sequence, camera, mask) for sequence in found]
    return found if part is None else [SubSequence(sequence, part.start, part.stop) for sequence in found]


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of a command line that :func:`source_options` reads."""
    group = parser.add_argument_group("source", "what a recording does not tell of itself")
    group.add_argument("--image-topic", default="", metavar="TOPIC", help="images of a bag, where it has several")
    group.add_argument("--camera-info-topic", default="", metavar="TOPIC", help="their calibration in the bag")
    group.add_argument("--partner-topic", default="", metavar="TOPIC", help="images of a stereo scope's other camera")
    group.add_argument("--calibration", type=Path, metavar="FILE", help="ROS camera YAML, for frames that have none")
    group.add_argument("--mask", type=Path, metavar="FILE", help="picture, bright inside the view, for frames without")
    group.add_argument("--rate", type=float, default=30.0, help="frames a second of pictures (default: %(default)s)")
    layouts = ("none", "left-right", "top-bottom")
    group.add_argument("--stereo", choices=layouts, default="none", help="in a video's pictures (default: %(default)s)")


def source_options(args: argparse.Namespace) -> SourceOptions:
    """Those of a parser that has :func:`add_source_arguments`."""
    return SourceOptions(**{name: getattr(args, name) for name in SourceOptions.__dataclass_fields__})


def _open(name: str, options: SourceOptions) -> list[FrameSequence]:
    path = Path(name)
    if name.startswith("synthetic") and not path.exists():
        return [_synthetic(name)]
    if path.is_dir():
        return _open_folder(path, options)
    suffix = path.suffix.lower()
    if suffix in video.SUFFIXES:
        return [video.VideoFile(path, stereo=options.stereo)]
    if suffix in BAGS and path.is_file():
        return [_bag(path, options)]
    if not path.exists():
        raise DataError(f"there is no file or folder {name}; a source may be {KINDS}")
    raise DataError(f"{name} is nothing that can be read; a source may be {KINDS}")


def _open_folder(folder: Path, options: SourceOptions) -> list[FrameSequence]:
    if (folder / "motion.yaml").is_file() and (folder / "structure.ply").is_file():
        return [SfmSequence(folder, options.rate)]
    if scared.is_scared(folder):
        return list[FrameSequence](scared.scared_keyframes(folder))
    if (folder / "metadata.yaml").is_file():
        return [_bag(folder, options)]
    pictures, videos, bags = (_files(folder, suffixes) for suffixes in (images.SUFFIXES, video.SUFFIXES, BAGS))
    kinds = [kind for kind, files in (("pictures", pictures), ("videos", videos), ("bags", bags)) if files]
    if len(kinds) > 1:
        raise DataError(f"{folder} holds {' and '.join(kinds)}: name a file, or a folder of one kind")
    if pictures:
        return [images.ImageFolder(folder, options.rate)]
    if videos:
        return [video.VideoFile(path, stereo=options.stereo) for path in videos]
    bags = bags or sorted((path.parent for path in folder.glob("*/metadata.yaml")), key=images.natural_key)
    if not bags:
        raise DataError(f"the folder {folder} holds nothing that can be read; a source may be {KINDS}")
    return [_bag(bag, options) for bag in bags]


def _files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    return sorted((p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in suffixes), key=images.natural_key)


def _bag(path: Path, options: SourceOptions) -> FrameSequence:
    from endomatch_ros.data.readers.bag import BagImages  # rosbags takes its time to load

    open_bag: Callable[..., FrameSequence] = BagImages
    return open_bag(path, options.image_topic, options.camera_info_topic, options.partner_topic)


def _synthetic(name: str) -> SyntheticSequence:
    match = _SYNTHETIC.fullmatch(name)
    if match is None:
        raise ConfigError(f"{name!r} names no scene; write synthetic:SEED or synthetic:SEED,KIND")
    kind = cast(Literal["tunnel", "cavity"], match["kind"] or "tunnel")  # SceneConfig refuses others
    return SyntheticSequence(SyntheticEndoscope(SceneConfig(seed=int(match["seed"] or 0), kind=kind)))
