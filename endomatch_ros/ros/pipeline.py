"""From an image message to a matched pair with its geometry: everything between the callback and the publishers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from endomatch_ros.errors import CalibrationError, ConfigError
from endomatch_ros.geometry.camera import Camera
from endomatch_ros.geometry.robust import EpipolarEstimate, estimate_epipolar, recover_relative_pose
from endomatch_ros.ros.calibration import to_camera
from endomatch_ros.ros.images import RGB, compressed_to_rgb, to_rgb
from endomatch_ros.ros.messages import stamp_to_ns
from endomatch_ros.ros.parameters import MATCHER_PARAMETERS, Settings

if TYPE_CHECKING:
    from endomatch_ros.matching import Matches


@dataclass(frozen=True)
class Job:
    """A frame on its way through the worker.

    Attributes:
        message: as it arrived.
        info: the latest camera_info, None if there was none.
        received: ``time.monotonic()`` of the callback.
        settings: the parameters at that moment.
    """

    message: Image | CompressedImage
    info: CameraInfo | None
    received: float
    settings: Settings

    @property
    def stamp(self) -> Time:
        """The image's stamp."""
        return self.message.header.stamp


@dataclass(frozen=True)
class Pair:
    """A matched pair.

    Attributes:
        image: current frame, RGB uint8 ``(H, W, 3)``.
        matches: with stamps in nanoseconds.
        estimate: robust epipolar geometry and the error of each match.
        rays: ``(N, 3)`` rays of the current points, None if uncalibrated.
        pose: ``(4, 4)`` camera1_from_camera0 with unit translation, None if unknown.
    """

    image: RGB
    matches: Matches
    estimate: EpipolarEstimate
    rays: NDArray[np.float64] | None
    pose: NDArray[np.float64] | None


class Pipeline:
    """Decodes, matches with the previous frame and estimates the geometry; for one camera, used by one thread.

    Args:
        matcher: a :class:`~endomatch_ros.matching.Matcher`.
        settings: the parameters to start with.
        on_reset: told the cause when the stream starts again (``stamp_backwards``, ``size_changed``, …).
        on_warning: told once about each calibration that cannot be used.
        make_stream: makes the stream of the matcher.

    Raises:
        ConfigError: the mask file cannot be read, or the matcher refuses a value.
    """

    def __init__(
        self,
        matcher: Any,
        settings: Settings,
        on_reset: Callable[[str], None],
        on_warning: Callable[[str], None],
        make_stream: Callable[[Any], Any],
    ) -> None:
        self._matcher = matcher
        self._stream = make_stream(matcher)
        self._settings = settings
        self._on_reset = on_reset
        self._on_warning = on_warning
        self._own = {name: getattr(matcher.config, name) for name in MATCHER_PARAMETERS}
        matcher.configure(**self._config(settings))
        self._mask = _read_mask(settings.mask_file)
        self._requested: deque[str] = deque()
        self._last: tuple[int, tuple[int, int]] | None = None
        self._calibration: tuple[Any, Camera | None] = (None, None)

    def request_reset(self, cause: str) -> None:
        """Start again from the next frame; may be called from any thread."""
        self._requested.append(cause)

    def validate(self, settings: Settings) -> None:
        """Raise ConfigError if the matcher would refuse the settings' values."""
        self._matcher.config.changed(**self._config(settings))

    def _reset(self, cause: str) -> None:
        self._stream.reset()
        self._last = None
        self._on_reset(cause)

    def process(self, job: Job) -> Pair | None:
        """Match the job's frame with the one before.

        Returns:
            The pair, or None for the first frame after a reset.

        Raises:
            ImageError: the message cannot be read or does not fit the mask.
        """
        while self._requested:
            self._reset(self._requested.popleft())
        self._apply(job.settings)
        image = to_rgb(job.message) if isinstance(job.message, Image) else compressed_to_rgb(job.message)
        stamp, size = stamp_to_ns(job.stamp), (image.shape[1], image.shape[0])
        if self._last and stamp < self._last[0]:
            self._reset("stamp_backwards")  # a looped bag, a restarted clock: the old frame is no neighbour any more
        elif self._last and size != self._last[1]:
            self._reset("size_changed")
        matches = self._stream.push(image, stamp, self._mask)
        self._last = (stamp, size)
        return None if matches is None else self._measure(image, matches, self._camera(job, size))

    def _measure(self, image: RGB, matches: Matches, camera: Camera | None) -> Pair:
        points0, points1 = matches.keypoints0, matches.keypoints1
        estimate = estimate_epipolar(points0, points1, camera, threshold=self._settings.ransac_threshold_px)
        if camera is None:
            return Pair(image, matches, estimate, None, None)
        pose = recover_relative_pose(estimate, points0, points1, camera) if estimate.essential is not None else None
        return Pair(image, matches, estimate, camera.rays(points1), pose)

    def _apply(self, settings: Settings) -> None:
        before, self._settings = self._settings, settings
        if settings is not before and settings.matcher_config() != before.matcher_config():
            self._matcher.configure(**self._config(settings))
            self._reset("parameters_changed")  # the kept features of the last frame belong to the old values

    def _config(self, settings: Settings) -> dict[str, Any]:
        """The matcher's values: what was chosen, the model's own for the rest."""
        return {**self._own, **settings.matcher_config()}

    def _camera(self, job: Job, size: tuple[int, int]) -> Camera | None:
        if job.info is None:
            return None
        # Drivers repeat camera_info with every frame: work (and warn) once per content.
        key = (_content(job.info), size)
        if self._calibration[0] != key:
            try:
                camera = to_camera(job.info, size, self._settings.rectified)
            except CalibrationError as error:
                camera = None
                self._on_warning(f"camera_info is not used, points stay uncalibrated: {error}")
            self._calibration = (key, camera)
        return self._calibration[1]


def _content(info: CameraInfo) -> tuple[Any, ...]:
    """What counts of a CameraInfo, to compare by."""
    roi = info.roi
    region = (roi.x_offset, roi.y_offset, roi.width, roi.height, info.binning_x, info.binning_y)
    return (info.width, info.height, info.distortion_model, tuple(info.d), tuple(info.k), tuple(info.p), region)


def _read_mask(path: str | None) -> NDArray[np.bool_] | None:
    if path is None:
        return None
    picture = cv2.imread(path, cv2.IMREAD_GRAYSCALE)
    if picture is None:
        raise ConfigError(f"mask {path!r} cannot be read as an image")
    return np.asarray(picture > 0)
