"""What a reader of recordings is: how it knows what it can read, and how it opens that."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Literal

import numpy as np

from endomatch_ros.data.frames import FrameSequence
from endomatch_ros.errors import ConfigError


class Fit(IntEnum):
    """How surely a source is of a reader's kind; it goes to the reader that is surest."""

    NO = 0
    FOLDERS = 1
    """A folder whose folders are of this kind."""
    FILES = 2
    """A folder of such files; where it holds another reader's, too, the user has to say which are meant."""
    LAYOUT = 3
    """A file of this kind, or a folder that bears its marks, whatever else lies there."""


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


@dataclass(frozen=True)
class Reader:
    """A kind of recording.

    Attributes:
        name: short, for options of command lines.
        plural: what such recordings or their files are called.
        accepts: how surely a name, mostly a path, is one; must not raise.
        open: the recordings behind an accepted name, at least one; raises DataError for what cannot be read.
        help: what a user may name, for help texts and errors.
    """

    name: str
    plural: str
    accepts: Callable[[str], Fit]
    open: Callable[[str, SourceOptions], list[FrameSequence]]
    help: str


def files_in(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """The files of a folder with one of these endings (lower case), in the natural order of their names."""
    return sorted((p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in suffixes), key=natural_key)


def fit_of_files(name: str, suffixes: Sequence[str]) -> Fit:
    """How well a name fits a kind that is known by the endings of its files."""
    path = Path(name)
    if path.is_dir():
        return Fit.FILES if files_in(path, suffixes) else Fit.NO
    return Fit.LAYOUT if path.is_file() and path.suffix.lower() in suffixes else Fit.NO


def natural_key(path: Path) -> list[tuple[int, str]]:
    """Sorting key by name in which runs of digits count as numbers: ``2.png`` before ``10.png``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name.lower())]
