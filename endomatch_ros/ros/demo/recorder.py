"""Writes topics into a rosbag2 (mcap) as they come, byte for byte, without rosbag2 itself; and reads them back."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from rclpy.node import Node
from rclpy.qos import QoSProfile
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

# The message types used here are the same in Jazzy and Kilted, and hash alike.
_STORE = Stores.ROS2_JAZZY
_BAG_VERSION: Literal[9] = 9


class Recorder(Node):
    """Subscribes reliably to topics and writes what arrives, with the time of arrival, into a bag.

    Args:
        folder: the bag's folder, which must not exist.
        topics: message class by topic name.

    Attributes:
        counts: messages so far by topic.
        arrivals: ``time.monotonic()`` of the last message by topic, at first that of the start.
    """

    def __init__(self, folder: Path, topics: Mapping[str, type[Any]], **options: Any) -> None:
        super().__init__("endomatch_recorder", **options)
        self.counts = dict.fromkeys(topics, 0)
        self.arrivals = dict.fromkeys(topics, time.monotonic())
        store = get_typestore(_STORE)
        self._writer = Writer(folder, version=_BAG_VERSION, storage_plugin=StoragePlugin.MCAP)
        self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._writer.open()
        self._connections = {}
        for topic, kind in topics.items():
            name = f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"
            self._connections[topic] = self._writer.add_connection(topic, name, typestore=store)
            # Raw: the message stays as it was on the wire, and large images cost nothing to take apart.
            self.create_subscription(kind, topic, partial(self._on_message, topic), QoSProfile(depth=100), raw=True)

    def _on_message(self, topic: str, data: bytes) -> None:
        self._writer.write(self._connections[topic], time.time_ns(), data)
        self.counts[topic] += 1
        self.arrivals[topic] = time.monotonic()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        self.destroy_node()


def read_bag(folder: Path, *topics: str) -> Iterator[tuple[str, int, Any]]:
    """``(topic, time of arrival in ns, message)`` in the order of arrival; no topics named: all."""
    with AnyReader([folder], default_typestore=get_typestore(_STORE)) as reader:
        wanted = [c for c in reader.connections if not topics or c.topic in topics]
        for connection, arrival, data in reader.messages(connections=wanted):
            yield connection.topic, arrival, reader.deserialize(data, connection.msgtype)
