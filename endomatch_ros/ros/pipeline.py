"""From an image message to a matched pair with its geometry: everything between the callback and the publishers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
from builtin_interfaces.msg import Time
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from endomatch_ros.data.readers.images import read_mask
from endomatch_ros.errors import ConfigError, ImageError
from endomatch_ros.geometry.camera import Camera
from endomatch_ros.geometry.robust import EpipolarEstimate, estimate_epipolar, recover_relative_pose
from endomatch_ros.geometry.uncertainty import refine_relative_pose, relative_pose_covariance
from endomatch_ros.matching.features import FrameFeatures
from endomatch_ros.matching.interface import FrameMatcher, FrameStream, Reference
from endomatch_ros.matching.keyframes import KeyframeWatch
from endomatch_ros.matching.preparation import Prepared
from endomatch_ros.matching.types import Matches
from endomatch_ros.ros.calibration import Calibration
from endomatch_ros.ros.messages.clouds import stamp_to_ns
from endomatch_ros.ros.messages.images import RGB, compressed_to_rgb, to_rgb
from endomatch_ros.ros.monitoring.causes import Keyframe, Reset
from endomatch_ros.ros.monitoring.stages import Stage, StageTimes
from endomatch_ros.ros.monitoring.statistics import Statistics
from endomatch_ros.ros.parameters.table import Settings


@dataclass(frozen=True)
class Job:
    """A frame on its way through the worker.

    Attributes:
        message: as it arrived.
        info: the latest camera_info, None if there was none.
        received: ``time.monotonic()`` of the callback.
        settings: the parameters at that moment.
        times: of the stages so far, filled in on the way.
    """

    message: Image | CompressedImage
    info: CameraInfo | None
    received: float
    settings: Settings
    times: StageTimes = field(default_factory=StageTimes)

    @property
    def stamp(self) -> Time:
        """The image's stamp."""
        return self.message.header.stamp


@dataclass(frozen=True)
class Frame:
    """A frame that was read and checked; the network has not seen it yet.

    Attributes:
        job: where it came from.
        image: RGB uint8 ``(H, W, 3)``.
        prepared: the image for the network.
        camera: its calibration, None if there is none.
    """

    job: Job
    image: RGB
    prepared: Prepared
    camera: Camera | None

    @property
    def stamp(self) -> int:
        """Nanoseconds."""
        return stamp_to_ns(self.job.stamp)

    @property
    def size(self) -> tuple[int, int]:
        """``(width, height)``."""
        return self.image.shape[1], self.image.shape[0]


@dataclass(frozen=True)
class Pair:
    """A matched pair.

    Attributes:
        image: current frame, RGB uint8 ``(H, W, 3)``.
        matches: with stamps in nanoseconds.
        estimate: epipolar geometry and the error of each match.
        cameras: of the reference and of the current frame; None where uncalibrated.
        times: of the stages, from the current frame's callback on.
        pose: ``(4, 4)`` camera1_from_camera0 with unit translation, None if unknown.
        covariance: ``(6, 6)`` of the pose as it is published, None if the matches do not determine it.
        points: ``(N, 3)`` triangulated points of a stereo pair in metres, in the reference camera's frame; else None.
    """

    image: RGB
    matches: Matches
    estimate: EpipolarEstimate
    cameras: tuple[Camera | None, Camera | None]
    times: StageTimes
    pose: NDArray[np.float64] | None = None
    covariance: NDArray[np.float64] | None = None
    points: NDArray[np.float64] | None = None

    @property
    def rays(self) -> NDArray[np.float64] | None:
        """``(N, 3)`` rays of the current points, None if uncalibrated."""
        camera = self.cameras[1]
        return None if camera is None else camera.rays(self.matches.keypoints1)

    @property
    def reference_rays(self) -> NDArray[np.float64] | None:
        """``(N, 3)`` rays of the reference points, None if uncalibrated."""
        camera = self.cameras[0]
        return None if camera is None else camera.rays(self.matches.keypoints0)


class Pipeline:
    """Decodes, matches with the reference and estimates the geometry; for one camera, used by one thread.

    Args:
        loaded: the matcher with the model's own settings; other cameras may share it.
        settings: the parameters to start with.
        statistics: counts resets, keyframes and tracks.
        on_warning: told once about each calibration that cannot be used.

    Attributes:
        matcher: this camera's, with the settings in force.
        stream: the frames' features and tracks.
        calibration: which one is in use.

    Raises:
        ConfigError: the mask file cannot be read, or the matcher refuses a value.
    """

    def __init__(
        self,
        loaded: FrameMatcher,
        settings: Settings,
        statistics: Statistics,
        on_warning: Callable[[str], None],
    ) -> None:
        self._loaded = loaded
        self._settings = settings
        self._statistics = statistics
        self._use(settings)
        self._mask = _read_mask(settings.mask_file)
        self._requested: deque[Reset] = deque()
        self._keyframe_wanted = False
        self._watch = KeyframeWatch()
        self._last: tuple[int, tuple[int, int]] | None = None
        self.calibration = Calibration(on_warning)

    # Any thread

    def request_reset(self, cause: Reset) -> None:
        """Start again from the next frame."""
        self._requested.append(cause)

    def request_keyframe(self) -> None:
        """Make the newest frame the keyframe before the next one comes."""
        self._keyframe_wanted = True

    def validate(self, settings: Settings) -> None:
        """Raise ConfigError if the matcher would refuse the settings' values."""
        self._loaded.with_config(**settings.matcher_config())

    # The worker's thread

    def open(self, job: Job) -> Frame:
        """Read the job's image, find out whether the stream must start again, prepare it for the network.

        Raises:
            ImageError: the message cannot be read or does not fit mask or region.
        """
        self._obey()
        self._apply(job.settings)
        with job.times.measure(Stage.DECODE):
            image = to_rgb(job.message) if isinstance(job.message, Image) else compressed_to_rgb(job.message)
        stamp, size = stamp_to_ns(job.stamp), (image.shape[1], image.shape[0])
        if self._last and stamp < self._last[0]:
            self._reset(Reset.STAMP_BACKWARDS)  # the old frame is no neighbour any more
        elif self._last and size != self._last[1]:
            self._reset(Reset.SIZE_CHANGED)
        with job.times.measure(Stage.PREPARE):
            prepared = self.matcher.prepare(image, self._mask, job.settings.region, job.settings.mask != "none")
            self._last = (stamp, size)
            camera = self.calibration.camera(job.info, size, self._settings.rectified)
        return Frame(job, image, prepared, camera)

    def match(self, frame: Frame, features: FrameFeatures) -> Pair | None:
        """Match a frame with the reference; None for the first frame after a reset."""
        matches = self.stream.push_features(features, frame.stamp)
        if matches is None:
            self._new_keyframe(Keyframe.FIRST)
            return None
        points0, points1, camera = matches.keypoints0, matches.keypoints1, frame.camera
        times = StageTimes(frame.job.times | matches.timings)
        with times.measure(Stage.GEOMETRY):
            estimate = estimate_epipolar(points0, points1, camera, threshold=self._settings.ransac_threshold_px)
            self._statistics.tracks(self.stream.track_lengths)
            self._judge_keyframe(matches, estimate)
            pair = Pair(frame.image, matches, estimate, (camera, camera), times)
            return pair if camera is None else _with_pose(pair, camera)

    def hold(self, frame: Frame, features: FrameFeatures) -> None:
        """Take a frame without matching it with an earlier one: for stereo alone."""
        self.stream.reset()
        self.stream.push_features(features, frame.stamp)

    def _obey(self) -> None:
        while self._requested:
            self._reset(self._requested.popleft())
        if self._keyframe_wanted:
            self._keyframe_wanted = False
            if self.stream.set_keyframe():
                self._new_keyframe(Keyframe.SERVICE)

    def _reset(self, cause: Reset) -> None:
        self.stream.reset()
        self._last = None
        self._statistics.reset(cause)

    def _new_keyframe(self, cause: Keyframe) -> None:
        self._watch.restart()
        if self._settings.reference == "keyframe":
            self._statistics.keyframe(cause)

    def _judge_keyframe(self, matches: Matches, estimate: EpipolarEstimate) -> None:
        if self._settings.reference != "keyframe":
            return
        ratio = float("nan") if estimate.model == "none" else float(estimate.inliers.mean())
        cause = self._watch.due(len(matches), matches.coverage, ratio, self._settings.keyframe_rules)
        if cause:
            self.stream.set_keyframe()
            self._new_keyframe(Keyframe(cause))

    def _apply(self, settings: Settings) -> None:
        before = self._settings
        if settings is not before and _kept(settings) != _kept(before):
            # The features of the last frame belong to the old values.
            self._use(settings, self.stream)
            self._reset(Reset.PARAMETERS_CHANGED)
        self._settings = settings

    def _use(self, settings: Settings, after: FrameStream | None = None) -> None:
        """Match with what was chosen, and the model's own values for the rest, in place of the stream ``after``."""
        self.matcher = self._loaded.with_config(**settings.matcher_config())
        reference = cast(Reference, settings.reference)  # checked when it was set
        self.stream: FrameStream = self.matcher.stream(reference, after)


def _with_pose(pair: Pair, camera: Camera) -> Pair:
    estimate, points0, points1 = pair.estimate, pair.matches.keypoints0, pair.matches.keypoints1
    rough = recover_relative_pose(estimate, points0, points1, camera)
    if rough is None:
        return pair
    pose = refine_relative_pose(rough, points0, points1, camera, estimate.inliers)
    covariance = relative_pose_covariance(pose, points0, points1, camera, estimate.inliers)
    return replace(pair, pose=pose, covariance=covariance)


def _kept(settings: Settings) -> tuple[object, ...]:
    """What the features that a stream keeps were made with."""
    return settings.matcher_config(), settings.roi, settings.reference


def _read_mask(path: str | None) -> NDArray[np.bool_] | None:
    if path is None:
        return None
    try:
        return read_mask(path)
    except ImageError as error:
        raise ConfigError(f"mask {path!r} cannot be read as an image: {error}") from error
