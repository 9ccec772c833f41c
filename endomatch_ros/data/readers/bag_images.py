"""The images of a rosbag2 as frames, with their calibration and, of a stereo pair, the other image; without ROS."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endomatch_ros.data.calibration import stereo_pose, to_camera
from endomatch_ros.data.encodings import RGB, compressed_to_rgb, to_rgb
from endomatch_ros.data.frames import Frame, StereoPartner
from endomatch_ros.data.readers.bag_topics import (
    COMPRESSED,
    IMAGE,
    INFO,
    Contents,
    Track,
    list_topics,
    parse,
    read_contents,
)
from endomatch_ros.errors import CalibrationError, ConfigError, DataError, ImageError
from endomatch_ros.geometry.camera import Camera

_TRANSPORT = "/compressed"  # what image_transport appends to the name of the image topic


class BagImages:
    """An image topic of a rosbag2 (mcap or sqlite3; zstd by chunk, message or file) as frames.

    The bag is read once from end to end when it is opened, to know its stamps and that it is whole; images are decoded
    as their frames are asked for. Frames in a row are streamed, others looked up. A frame's stamp is ``header.stamp``,
    or the time of reception where that is zero. Its camera is that of the latest camera_info at or before its stamp,
    else of the first one; None without camera_info or with one that is all zero. On topics named ``image_rect*``
    the camera is the rectified one (``P``, no distortion), on others ``K`` and ``D``.

    Frames of the partner are paired by stamp: each other's nearest, within half the usual time between two frames.
    Where the partner's frame is missing, ``partner`` is None. The pose is that of
    :func:`~endomatch_ros.data.calibration.stereo_pose`: ``P`` where images are rectified, else ``R`` and ``P``.

    May be pickled and forked (each process opens the bag itself); not for several threads at once.

    Args:
        path: the bag's folder, or a single ``.mcap`` or ``.db3`` file.
        topic: raw or compressed images; empty: the only image topic.
        camera_info: their calibration; empty: ``camera_info`` beside the image topic, if there is one.
        partner_topic: images of the other camera of a stereo pair; empty: there is none.
        partner_camera_info: as ``camera_info``, for the partner.

    Attributes:
        topic: the image topic.
        pairs: number of frames that have a partner.

    Raises:
        ConfigError: a topic that is not in the bag, is ambiguous or of the wrong type.
        DataError: the bag is missing, damaged or holds no image; no frame has a partner.
        CalibrationError: the two cameras are not calibrated as a stereo pair.
    """

    def __init__(
        self,
        path: str | Path,
        topic: str = "",
        camera_info: str = "",
        partner_topic: str = "",
        partner_camera_info: str = "",
    ) -> None:
        self.path = Path(path)
        topics = list_topics(self.path)
        chosen = [_chosen(self.path, topics, topic, camera_info)]
        if partner_topic:
            chosen.append(_chosen(self.path, topics, partner_topic, partner_camera_info))
        images = [pair[0] for pair in chosen]
        infos = [pair[1] for pair in chosen if pair[1] is not None]
        read_contents(self.path, [*images, *infos], keep=[info.topic for info in infos])
        self._sources = [_ImageSource(self.path, *pair) for pair in chosen]
        self._paired = np.full(len(images[0].stamps), -1)
        if partner_topic:
            self._paired = _paired(self.path, *images)
            self._pose(int(np.argmax(self._paired >= 0)))  # to fail now rather than at the first frame
        self.topic = images[0].topic
        self.pairs = int((self._paired >= 0).sum())

    def __len__(self) -> int:
        return len(self._paired)

    def __getitem__(self, position: int) -> Frame:
        """The frame at ``position``.

        Raises:
            IndexError: there is no such frame.
            ImageError: the image, or its partner's, cannot be decoded; other frames are not touched by that.
            CalibrationError: the camera_info does not fit the image.
            DataError: the bag can no longer be read.
        """
        if not 0 <= position < len(self):
            raise IndexError(f"frame {position} of {len(self)}")
        image, camera = self._sources[0].read(position)
        partner = None
        if self._paired[position] >= 0:
            other, other_camera = self._sources[1].read(self._paired[position])
            if camera is None or other_camera is None:
                raise CalibrationError(f"{self.path}: a camera_info of the stereo pair is zero; calibrate both cameras")
            partner = StereoPartner(other, other_camera, self._pose(position))
        return Frame(image, self._sources[0].stamps[position] / 1e9, position, camera=camera, partner=partner)

    def __iter__(self) -> Iterator[Frame]:
        return map(self.__getitem__, range(len(self)))  # unlike a generator, goes on after an image that is broken

    def close(self) -> None:
        """Close the bag's files; a later access opens them again."""
        for source in self._sources:
            source.track.close()

    def __enter__(self) -> BagImages:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _pose(self, position: int) -> NDArray[np.float64]:
        """``partner_from_frame`` by the camera_info of that moment."""
        frame, partner = self._sources
        try:
            return stereo_pose(
                frame.info(position), partner.info(self._paired[position]), frame.rectified, partner.rectified
            )
        except CalibrationError as error:
            raise CalibrationError(f"{self.path}, {frame.topic} and {partner.topic}: {error}") from error


class _ImageSource:
    """What one camera recorded: an image topic and its calibration.

    Args:
        path: the bag.
        images: the image topic, filled in.
        infos: the camera_info topic, filled in and with its messages; None if there is none.
    """

    def __init__(self, path: Path, images: Contents, infos: Contents | None) -> None:
        self.topic = images.topic
        self.stamps = images.stamps
        self.rectified = _base(images).rpartition("/")[2].startswith("image_rect")
        self.track = Track(path, images)
        self._name = f"{path}, {images.topic}"
        self._infos = [] if infos is None else sorted(zip(infos.stamps, infos.data, strict=True), key=itemgetter(0))
        self._cameras: dict[tuple[bytes, tuple[int, int]], Camera | None] = {}

    def read(self, position: int) -> tuple[RGB, Camera | None]:
        """The image, writable, and the camera that took it; raises as :meth:`BagImages.__getitem__`."""
        data, kind = self.track.read(position), self.track.contents.kind
        try:
            message = parse(data, kind)
            image = compressed_to_rgb(message) if kind == COMPRESSED else to_rgb(message)
        except ValueError as error:
            raise ImageError(f"{self._name}, stamp {self.stamps[position] / 1e9:.6f}: {error}") from error
        image = image if image.flags.writeable else image.copy()
        return image, self._camera(position, (image.shape[1], image.shape[0]))

    def info(self, position: int) -> Any:
        """The CameraInfo that holds for the image at ``position``."""
        if not self._infos:
            raise CalibrationError(f"{self.topic} has no camera_info; record it, or name the topic that has it")
        return self._parsed(self._info(position))

    def _info(self, position: int) -> bytes:
        """The latest at or before the image's stamp, else the first."""
        return self._infos[max(bisect_right(self._infos, self.stamps[position], key=itemgetter(0)) - 1, 0)][1]

    def _parsed(self, data: bytes) -> Any:
        try:
            return parse(data, INFO)
        except ValueError as error:
            raise CalibrationError(f"{self._name}: its camera_info is damaged: {error}") from error

    def _camera(self, position: int, size: tuple[int, int]) -> Camera | None:
        if not self._infos:
            return None
        data = self._info(position)
        # Drivers repeat camera_info with every frame: work once per content, which begins after the stamp.
        key = (data[12:], size)
        if key not in self._cameras:
            try:
                self._cameras[key] = to_camera(self._parsed(data), size, self.rectified)
            except CalibrationError as error:
                raise CalibrationError(f"{self._name}: {error}") from error
        return self._cameras[key]


def _base(images: Contents) -> str:
    """The name of the image topic without its transport."""
    return images.topic.removesuffix(_TRANSPORT) if images.kind == COMPRESSED else images.topic


def _chosen(path: Path, topics: dict[str, Contents], topic: str, camera_info: str) -> tuple[Contents, Contents | None]:
    """The image topic and its camera_info, where there is one, by the names that the user gave or left empty."""
    images = _image_topic(path, topics, topic)
    sibling = f"{_base(images).rpartition('/')[0]}/camera_info"
    info = topics.get(camera_info or sibling)
    if info is not None and info.kind == INFO and info.count:
        return images, info
    if camera_info:
        known = ", ".join(name for name, other in topics.items() if other.kind == INFO and other.count) or "none"
        problem = "is not in it" if info is None else f"holds {info.count} messages of {info.kind}"
        raise ConfigError(f"{path}: {camera_info} {problem}; topics with camera_info: {known}")
    return images, None


def _image_topic(path: Path, topics: dict[str, Contents], topic: str) -> Contents:
    images = [name for name, other in topics.items() if other.kind in (IMAGE, COMPRESSED)]
    filled = [name for name in images if topics[name].count]
    if not images:
        raise DataError(f"{path} holds no images ({IMAGE}, {COMPRESSED}), only {', '.join(topics) or 'nothing'}")
    if topic and topic not in topics:
        raise ConfigError(f"{path} holds no topic {topic}; choose one of its image topics: {', '.join(images)}")
    if topic and topic not in images:
        raise ConfigError(
            f"{path}: {topic} is of type {topics[topic].kind}; choose one of the image topics: {', '.join(images)}"
        )
    if not filled or (topic and topic not in filled):
        raise DataError(f"{path}: {topic or ', '.join(images)} holds no message; record it while the camera runs")
    if not topic and len(filled) > 1:
        raise ConfigError(
            f"{path} holds several image topics; choose one by --image-topic (in Python topic=): {', '.join(filled)}"
        )
    return topics[topic or filled[0]]


def _paired(path: Path, images: Contents, partner: Contents) -> NDArray[np.intp]:
    """For each image the position of the partner's, -1 where there is none; raises DataError if there is not one."""
    stamps, others = np.array(images.stamps), np.array(partner.stamps)
    tolerance = np.median(np.diff(np.sort(stamps))) / 2 if len(stamps) > 1 else 0.0
    nearest = _nearest(stamps, others)
    off = np.abs(others[nearest] - stamps)
    close = (off < tolerance) | (off == 0)  # at exactly half a frame either neighbour would do: not synchronised
    fits = close & (_nearest(others, stamps)[nearest] == np.arange(len(stamps)))
    if not fits.any():
        raise DataError(
            f"{path}: no image of {partner.topic} is within {tolerance / 1e6:.1f} ms of one of {images.topic}, the "
            f"nearest is {off.min() / 1e6:.1f} ms away; stereo needs cameras that share a trigger and a clock"
        )
    return np.where(fits, nearest, -1)


def _nearest(values: NDArray[np.int64], references: NDArray[np.int64]) -> NDArray[np.intp]:
    """For each value the index of the nearest reference."""
    order = np.argsort(references, kind="stable")
    ordered = references[order]
    after = np.clip(np.searchsorted(ordered, values), 0, len(ordered) - 1)
    before = np.maximum(after - 1, 0)
    closer = np.abs(ordered[before] - values) < np.abs(ordered[after] - values)
    return np.asarray(order[np.where(closer, before, after)], np.intp)
