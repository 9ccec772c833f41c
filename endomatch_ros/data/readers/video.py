"""Video files: exact access to their frames, and frames with stamps, calibration and a stereo partner."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from endomatch_ros.data.frames import Frame, FrameSequence, StereoPartner
from endomatch_ros.data.readers.interface import Fit, Reader, SourceOptions, files_in, fit_of_files
from endomatch_ros.data.readers.sidecar import Stereo, read_sidecar
from endomatch_ros.errors import ConfigError, DataError, ImageError
from endomatch_ros.geometry.camera import Camera

Array = NDArray[np.float64]

SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".m4v", ".webm", ".wmv", ".mpg", ".mpeg", ".ts", ".m2ts")
"""File types that are taken for videos, in lower case."""

_STREAM = 32  # frames: decoding this many to get forward is cheaper than a seek
_SAME_MS = 0.1  # times closer than this are those of one frame
_log = logging.getLogger(__name__)
# A forked process must not close its parent's decoders, it would wait for threads that it does not have: neither one
# that it replaces, nor one that the parent had done with and left to the garbage collector.
_of_parents: list[cv2.VideoCapture] = []
os.register_at_fork(after_in_child=gc.freeze)


class VideoReader:
    """The pictures of a video by their number: streamed where they are asked for in order, exact where they are not.

    Frames are numbered by their presentation times, which a pass over the file collects, in general without decoding
    anything. Every frame is checked against its time: containers with irregular times or without an index seek to the
    wrong one, and decoders pass over what is damaged. The file is opened anew in each process, after pickling too.

    Args:
        path: a file that OpenCV's FFmpeg reads.

    Attributes:
        times: ``(N,)`` seconds, ascending.

    Raises:
        DataError: there is no such file, or no video in it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise DataError(f"there is no video {path}; check the path")
        self._capture: cv2.VideoCapture | None = None
        self._process = 0
        self._next = 0  # number of the frame that the decoder gives next
        capture = self._open()
        self._rate = float(capture.get(cv2.CAP_PROP_FPS))
        announced = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.times, self._timed = self._index()
        if len(self.times) < announced:
            _log.warning(
                "%s speaks of %d frames, but has %d: it may be damaged or cut short", path, announced, len(self.times)
            )

    def __len__(self) -> int:
        return len(self.times)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_capture": None}

    def read(self, number: int) -> NDArray[np.uint8]:
        """RGB uint8 ``(H, W, 3)`` of a frame.

        Raises:
            ImageError: the frame cannot be decoded; others may well be.
        """
        if not 0 <= number < len(self):
            raise IndexError(f"frame {number} of {len(self)}")
        found, image = self._open().retrieve() if self._reach(number) else (False, None)
        if not found or image is None:
            self._next = -1  # whatever comes next has to seek
            raise ImageError(f"{self.path}: frame {number} cannot be decoded; copy the file anew or leave it out")
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)

    def _open(self) -> cv2.VideoCapture:
        """The decoder of this process."""
        if self._capture is None or self._process != os.getpid():
            if self._capture is not None:
                _of_parents.append(self._capture)
            capture = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG)
            if not capture.isOpened():
                raise DataError(f"{self.path} is not a video that can be read; give an MP4, AVI or MKV file")
            self._capture, self._process, self._next = capture, os.getpid(), 0
        return self._capture

    def _index(self) -> tuple[Array, bool]:
        """Times of all frames in seconds, and whether frames can be told by them."""
        times = self._scan([cv2.CAP_PROP_FORMAT, -1])  # packets, not decoded
        self.times, self._timed = times, True
        # Old releases of OpenCV do not tell the times of packets; packets that an edit list hides are no frames.
        if not _ascending(times) or not self._reach(len(times) - 1):
            times = self._scan([])
            self._capture = None
        if not len(times):
            raise DataError(f"{self.path} holds no frames that can be decoded; record or copy it anew")
        if _ascending(times):
            return times, True
        return np.arange(len(times)) / (self._rate if self._rate > 0 else 30.0), False

    def _scan(self, options: list[int]) -> Array:
        capture = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG, options)
        times = []
        while capture.grab():
            times.append(capture.get(cv2.CAP_PROP_POS_MSEC))
        return np.sort(np.array(times, np.float64)) / 1000  # packets come in the order of decoding

    def _reach(self, number: int) -> bool:
        """Make a frame the one that the decoder has just grabbed; False if it has none of this number."""
        capture = self._open()
        if self._next >= 0 and 0 <= number - self._next <= _STREAM and self._advance(number):
            return True
        # Some releases of OpenCV seek by number, some by number at a constant rate; a margin helps sparse key frames.
        by_time = round(float(self.times[number]) * self._rate)
        for target in dict.fromkeys((number, by_time, max(0, by_time - 2 * _STREAM))):
            if not self._timed or not capture.set(cv2.CAP_PROP_POS_FRAMES, target) or not capture.grab():
                continue
            landed = self._number()
            if landed is not None and landed <= number:
                self._next = landed + 1
                if self._advance(number):
                    return True
                if self._next > number:  # passed over; else the decoder took this for the end, which may be too early
                    return False
        self._capture = None
        self._open()
        return self._advance(number)

    def _advance(self, number: int) -> bool:
        """Grab until the frame, False if it does not come."""
        capture = self._open()
        while self._next <= number:
            if not capture.grab():
                return False
            at = self._number()
            self._next = (self._next if at is None else at) + 1
        return self._next == number + 1

    def _number(self) -> int | None:
        """Number of the frame grabbed last by its time; None if no frame is known to have that time."""
        if not self._timed:
            return None
        time = self._open().get(cv2.CAP_PROP_POS_MSEC) / 1000
        nearest = int(np.abs(self.times - time).argmin())
        return nearest if abs(self.times[nearest] - time) * 1000 < _SAME_MS else None


class VideoFile:
    """The frames of a video file.

    Stamps are those of the dVRK recorder's sidecar where there is one
    (:mod:`~endomatch_ros.data.readers.sidecar`), else those of the container.

    Args:
        path: an MP4, AVI, MKV or other file that OpenCV's FFmpeg reads.
        camera: calibration of the frames (of the half, for stereo).
        rate: frames a second, for the stamps, in place of what the files tell.
        stereo: how the images of a stereo pair lie in the video; frames are then the left or top one. ``none``: as the
            sidecar says, else the whole picture.
        partner_camera: calibration of the other half.
        partner_pose: ``partner_from_frame`` ``(4, 4)``; with both calibrations, frames carry their partner.

    Raises:
        ConfigError: a rate that is not positive.
        DataError: the video or its sidecar cannot be read, or they contradict each other.
    """

    def __init__(
        self,
        path: str | Path,
        camera: Camera | None = None,
        rate: float | None = None,
        stereo: Stereo = "none",
        partner_camera: Camera | None = None,
        partner_pose: Array | None = None,
    ) -> None:
        if rate is not None and not rate > 0:
            raise ConfigError(f"a rate of {rate} frames a second cannot be; give a positive number")
        self.path = Path(path)
        self._reader = VideoReader(path)
        self._camera, self._partner_camera, self._partner_pose = camera, partner_camera, partner_pose
        sidecar = read_sidecar(self.path)
        if sidecar is not None and len(sidecar.stamps) != len(self):
            raise DataError(
                f"{self.path} has {len(self)} frames, but its sidecar {self.path.with_suffix('.json').name} stamps for "
                f"{len(sidecar.stamps)}: rename the sidecar to take the video's own stamps"
            )
        self.stereo: Stereo = sidecar.stereo if sidecar is not None and stereo == "none" else stereo
        if rate is not None:
            self._stamps = np.arange(len(self)) / rate
        else:
            self._stamps = self._reader.times if sidecar is None else sidecar.stamps

    def __len__(self) -> int:
        return len(self._reader)

    def __getitem__(self, position: int) -> Frame:
        image = self._reader.read(position)
        partner = None
        if self.stereo != "none":
            image, other = split_stereo(image, self.stereo)
            if self._partner_camera is not None and self._partner_pose is not None:
                partner = StereoPartner(other, self._partner_camera, self._partner_pose)
        return Frame(image, float(self._stamps[position]), position, camera=self._camera, partner=partner)

    def __iter__(self) -> Iterator[Frame]:
        return (self[position] for position in range(len(self)))


def split_stereo(image: NDArray[np.uint8], stereo: Stereo) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The frame and its partner, each ``(H, W, 3)``, out of a picture that holds both.

    Raises:
        DataError: the picture cannot be halved.
    """
    axis = 0 if stereo == "top-bottom" else 1
    if image.shape[axis] % 2:
        raise DataError(f"a picture of {image.shape[1]}x{image.shape[0]} has no two {stereo} halves; check `stereo`")
    first, second = (np.ascontiguousarray(half) for half in np.split(image, 2, axis))
    return (second, first) if stereo == "right-left" else (first, second)


def _ascending(times: Array) -> bool:
    return len(times) > 0 and bool((np.diff(times) * 1000 > 2 * _SAME_MS).all())


def _accepts(name: str) -> Fit:
    return fit_of_files(name, SUFFIXES)


def _open(name: str, options: SourceOptions) -> list[FrameSequence]:
    path = Path(name)
    files = files_in(path, SUFFIXES) if path.is_dir() else [path]
    return [VideoFile(file, stereo=options.stereo) for file in files]


READER = Reader("video", "videos", _accepts, _open, f"videos (a file or a folder of {' '.join(SUFFIXES)})")
