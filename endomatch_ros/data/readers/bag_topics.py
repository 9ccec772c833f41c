"""What a rosbag2 holds of a topic, and its messages by position; on rosbags, without ROS."""

from __future__ import annotations

import os
import struct
from bisect import bisect_left
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore

from endomatch_ros.errors import ConfigError, DataError

IMAGE, COMPRESSED, INFO = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/CameraInfo"
# These three types are the same in every ROS 2 release, so old bags without message definitions are read as well.
_TYPES = get_typestore(Stores.ROS2_JAZZY)
_REPAIR = (
    "copy it again from where it was recorded, or repair it: `ros2 bag reindex` writes a missing metadata.yaml, "
    "`mcap recover` saves what a cut .mcap file holds"
)
# Readers that a forked process got from its parent. To use one would move the parent's file position, to close one
# would delete the parent's unpacked copy of a compressed bag; so they stay, untouched.
_INHERITED: list[tuple[Reader, Iterator[bytes] | None]] = []


@dataclass
class Contents:
    """What a bag holds of one topic, in the order of arrival.

    Attributes:
        topic: its name.
        kind: its message type, such as ``sensor_msgs/msg/Image``.
        count: the number of messages by the bag's own account.
        arrivals: when each message was received, ns, ascending.
        stamps: each message's ``header.stamp``, ns; the arrival where that is zero.
        data: the serialised messages of topics that were asked to be kept.
    """

    topic: str
    kind: str
    count: int
    arrivals: list[int] = field(default_factory=list)
    stamps: list[int] = field(default_factory=list)
    data: list[bytes] = field(default_factory=list)


def list_topics(path: Path) -> dict[str, Contents]:
    """The bag's topics by name, without their messages; raises :class:`DataError` where it cannot be opened."""
    with _damage(path), _open(path) as reader:
        topics: dict[str, Contents] = {}
        for connection in reader.connections:  # several where publishers differ in their QoS
            topic = topics.setdefault(connection.topic, Contents(connection.topic, connection.msgtype, 0))
            if topic.kind != connection.msgtype:
                raise DataError(
                    f"{path}: {topic.topic} was recorded as {topic.kind} and as {connection.msgtype}; "
                    "record the bag again with one of them"
                )
            topic.count += connection.msgcount
    return topics


def read_contents(path: Path, topics: Collection[Contents], keep: Collection[str] = ()) -> None:
    """Read a bag once and fill in when the topics' messages came, and the messages themselves of topics in ``keep``.

    Raises:
        DataError: the bag is damaged, or holds less of a topic than it says.
    """
    wanted = {topic.topic: topic for topic in topics}
    with _damage(path), _open(path) as reader:
        for connection, arrival, data in reader.messages([c for c in reader.connections if c.topic in wanted]):
            topic = wanted[connection.topic]
            if topic.arrivals and arrival < topic.arrivals[-1]:
                raise DataError(f"the files of {path} overlap in time; give the .mcap or .db3 files one by one")
            topic.arrivals.append(arrival)
            topic.stamps.append(_stamp(data) or arrival)
            if connection.topic in keep:
                topic.data.append(data)
    for topic in wanted.values():
        if len(topic.arrivals) < topic.count:
            raise DataError(
                f"{path} says that it holds {topic.count} messages of {topic.topic}, but {len(topic.arrivals)} can be "
                f"read; {_REPAIR}"
            )


def parse(data: bytes, kind: str) -> Any:
    """The message of serialised data; raises ValueError where it is damaged."""
    try:
        return _TYPES.deserialize_cdr(data, kind)
    except Exception as error:  # what rosbags raises on damaged data depends on where it stumbles
        raise ValueError(f"the message of {len(data)} bytes is no {kind}: {error}") from error


class Track:
    """A topic's messages by position. Not for several threads at once; forked processes each open the bag themselves.

    Positions in a row are read from one open iterator, others are looked up by their time of arrival.

    Args:
        path: the bag.
        contents: the topic's, filled in.
    """

    def __init__(self, path: Path, contents: Contents) -> None:
        self.path = path
        self.contents = contents
        self._process = 0
        self._reader: Reader | None = None
        self._stream: Iterator[bytes] | None = None
        self._next = 0

    def read(self, position: int) -> bytes:
        """The serialised message at ``position``; raises :class:`DataError` if the bag has changed or gone."""
        if self._reader is not None and self._process != os.getpid():
            _INHERITED.append((self._reader, self._stream))
            self._reader = self._stream = None
        with _damage(self.path):
            in_a_row = position == self._next
            messages = (in_a_row and self._stream) or self._messages(position, alone=not in_a_row)
            self._stream, self._next = None, position + 1
            data = next(messages, None)
            if data is None:
                raise DataError(f"{self.path} has changed while it was read; open it again")
            self._stream = messages if in_a_row else None
        return data

    def close(self) -> None:
        """Close the bag's files; the next :meth:`read` opens them again."""
        if self._reader is not None and self._process == os.getpid():
            self._reader.close()
        self._reader = self._stream = None

    def __getstate__(self) -> dict[str, Any]:
        """Open files stay behind when the track is sent to another process."""
        return {**self.__dict__, "_reader": None, "_stream": None}

    def _messages(self, position: int, alone: bool) -> Iterator[bytes]:
        """The message at ``position`` and, unless ``alone``, those after it."""
        if self._reader is None:
            reader = _open(self.path)
            reader.open()
            self._reader, self._process = reader, os.getpid()
        connections = [c for c in self._reader.connections if c.topic == self.contents.topic]
        start = self.contents.arrivals[position]
        same = position - bisect_left(self.contents.arrivals, start)  # messages before it that came in the same ns
        messages = self._reader.messages(connections, start, start + 1 if alone else None)
        return (data for _, _, data in islice(messages, same, None))


def _open(path: Path) -> Reader:
    """A reader, not open yet, of a bag's folder or a single file; raises where there is none."""
    if not path.exists():
        raise DataError(f"there is no bag {path}; check the path")
    if path.suffix == ".bag":
        raise ConfigError(
            f"{path} is a ROS 1 bag; convert it: rosbags-convert --src {path} --dst {path.with_suffix('')}"
        )
    if path.is_dir() and not (path / "metadata.yaml").is_file():
        raise DataError(
            f"{path} holds no metadata.yaml, so it is no rosbag2 or its recording was cut off; give the .mcap or .db3 "
            "file itself, or write the metadata with `ros2 bag reindex`"
        )
    if path.is_file() and path.suffix not in (".mcap", ".db3"):
        raise ConfigError(f"{path} is no rosbag2; give its folder, or a single .mcap or .db3 file")
    return Reader(path)


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turn what rosbags raises on a damaged bag into :class:`DataError`."""
    try:
        yield
    except (DataError, ConfigError):
        raise
    except Exception as error:  # what rosbags raises on damaged files depends on where it stumbles
        raise DataError(f"{path} is damaged or incomplete ({type(error).__name__}: {error}); {_REPAIR}") from error


def _stamp(data: bytes) -> int:
    """``header.stamp`` in ns of a serialised message that begins with its header; 0 if it is too short for one."""
    if len(data) < 12:
        return 0
    # Four bytes of encapsulation, of which the second tells the byte order, then seconds and nanoseconds.
    seconds, nanoseconds = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)
