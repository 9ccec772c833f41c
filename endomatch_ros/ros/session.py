"""What exists while the node is configured: the cameras' channels, the worker, the publishers."""

from __future__ import annotations

import gc
import sys
import time
import traceback
from collections.abc import Mapping
from typing import Any

from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CompressedImage, Image

from endomatch_ros.errors import EndomatchError, ImageError
from endomatch_ros.matching.features import FrameFeatures
from endomatch_ros.matching.interface import FrameMatcher
from endomatch_ros.ros import parameters
from endomatch_ros.ros.channel import Channel
from endomatch_ros.ros.messages.clouds import NANOSECONDS, stamp_to_ns
from endomatch_ros.ros.messages.images import ENCODINGS
from endomatch_ros.ros.monitoring.causes import Drop, Reset
from endomatch_ros.ros.monitoring.stages import Stage, StageTimes
from endomatch_ros.ros.monitoring.statistics import Statistics
from endomatch_ros.ros.outputs import Outputs
from endomatch_ros.ros.parameters.table import STEREO
from endomatch_ros.ros.pipeline import Frame, Job, Pair, Pipeline
from endomatch_ros.ros.stereo import StereoMatching
from endomatch_ros.ros.sync import FrameBuffer
from endomatch_ros.ros.worker import Worker

_SAME_CLOCK_S = 60.0  # a stamp further from the node's clock than this was not taken on it


class Session:
    """Images in, answers out, for one loaded matcher and all cameras.

    Callbacks run on the executor's thread and only hand over; one worker thread matches and publishes. Frames of one
    moment go through the network together.

    Args:
        node: whose topics and parameters are used.
        matcher: just loaded; each camera has one of its own settings, which shares its model.
        statistics: counts what happens, by camera; with key ``stereo`` for the pairs of a stereo mode.

    Attributes:
        channels: by camera.
        buffer: the frames that wait.
        hardware_id: names model and device.
        active_since: ``time.monotonic()`` of the activation, None while inactive.
        enabled: False: frames are counted and ignored.

    Raises:
        ConfigError: a value that the matcher refuses, a mask file that cannot be read.
        rclpy.qos_overriding_options.InvalidQosOverridesError: a QoS override of unknown value.
    """

    def __init__(self, node: LifecycleNode, matcher: FrameMatcher, statistics: Mapping[str, Statistics]) -> None:
        self.matcher = matcher
        self.hardware_id = f"{matcher.info.name} on {matcher.info.device}"
        self.active_since: float | None = None
        self.enabled = True
        self._node, self._statistics = node, statistics
        self._log = node.get_logger()
        self._mode = node.get_parameter("mode").value
        self.channels: dict[str, Channel] = {}
        self._outputs: dict[str, Outputs] = {}
        self._stereo = StereoMatching(self._warn) if STEREO in statistics else None
        cameras = [name for name in statistics if name != STEREO]
        self.buffer: FrameBuffer[Job] = FrameBuffer(cameras, strict=self._mode == STEREO)
        self._worker = Worker(self.buffer, self._process, self._fail_all, self._drop)
        try:
            for camera in cameras:
                self._open(camera)
            if self._stereo is not None:
                self._outputs[STEREO] = Outputs(node, self.hardware_id, STEREO, stereo=True)
        except Exception:
            self.close()
            raise

    def _open(self, camera: str) -> None:
        settings, statistics = parameters.read(self._node, camera), self._statistics[camera]
        pipeline = Pipeline(self.matcher, settings, statistics, self._warn)
        if self._mode != STEREO:
            self._outputs[camera] = Outputs(self._node, self.hardware_id, camera)
        compressed = settings.image_transport == "compressed"
        self.channels[camera] = Channel(self._node, camera, compressed, pipeline, statistics, self._receive)

    @property
    def in_force(self) -> FrameMatcher:
        """The matcher with the settings in force; but for mask and region they are the same for all cameras."""
        first = next(iter(self.channels.values()))
        return first.pipeline.matcher

    def activate(self) -> None:
        """Begin to match, from the next frame on."""
        self.request_reset(Reset.ACTIVATED)
        self.active_since = time.monotonic()

    def deactivate(self) -> None:
        """Stop matching; waiting frames are dropped."""
        self.active_since = None
        for camera in self._worker.clear():
            self._drop(camera, Drop.NOT_ACTIVE)

    def close(self) -> None:
        """End the worker, close the topics, free the device's memory."""
        self.active_since = None
        for channel in self.channels.values():
            channel.close()
        if not self._worker.stop():
            self._log.warning("the worker is still busy with a frame and is left behind")
        for outputs in self._outputs.values():
            outputs.destroy()
        self.channels = {}
        del self.matcher
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def calibration(self, source: str) -> str:
        """The calibration of a camera or of the stereo pair in use, or why there is none, for the operator."""
        if self._stereo is not None and source == STEREO:
            return self._stereo.calibration
        return self.channels[source].calibration

    def request_reset(self, cause: Reset) -> None:
        """Start again from the next frame of each camera."""
        for channel in self.channels.values():
            channel.pipeline.request_reset(cause)

    def request_keyframe(self) -> None:
        """Make each camera's newest frame its keyframe."""
        for channel in self.channels.values():
            channel.pipeline.request_keyframe()

    def validate(self, changes: Mapping[str, Any]) -> None:
        """Raise ConfigError if the matcher would refuse changed parameters."""
        for camera, channel in self.channels.items():
            channel.pipeline.validate(parameters.changed(self._node, camera, changes))

    # The executor's thread

    def _receive(self, camera: str, message: Image | CompressedImage) -> None:
        now = time.monotonic()
        channel = self.channels[camera]
        channel.statistics.arrived(now)
        if self.active_since is None:
            self._drop(camera, Drop.NOT_ACTIVE)
        elif not self.enabled:
            self._drop(camera, Drop.DISABLED)
        else:
            settings = parameters.read(self._node, camera)
            job = Job(message, channel.info, now, settings)
            tolerance = round(settings.sync_tolerance_s * NANOSECONDS)
            self._worker.submit(camera, job, stamp_to_ns(job.stamp), tolerance, settings.batch_wait_s)

    def _warn(self, message: str) -> None:
        self._log.warning(message)

    # Either thread

    def _drop(self, camera: str, cause: Drop) -> None:
        self._statistics[camera].dropped(cause)

    # The worker's thread

    def _process(self, jobs: dict[str, Job]) -> None:
        taken_at = time.monotonic()
        for job in jobs.values():
            job.times[Stage.WAIT] = 1e3 * (taken_at - job.received)
        frames = {camera: frame for camera, job in jobs.items() if (frame := self._read(camera, job)) is not None}
        if not frames:
            return
        shared = StageTimes()
        try:
            with shared.measure(Stage.NETWORK):
                features = self.matcher.describe([frame.prepared for frame in frames.values()])
        except Exception as error:  # of those that could be read: the others have failed already
            self._fail_all({camera: frame.job for camera, frame in frames.items()}, error)
            return
        for frame in frames.values():
            frame.job.times.update(shared)
        described = dict(zip(frames, features, strict=True))
        taken = [self._match(camera, frame, described[camera]) for camera, frame in frames.items()]
        # Where the first camera's stream did not take its frame, its newest one is of another moment.
        if self._stereo is not None and len(frames) == len(self.channels) and all(taken):
            self._match_stereo(self._stereo, frames, described)

    def _read(self, camera: str, job: Job) -> Frame | None:
        try:
            return self.channels[camera].pipeline.open(job)
        except Exception as error:
            self._fail(camera, job, error)
            return None

    def _match(self, camera: str, frame: Frame, features: FrameFeatures) -> bool:
        pipeline = self.channels[camera].pipeline
        try:
            if self._mode == STEREO:
                pipeline.hold(frame, features)
            elif (pair := pipeline.match(frame, features)) is not None:
                self._publish(camera, pair, frame.job)
        except Exception as error:
            self._fail(camera, frame.job, error)
            return False
        return True

    def _match_stereo(
        self, stereo: StereoMatching, frames: dict[str, Frame], described: dict[str, FrameFeatures]
    ) -> None:
        first, second = self.channels
        reference, current = frames[first], frames[second]
        self._statistics[STEREO].arrived(time.monotonic())
        try:
            pair = stereo.match(reference, current, described[second], self.channels[first].pipeline.stream)
            if self._publish(STEREO, pair, current.job):
                self._outputs[STEREO].publish_points(pair, reference)
        except Exception as error:
            self._fail(STEREO, current.job, error)

    def _publish(self, camera: str, pair: Pair, job: Job) -> bool:
        if self.active_since is None:
            self._drop(camera, Drop.NOT_ACTIVE)
            return False
        with pair.times.measure(Stage.PUBLISH):
            self._outputs[camera].publish_pair(pair, job)
        self._statistics[camera].left_out(pair.matches.dropped)
        age = (self._node.get_clock().now().nanoseconds - stamp_to_ns(job.stamp)) / 1e9
        latency = time.monotonic() - job.received
        self._statistics[camera].published(latency, age if 0 <= age < _SAME_CLOCK_S else None, pair.times)
        return True

    def _fail_all(self, jobs: dict[str, Job], error: Exception) -> None:
        for camera, job in jobs.items():
            self._fail(camera, job, error)

    def _fail(self, camera: str, job: Job, error: Exception) -> None:
        if not self._node.context.ok():
            return  # going down: the publishers are gone
        cause = Drop.MATCHING_FAILED
        if isinstance(error, ImageError):
            known = not isinstance(job.message, Image) or job.message.encoding in ENCODINGS
            cause = Drop.BAD_IMAGE if known else Drop.BAD_ENCODING
        else:
            self.request_reset(Reset.MATCHING_FAILED)
        self._statistics[camera].dropped(cause, str(error))
        of = f" of {camera}" if camera else ""
        self._log.error(f"frame{of} not matched ({cause}): {error}", throttle_duration_sec=5.0)
        if not isinstance(error, EndomatchError):
            self._log.debug("".join(traceback.format_exception(error)))
        # In stereo mode the cameras have no outputs of their own: the pair has failed.
        outputs = self._outputs[STEREO if self._mode == STEREO else camera]
        outputs.publish_failure(job, f"{cause}: {error}")
