# ruff: noqa: E402
"""Help for tests on real DDS: an isolated domain, the node in this process, a client, bounded waits, a fake matcher.

Import it before anything initialises rclpy: the environment is read when the first participant is made.
"""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import time
from dataclasses import dataclass

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed")

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

from endomatch_ros.errors import ConfigError
from endomatch_ros.matching.config import MatcherConfig
from endomatch_ros.matching.preparation import prepare
from endomatch_ros.matching.types import Matches
from endomatch_ros.ros.launching import dds
from endomatch_ros.ros.messages.clouds import ns_to_stamp, stamp_to_ns, unpack_values
from endomatch_ros.ros.messages.images import to_message

DOMAIN = int(os.environ["ROS_DOMAIN_ID"])  # of this test run alone, see conftest.py
dds.prepare()

PATIENCE = 20.0  # seconds until a condition that should hold has failed


def wait_until(condition, what: str, patience: float = PATIENCE):
    """Poll until ``condition()`` is true; the value it gave."""
    end = time.monotonic() + patience
    pause = threading.Event()
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        pause.wait(0.01)
    pytest.fail(f"not within {patience:g} s: {what}")


@dataclass(frozen=True)
class FakeInfo:
    name: str = "fake"
    source: str = "test"
    sha256: str = "0" * 64
    parameters: int = 0
    device: str = "cpu"


class FakeMatcher:
    """Stands in for the matcher where a test is about the ROS side."""

    def __init__(self):
        self.config, self.info = MatcherConfig(), FakeInfo()
        self.warm = False
        self.batches = []
        self.slow = {}  # seconds that a stage takes

    def configure(self, **changes):
        self.config = self.changed(**changes)

    def changed(self, **changes):
        config = self.config.changed(**changes)
        if config.needs_dense:
            raise ConfigError("this model has no head for dense fields")
        return config

    def warmup(self, size):
        self.warm = True

    def prepare(self, image, mask=None, roi=None, auto=None):
        prepare(image, mask, roi, auto, self.config.resolution, 14)  # for what it refuses
        self.spend("prepare")
        return image

    def describe(self, frames):
        self.batches.append(len(frames))
        self.spend("network")
        return list(frames)

    def spend(self, stage):
        """Take as long as the stage should; in milliseconds."""
        start = time.perf_counter()
        time.sleep(self.slow.get(stage, 0.0))
        return 1e3 * (time.perf_counter() - start)


class FakeStream:
    """Matches a fixed rigid scene seen from two fixed poses; may be held up, may be made to fail."""

    def __init__(self, matcher):
        self.matcher = matcher
        self.reference = "previous"
        self.track_lengths = np.array([2, 2, 3, 9])
        self.gate = threading.Event()  # cleared: the next push waits
        self.gate.set()
        self.entered = self.done = 0
        self.fail_with: Exception | None = None
        self.previous = self.newest = None
        self.count, self.coverage = 60, 0.5
        self.dropped = {}
        self.views = None  # two arrays of points; None: those of the two poses
        self.stages = ["matching", "refinement"]  # that are reported

    def reset(self):
        self.previous = self.newest = None

    def set_keyframe(self):
        self.previous = self.newest
        return self.newest is not None

    def push_features(self, features, stamp=None):
        self.entered += 1
        assert self.gate.wait(PATIENCE)
        try:
            return self._match(features, stamp)
        finally:
            self.done += 1

    def match_newest(self, features, stamp=None):
        return self._answer(features, self.newest, stamp)

    def _match(self, image, stamp):
        if self.fail_with is not None:
            error, self.fail_with = self.fail_with, None
            raise error
        before, self.newest = self.previous, stamp
        if before is None or self.reference == "previous":
            self.previous = stamp
        return None if before is None else self._answer(image, before, stamp)

    def _answer(self, image, before, stamp):
        height, width = image.shape[:2]
        points0, points1 = self.views or two_views(self.count, width, height)
        count = len(points0)
        return Matches(
            points0, points1, np.full(count, 0.9, np.float32), np.arange(count, dtype=np.uint32),
            (width, height), (width, height), before, stamp, self.coverage,
            {stage: self.matcher.spend(stage) for stage in self.stages}, self.dropped,
        )  # fmt: skip


def pinhole(width, height):
    return np.array([[width, 0, (width - 1) / 2], [0, width, (height - 1) / 2], [0, 0, 1.0]])


TRUE_POSE = np.array([[1, 0, 0, 0.3], [0, 1, 0, 0.1], [0, 0, 1, -0.2], [0, 0, 0, 1.0]])  # camera1_from_camera0


def two_views(count, width, height):
    rng = np.random.default_rng(3)
    world = rng.uniform((-1, -0.7, 3), (1, 0.7, 6), (count, 3))
    points = []
    for pose in (np.eye(4), TRUE_POSE):
        seen = (world @ pose[:3, :3].T + pose[:3, 3]) @ pinhole(width, height).T
        points.append((seen[:, :2] / seen[:, 2:]).astype(np.float32))
    return points


def texture(width=160, height=120, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


class Client:
    """A node of the test's own: publishes a camera's images, keeps what the tested node publishes for it."""

    def __init__(self, context, name="endomatch", camera="", **options):
        self.node = Node("client", context=context, **options)
        qos = QoSProfile(depth=10)
        self.camera = camera
        folder = f"{camera}/" if camera else ""
        self.images = self.node.create_publisher(Image, f"{folder}image_raw", qos)
        self.jpegs = self.node.create_publisher(CompressedImage, f"{folder}image_raw/compressed", qos)
        self.infos = self.node.create_publisher(CameraInfo, f"{folder}camera_info", qos)
        self.clouds, self.errors, self.poses, self.pictures, self.reports = [], [], [], [], []
        self.uncertain_poses, self.points = [], []
        for kind, topic, into in (
            (PointCloud2, f"{name}/{folder}correspondences", self.clouds),
            (DiagnosticArray, f"{name}/{folder}epipolar_error", self.errors),
            (PoseStamped, f"{name}/{folder}relative_pose", self.poses),
            (PoseWithCovarianceStamped, f"{name}/{folder}relative_pose_with_covariance", self.uncertain_poses),
            (PointCloud2, f"{name}/{folder}points", self.points),
            (DiagnosticArray, "/diagnostics", self.reports),
        ):
            self.node.create_subscription(kind, topic, into.append, 50)
        self.services = {}
        self.name, self.folder = name, folder
        self.clock = 1_000_000_000

    def send(self, image=None, stamp=None, **changes):
        """Publish an image, 0.1 s after the last unless told; the stamp in ns."""
        self.clock = self.clock + 100_000_000 if stamp is None else stamp
        message = to_message(texture() if image is None else image, ns_to_stamp(self.clock), "scope_optical")
        for key, value in changes.items():
            setattr(message, key, value)
        self.images.publish(message)
        return self.clock

    def wait_stamped(self, messages, stamp):
        """Wait for the message with this stamp."""
        return wait_until(
            lambda: next((m for m in messages if stamp_to_ns(m.header.stamp) == stamp), None),
            f"an answer to the image stamped {stamp}",
        )

    def answer(self, stamp):
        """Wait for the epipolar status of the image with this stamp."""
        return self.wait_stamped(self.errors, stamp).status[0]

    def watch_pictures(self):
        return self.node.create_subscription(Image, f"{self.name}/{self.folder}visualization", self.pictures.append, 10)

    def call(self, kind, service, request):
        # One client a service, discovered once: what the graph says later (another node of the name that is going
        # down counts, too) does not matter to a client that is matched.
        if service not in self.services:
            client = self.node.create_client(kind, service)
            assert client.wait_for_service(PATIENCE), f"{service}: {self.node.count_services(service)} in the graph"
            self.services[service] = client
        client = self.services[service]
        future = client.call_async(request)
        wait_until(future.done, f"an answer of {service}")
        return future.result()

    def diagnostics(self, part):
        """The newest status whose name ends with ``part``, and its values; None before the first."""
        for report in reversed(self.reports):
            for status in report.status:
                if status.name.endswith(part):
                    return status, unpack_values(status)
        return None

    def wait_diagnostics(self, part, condition, what):
        """Wait until the newest status of ``part`` meets ``condition(status, values)``."""
        return wait_until(lambda: (found := self.diagnostics(part)) and condition(*found) and found, what)


class Bench:
    """The node with a fake or real matcher, and a client, each on an executor thread of its own."""

    def __init__(
        self, parameters=None, cli_args=(), load=None, make_stream=None, wait_active=True, clients=("",), **options
    ):
        from endomatch_ros.ros.node import EndomatchNode

        self.context = rclpy.Context()
        self.context.init(args=[], domain_id=DOMAIN)
        self.streams = []
        self.loaded = []
        overrides = [Parameter(key, value=value) for key, value in (parameters or {}).items()]
        options |= {"load": load or self._load, "make_stream": make_stream or self._make_stream}
        options |= {"cli_args": ["--ros-args", *cli_args]} if cli_args else {}
        try:
            self.node = EndomatchNode(context=self.context, parameter_overrides=overrides, **options)
        except BaseException:
            self.context.try_shutdown()
            raise
        self.clients = {camera: Client(self.context, camera=camera) for camera in clients}
        self._executors, self._threads = [], []
        for node in (self.node, *(client.node for client in self.clients.values())):
            executor = SingleThreadedExecutor(context=self.context)
            executor.add_node(node)
            thread = threading.Thread(target=self._spin, args=(executor,), daemon=True)
            thread.start()
            self._executors.append(executor)
            self._threads.append(thread)
        if wait_active:
            self.wait_state("active")
            self.wait_connected()

    def _load(self, settings):
        self.loaded.append((settings.model, settings.device))
        return FakeMatcher()

    def _make_stream(self, matcher):
        self.streams.append(FakeStream(matcher))
        return self.streams[-1]

    @property
    def client(self):
        """The first client."""
        return next(iter(self.clients.values()))

    @property
    def stream(self):
        """The newest stream."""
        return self.streams[-1]

    @staticmethod
    def _spin(executor):
        with contextlib.suppress(rclpy.executors.ExternalShutdownException, rclpy.executors.ShutdownException):
            executor.spin()

    def counts(self, camera=""):
        """What the node has counted so far for a camera."""
        return self.node._statistics[camera].snapshot(0)

    @property
    def state(self):
        return self.node._state_machine.current_state[1]

    def wait_state(self, state):
        wait_until(lambda: self.state == state, f"state {state}, it is {self.state}")

    def wait_connected(self):
        def connected():
            session = self.node._session
            return (
                session is not None
                and all(
                    max(client.images.get_subscription_count(), client.jpegs.get_subscription_count()) > 0
                    for camera, client in self.clients.items()
                    if camera in session.channels
                )
                and all(
                    publisher.get_subscription_count() > 0
                    for source, outputs in session._outputs.items()
                    if source in self.clients
                    for publisher in (outputs._error, outputs._correspondences)
                )
            )

        wait_until(connected, "discovery")

    def settled(self):
        """Send a frame and wait until the fake matcher is through with it; its stamp."""
        before = self.stream.done
        stamp = self.client.send()
        wait_until(lambda: self.stream.done > before, "the worker to take the frame")
        return stamp

    def matched(self):
        """A first frame (the reference, if the stream starts), then one that is answered; its stamp and status."""
        self.settled()
        stamp = self.client.send()
        return stamp, self.client.answer(stamp)

    def close(self):
        for stream in self.streams:
            stream.gate.set()
        self.node._release()
        for executor in self._executors:
            executor.shutdown(timeout_sec=5)
        for thread in self._threads:
            thread.join(5)
        for client in self.clients.values():
            client.node.destroy_node()
        self.node.destroy_node()
        self.context.try_shutdown()
        # rclpy frees a lifecycle node's own services, and with them its DDS participant, only with the garbage. Left to
        # chance, that happens in the middle of a later test, whose services then come and go with them.
        del self.clients, self.node, self._executors, self._threads
        gc.collect()


@contextlib.contextmanager
def bench(*args, **options):
    """A running :class:`Bench`, closed at the end."""
    running = Bench(*args, **options)
    try:
        yield running
    finally:
        running.close()


RELIABLE, BEST_EFFORT = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT
