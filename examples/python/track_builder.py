#!/usr/bin/env python3
"""Tracks over many images from the ``track_id`` of ``~/correspondences``; reads a recorded bag, without ROS.

python3 track_builder.py BAG [--topic /endomatch/correspondences]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from endomatch_ros.data.clouds import unpack_cloud


class TrackBuilder:
    """Joins the matches of an image stream into tracks.

    It serves both values of the node's parameter ``reference``: with ``previous`` a point's place in the reference is,
    bit for bit, where the image before had found it; with ``keyframe`` it is a place in the keyframe.

    Args:
        inliers_only: leave out matches that contradict the epipolar geometry.

    Attributes:
        tracks: by track id, the track's observations by stamp: ``{track_id: {stamp in ns: (u, v) in px}}``.
    """

    def __init__(self, inliers_only: bool = True) -> None:
        self.inliers_only = inliers_only
        self.tracks: dict[int, dict[int, tuple[float, float]]] = {}

    def push(self, points: NDArray[Any], stamp: int) -> None:
        """Add the matches ``(N,)`` of the image stamped ``stamp`` (ns)."""
        if self.inliers_only:
            points = points[points["inlier"] > 0.5]
        if len(points) == 0:
            return
        reference = stamp - round(float(points["dt"][0]) * 1e9)  # the same for all points of a cloud
        for track, *places in points[["track_id", "u_ref", "v_ref", "u", "v"]].tolist():
            observed = self.tracks.setdefault(track, {})
            observed[reference] = (places[0], places[1])
            observed[stamp] = (places[2], places[3])

    def longer_than(self, images: int) -> dict[int, dict[int, tuple[float, float]]]:
        """The tracks seen in more than ``images`` images: what a bundle adjustment wants."""
        return {track: observed for track, observed in self.tracks.items() if len(observed) > images}


def read_clouds(bag: Path, topic: str) -> Iterator[tuple[int, NDArray[Any]]]:
    """Stamp in ns and points of each cloud on a topic of a rosbag2."""
    with AnyReader([bag], default_typestore=get_typestore(Stores.ROS2_HUMBLE)) as reader:
        connections = [connection for connection in reader.connections if connection.topic == topic]
        for connection, _, data in reader.messages(connections):
            cloud: Any = reader.deserialize(data, connection.msgtype)
            yield cloud.header.stamp.sec * 1_000_000_000 + cloud.header.stamp.nanosec, unpack_cloud(cloud)


def main() -> None:
    """Print how long the tracks of a bag are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bag", type=Path, help="folder of the bag")
    parser.add_argument("--topic", default="/endomatch/correspondences", help="default: %(default)s")
    args = parser.parse_args()
    builder = TrackBuilder()
    images = 0
    for stamp, points in read_clouds(args.bag, args.topic):
        builder.push(points, stamp)
        images += 1
    lengths = np.array([len(observed) for observed in builder.tracks.values()] or [0])
    print(f"{images} clouds, {len(builder.tracks)} tracks")
    print(f"seen in images: median {np.median(lengths):.0f}, longest {lengths.max()}")


if __name__ == "__main__":
    main()
