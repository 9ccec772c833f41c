"""The SCARED data set: stereo video of porcine abdomens with depth from structured light, poses from the robot.

Its layout (https://endovissub2019-scared.grand-challenge.org, arXiv 2101.01133), lengths in mm:

- ``Left_Image.png``, ``Right_Image.png``: the keyframe as recorded
- ``left_depth_map.tiff``: float32 ``(H, W, 3)``, x, y, z in the left camera's frame, NaN where unknown
- ``endoscope_calibration.yaml``: M1, D1, M2, D2, R, T as OpenCV writes them
- ``data/rgb.mp4``: the video, left over right; some keyframes have no ``data``
- ``data/frame_data.tar.gz``: ``frame_dataNNNNNN.json`` with ``camera-calibration`` (KL, DL, KR, DR, R, T) and
  ``camera-pose``, which acts as ``camera_from_world``. Its ``timestamp`` has no documented unit and is not used
- ``data/scene_points.tar.gz``: ``scene_pointsNNNNNN.tiff``, float32 x, y, z, left over right, zero or NaN where unknown
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from endomatch_ros.data.frames import Frame, FrameSequence, StereoPartner
from endomatch_ros.data.readers.archive import NumberedFiles
from endomatch_ros.data.readers.images import read_image
from endomatch_ros.data.readers.interface import Fit, Reader, SourceOptions, natural_key
from endomatch_ros.data.readers.video import VideoReader, split_stereo
from endomatch_ros.errors import CalibrationError, DataError, ImageError
from endomatch_ros.geometry.camera import Camera
from endomatch_ros.geometry.epipolar import is_rigid

Array = NDArray[np.float64]

FAULTY = (4, 5)
"""Data sets whose calibration is known to be wrong."""

_log = logging.getLogger(__name__)


class ScaredKeyframe:
    """The frames of a keyframe's video, or the keyframe's picture alone where it has none; read when asked for.

    Frames are the left camera's, with calibration, the right one as partner, depth in mm, and in a video their pose. A
    frame without calibration and pose, or that is damaged in any part, raises; others are not touched by that. Where
    nothing is said of a frame's points, its depth is None. ``frame_data`` and ``scene_points`` may be unpacked, into
    folders of these names; that makes access out of order fast.

    Args:
        folder: in the layout above.

    Raises:
        DataError: the folder is no keyframe, or not a complete one.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not is_keyframe(self.folder):
            raise DataError(
                f"{folder} is not a keyframe of SCARED: it has neither data/rgb.mp4 nor Left_Image.png with "
                "endoscope_calibration.yaml"
            )
        data = self.folder / "data"
        self._video: VideoReader | None = None
        self._points: NumberedFiles | None = None
        if data.is_dir():
            self._video = VideoReader(data / "rgb.mp4")
            self._frame_data = NumberedFiles(data / "frame_data", ".json")
            if any((data / name).exists() for name in ("scene_points", "scene_points.tar.gz")):
                self._points = NumberedFiles(data / "scene_points", ".tiff")

    def __len__(self) -> int:
        return 1 if self._video is None else len(self._video)

    def __getitem__(self, position: int) -> Frame:
        """Frame ``position``; raises DataError or ImageError, naming the file, where part of it is damaged."""
        if not 0 <= position < len(self):
            raise IndexError(f"frame {position} of {len(self)}")
        return self._still() if self._video is None else self._from_video(self._video, position)

    def __iter__(self) -> Iterator[Frame]:
        return (self[position] for position in range(len(self)))

    @property
    def scene_id(self) -> Path:
        """Equal for the keyframes of one data set, which show one scene."""
        return self.folder.resolve().parent

    def _from_video(self, video: VideoReader, number: int) -> Frame:
        found = self._frame_data.read(number)
        if found is None:
            raise DataError(f"{self._frame_data.path} holds nothing for frame {number}; leave the frame out")
        name, content = found
        image, right = split_stereo(video.read(number), "top-bottom")
        try:
            entry = json.loads(content)
            values = {key: np.array(value, np.float64) for key, value in entry["camera-calibration"].items()}
            pose = np.array(entry["camera-pose"], np.float64)
            if not is_rigid(pose):
                raise ValueError(f"camera-pose is no rigid (4, 4) motion: {pose.tolist()}")
            size = (image.shape[1], image.shape[0])
            left_camera = Camera(values["KL"], values["DL"], "plumb_bob", size)
            right_camera = Camera(values["KR"], values["DR"], "plumb_bob", size)
            partner = StereoPartner(right, right_camera, _pose(values["R"], values["T"]))
        except (ValueError, KeyError, TypeError, AttributeError, DataError) as error:
            raise DataError(f"{name} is no calibration and pose of a frame: {error!r}; leave the frame out") from error
        points = self._points.read(number) if self._points is not None else None
        depth = None if points is None else _depth(*points, image.shape[:2])
        stamp = float(video.times[number])
        return Frame(image, stamp, number, camera=left_camera, pose=pose, depth=depth, partner=partner)

    def _still(self) -> Frame:
        image = read_image(self.folder / "Left_Image.png")
        calibration = self.folder / "endoscope_calibration.yaml"
        values = _read_storage(calibration, ("M1", "D1", "M2", "D2", "R", "T"))
        partner, depth = None, None
        points, right = self.folder / "left_depth_map.tiff", self.folder / "Right_Image.png"
        try:
            camera = Camera(values["M1"], values["D1"], "plumb_bob", (image.shape[1], image.shape[0]))
            if right.is_file():
                other = read_image(right)
                right_camera = Camera(values["M2"], values["D2"], "plumb_bob", (other.shape[1], other.shape[0]))
                partner = StereoPartner(other, right_camera, _pose(values["R"], values["T"]))
        except (CalibrationError, DataError) as error:
            raise DataError(f"{calibration} cannot be right: {error}") from error
        if points.is_file():
            depth = _depth(str(points), points.read_bytes(), image.shape[:2], halves=1)
        return Frame(image, 0.0, 0, camera=camera, depth=depth, partner=partner)


def is_keyframe(folder: Path) -> bool:
    """Whether a folder has the layout of a keyframe."""
    still = (folder / "Left_Image.png").is_file() and (folder / "endoscope_calibration.yaml").is_file()
    return (folder / "data" / "rgb.mp4").is_file() or still


def is_scared(folder: Path) -> bool:
    """Whether a folder is a keyframe, a data set, or holds data sets of SCARED."""
    return is_keyframe(folder) or any(map(is_keyframe, (*folder.glob("keyframe*"), *folder.glob("dataset*/keyframe*"))))


def scared_keyframes(root: str | Path, include_faulty: bool = False) -> list[ScaredKeyframe]:
    """The keyframes of a data set's folder, of a folder of data sets, or the one that is named itself.

    Args:
        root: the folder.
        include_faulty: take data sets 4 and 5 too, whose calibration is known to be wrong. They are taken, with a
            warning, where they are named themselves.

    Raises:
        DataError: there are no keyframes, or one is incomplete.
    """
    folder = Path(root)
    if is_keyframe(folder):
        return [ScaredKeyframe(folder)]
    data_sets = sorted((p for p in folder.glob("dataset*") if p.is_dir()), key=natural_key)
    taken = []
    for data_set in data_sets or [folder]:
        faulty = _number(data_set, "dataset") in FAULTY
        left_out = faulty and not include_faulty and data_set != folder
        if faulty:
            what = "left out" if left_out else "used nevertheless"
            _log.warning("%s: SCARED's data sets 4 and 5 have faulty calibrations; it is %s", data_set, what)
        if not left_out:
            taken += sorted((p for p in data_set.glob("keyframe*") if p.is_dir()), key=natural_key)
    if not taken:
        raise DataError(f"{folder} holds no keyframes of SCARED (dataset_N/keyframe_N) that can be used")
    return [ScaredKeyframe(keyframe) for keyframe in taken]


def _number(folder: Path, word: str) -> int:
    match = re.fullmatch(rf"{word}_?(\d+)", folder.resolve().name.lower())
    return int(match[1]) if match else -1


def _pose(rotation: Array, translation: Array) -> Array:
    """``right_from_left`` ``(4, 4)``."""
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation.reshape(3, 3), translation.reshape(3)
    return pose


def _depth(name: str, content: bytes, size: tuple[int, ...], halves: int = 2) -> NDArray[np.float32]:
    """Depth ``(H, W)`` in mm of the left, upper half of a TIFF of points; 0 where unknown."""
    data = np.frombuffer(content, np.uint8)
    points = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None
    expected = (halves * size[0], size[1], 3)
    if points is None:
        raise ImageError(f"{name} is not a TIFF that can be read; copy it anew, or leave the frame out")
    if points.shape != expected or points.dtype != np.float32:
        raise ImageError(f"{name} holds {points.dtype} {points.shape}, not points, float32 {expected}")
    z = points[: size[0], :, 0]  # OpenCV reverses the channels
    return np.where(np.isfinite(z) & (z > 0), z, np.float32(0))


def _read_storage(path: Path, names: tuple[str, ...]) -> dict[str, Array]:
    """Matrices of a file that OpenCV wrote."""
    try:
        storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_READ)
        nodes: dict[str, Any] = {name: storage.getNode(name).mat() for name in names}
        storage.release()
    except (cv2.error, SystemError) as error:
        raise DataError(f"{path} is not a calibration that OpenCV can read: {error}") from error
    missing = [name for name, value in nodes.items() if value is None]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}; it should hold {', '.join(names)}")
    return {name: np.asarray(value, np.float64) for name, value in nodes.items()}


def _accepts(name: str) -> Fit:
    return Fit.LAYOUT if is_scared(Path(name)) else Fit.NO


def _open(name: str, options: SourceOptions) -> list[FrameSequence]:
    return list[FrameSequence](scared_keyframes(name))


READER = Reader("scared", "SCARED keyframes", _accepts, _open, "SCARED (a keyframe, a data set or all of it)")
