#!/usr/bin/env python3
"""A camera's path from ``~/relative_pose`` and ``~/correspondences``: monocular odometry in its shortest form.

Each relative pose has a translation of length 1, for one camera alone cannot know its speed. What it can know is how
the steps compare: a point that is tracked over three images has two depths in the middle one, one from each pair, and
their ratio is that of the steps. So the path keeps one scale, unknown but the same, as long as the chain holds.
It drifts, as every chain without loop closure does; a SLAM system would refine it by bundle adjustment.

The node must run with ``reference: previous`` and a calibrated camera. From a recorded bag, without ROS:

python3 odometry.py BAG [--node /endomatch] [--truth TOPIC]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from endomatch_ros.data.clouds import unpack_cloud

Array = NDArray[np.float64]
_FEWEST = 8  # tracks over three images, of which the scale is the median


def pose_matrix(position: Any, orientation: Any) -> Array:
    """``(4, 4)`` reference_from_current of a ``geometry_msgs/Pose``'s two parts (objects with x, y, z and w)."""
    x, y, z, w = (getattr(orientation, axis) for axis in "xyzw")
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = [position.x, position.y, position.z]
    return pose


def rays_by_track(points: NDArray[Any]) -> dict[int, Array]:
    """The inliers' rays ``(3,)`` at unit depth by track id."""
    inliers = points[points["inlier"] > 0.5]
    rays = np.stack([inliers[axis] for axis in "xyz"], axis=1).astype(np.float64)
    return dict(zip(inliers["track_id"].tolist(), rays, strict=True))


def depths(step: Array, rays0: Array, rays1: Array) -> tuple[Array, Array]:
    """Depths ``(N,)`` of points seen along ``rays0`` before and ``rays1`` after a step, ``(N, 3)`` at unit depth.

    Least squares of ``d0 * rays0 = d1 * R rays1 + t`` with ``step`` ``(4, 4)`` reference_from_current.
    """
    turned = rays1 @ step[:3, :3].T
    t = step[:3, 3]
    a, b, c = (np.sum(p * q, axis=1) for p, q in ((rays0, rays0), (rays0, turned), (turned, turned)))
    d, e = rays0 @ t, turned @ t
    determinant = np.maximum(a * c - b * b, 1e-18)
    return (c * d - b * e) / determinant, (b * d - a * e) / determinant


class Odometry:
    """Chains relative poses, with one scale for the whole path.

    Attributes:
        path: ``(4, 4)`` first_from_current poses since the chain began; the first step has length 1.
    """

    def __init__(self) -> None:
        self.path: list[Array] = [np.eye(4)]
        self._rays: list[dict[int, Array]] = []  # of the last two clouds
        self._step: Array | None = None

    def push(self, points: NDArray[Any], step: Array | None) -> bool:
        """The next cloud and its relative pose ``(4, 4)`` reference_from_current, None if there was none.

        Returns:
            False where the chain broke (no pose, or too few common tracks for the scale) and begins anew with this
            step; so it is for the first two clouds, since a step's scale needs rays from three images.
        """
        rays = rays_by_track(points)
        scaled = self._scaled(rays, step)
        chained = scaled is not None
        if not chained:  # the next step sets a new scale
            self.path, scaled = [np.eye(4)], step
        if scaled is not None:
            self.path.append(self.path[-1] @ scaled)
        self._rays, self._step = [*self._rays[-1:], rays], scaled
        return chained

    def _scaled(self, rays: dict[int, Array], step: Array | None) -> Array | None:
        """The step in the path's scale."""
        if step is None or self._step is None or len(self._rays) < 2:
            return None
        common = [track for track in rays if all(track in known for known in self._rays)]
        if len(common) < _FEWEST:
            return None
        before, middle, after = (np.array([known[track] for track in common]) for known in (*self._rays, rays))
        _, in_path = depths(self._step, before, middle)
        in_step, _ = depths(step, middle, after)
        usable = (in_path > 0) & (in_step > 0)
        if usable.sum() < _FEWEST:
            return None
        scaled = step.copy()
        scaled[:3, 3] *= np.median(in_path[usable] / in_step[usable])
        return scaled


def read_messages(bag: Path, topic: str) -> dict[int, Any]:
    """The messages of a topic of a rosbag2 by their stamp in ns."""
    found = {}
    with AnyReader([bag], default_typestore=get_typestore(Stores.ROS2_HUMBLE)) as reader:
        connections = [connection for connection in reader.connections if connection.topic == topic]
        for connection, _, data in reader.messages(connections) if connections else ():
            message: Any = reader.deserialize(data, connection.msgtype)
            found[message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec] = message
    return found


def deviation(path: Array, truth: Array) -> tuple[float, float]:
    """Root mean square distance of two paths ``(N, 4, 4)`` after the best scale, and the length of the true one."""
    first = np.linalg.inv(truth[0])
    found, true = path[:, :3, 3], (first @ truth)[:, :3, 3]
    scale = np.sum(found * true) / np.sum(found * found)
    away = np.linalg.norm(scale * found - true, axis=1)
    return float(np.sqrt(np.mean(away**2))), float(np.linalg.norm(np.diff(true, axis=0), axis=1).sum())


def main() -> None:
    """Print the longest chain of a bag and, with the true poses, how far it is off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bag", type=Path, help="folder of the bag")
    parser.add_argument("--node", default="/endomatch", help="default: %(default)s")
    parser.add_argument("--truth", default="", help="topic with the true poses (PoseStamped, world_from_camera)")
    args = parser.parse_args()
    poses = read_messages(args.bag, f"{args.node}/relative_pose")
    odometry, longest, stamps = Odometry(), [np.eye(4)], [0]
    chain: list[int] = []
    for stamp, cloud in read_messages(args.bag, f"{args.node}/correspondences").items():
        points, pose = unpack_cloud(cloud), poses.get(stamp)
        step = None if pose is None else pose_matrix(pose.pose.position, pose.pose.orientation)
        if not odometry.push(points, step) and len(points):
            chain = [stamp - round(float(points["dt"][0]) * 1e9)]
        chain.append(stamp)
        if len(odometry.path) > len(longest):
            longest, stamps = list(odometry.path), list(chain)
    print(f"longest chain: {len(longest)} images")
    truth = read_messages(args.bag, args.truth) if args.truth else {}
    if truth and len(longest) > 1:
        known = np.array(list(truth))
        nearest = [truth[int(known[np.abs(known - stamp).argmin()])].pose for stamp in stamps]
        true = np.array([pose_matrix(pose.position, pose.orientation) for pose in nearest])
        error, length = deviation(np.array(longest), true)
        print(f"{1e3 * error:.2f} mm off (rms, best scale) on a path of {1e3 * length:.0f} mm")


if __name__ == "__main__":
    main()
