"""Bags of cameras, written by rosbags with another release's message definitions than the reader has."""

from __future__ import annotations

import numpy as np
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

STORE = get_typestore(Stores.ROS2_HUMBLE)
MCAP, SQLITE = StoragePlugin.MCAP, StoragePlugin.SQLITE3
WIDTH, HEIGHT = 64, 48
SIZE = (WIDTH, HEIGHT)
START, PERIOD = 1_700_000_000_000_000_000, 40_000_000
RAW, INFO = "/scope/image_raw", "/scope/camera_info"


def make(kind, **fields):
    return STORE.types[kind](**fields)


def header(stamp):
    time = make("builtin_interfaces/msg/Time", sec=stamp // 10**9, nanosec=stamp % 10**9)
    return make("std_msgs/msg/Header", stamp=time, frame_id="optical")


def raw_message(stamp, rows, encoding="rgb8", padding=0, width=WIDTH):
    rows = np.ascontiguousarray(rows).reshape(len(rows), -1)
    rows = np.hstack([rows, np.full((len(rows), padding), 201, np.uint8)])
    fields = {"height": len(rows), "width": width, "encoding": encoding, "is_bigendian": 0, "step": rows.shape[1]}
    return make("sensor_msgs/msg/Image", header=header(stamp), data=rows.ravel(), **fields)


def compressed_message(stamp, data, name="jpeg"):
    return make("sensor_msgs/msg/CompressedImage", header=header(stamp), format=name, data=np.asarray(data).ravel())


def info_message(stamp, focal=80.0, translation=0.0, size=SIZE):
    k = np.array([focal, 0, 31.5, 0, focal, 23.5, 0, 0, 1])
    p = np.array([focal + 5, 0, 30.0, translation, 0, focal + 5, 24.0, 0, 0, 0, 1, 0])
    roi = make("sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    fields = {"width": size[0], "height": size[1], "distortion_model": "plumb_bob", "binning_x": 0, "binning_y": 0}
    d = np.array([0.1, -0.02, 0.001, 0.002, 0.0])
    return make(
        "sensor_msgs/msg/CameraInfo", header=header(stamp), k=k, d=d, r=np.eye(3).ravel(), p=p, roi=roi, **fields
    )


def text_message(text="hello"):
    return make("std_msgs/msg/String", data=text)


def picture(number):
    return np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def stamp_of(number):
    return START + number * PERIOD


def write(folder, messages, plugin=MCAP, compression=CompressionMode.NONE, empty=()):
    """A bag of (topic, message or (kind, serialised bytes), arrival in ns); ``empty``: (topic, kind) without any."""
    writer = Writer(folder, version=9, storage_plugin=plugin)
    writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        connections = {topic: writer.add_connection(topic, kind, typestore=STORE) for topic, kind in empty}
        for topic, message, arrival in messages:
            kind = message[0] if isinstance(message, tuple) else message.__msgtype__
            data = message[1] if isinstance(message, tuple) else bytes(STORE.serialize_cdr(message, kind))
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
            writer.write(connections[topic], arrival, data)
    return folder


def camera_messages(name="scope", numbers=range(6), late=0, info=True, translation=0.0, seed=0):
    """Images and camera_info as a driver sends them: in pairs of one stamp, the info after its image."""
    for number in numbers:
        stamp, arrival = stamp_of(number) + late, stamp_of(number) + 5_000_000
        yield f"/{name}/image_raw", raw_message(stamp, picture(number + seed)), arrival
        if info:
            yield f"/{name}/camera_info", info_message(stamp, translation=translation), arrival + 1_000_000


def in_order(*streams):
    return sorted((entry for stream in streams for entry in stream), key=lambda entry: entry[2])
