"""The second camera's frames against the first camera's of the same moment."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from endomatch_ros.data.calibration import stereo_pose
from endomatch_ros.errors import CalibrationError
from endomatch_ros.geometry.robust import estimate_epipolar
from endomatch_ros.geometry.stereo import StereoRig
from endomatch_ros.matching.features import FrameFeatures
from endomatch_ros.matching.interface import FrameStream
from endomatch_ros.ros import calibration
from endomatch_ros.ros.monitoring.stages import Stage, StageTimes
from endomatch_ros.ros.pipeline import Frame, Pair


class StereoMatching:
    """Matches the two cameras and measures the matches against the pair's calibrated geometry.

    Without the camera_info of both, or with one that is no stereo calibration, the geometry is estimated from the
    matches, as for a single camera. Used by one thread.

    Args:
        on_warning: told once about each calibration that cannot be used.

    Attributes:
        calibration: of the pair, the one in use or why there is none, for the operator.
    """

    def __init__(self, on_warning: Callable[[str], None]) -> None:
        self._on_warning = on_warning
        self._known: tuple[object, StereoRig | None] = (None, None)
        self.calibration = calibration.NO_PAIR

    def match(self, reference: Frame, current: Frame, features: FrameFeatures, stream: FrameStream) -> Pair:
        """Match two frames of one moment.

        Args:
            reference: of the first camera; the stream's newest frame.
            current: of the second camera.
            features: of the second camera's frame.
            stream: of the first camera.
        """
        matches = stream.match_newest(features, current.stamp)
        points0, points1 = matches.keypoints0, matches.keypoints1
        threshold = current.job.settings.ransac_threshold_px
        cameras = reference.camera, current.camera
        times = StageTimes(current.job.times | matches.timings)
        with times.measure(Stage.GEOMETRY):
            rig = self._rig(reference, current)
            if rig is None:
                estimate = estimate_epipolar(points0, points1, None, threshold)
                return Pair(current.image, matches, estimate, cameras, times)
            estimate = rig.estimate(points0, points1, threshold)
            points = np.where(estimate.inliers[:, None], rig.triangulate(points0, points1), np.nan)
            return Pair(current.image, matches, estimate, cameras, times, points=points)

    def _rig(self, reference: Frame, current: Frame) -> StereoRig | None:
        cameras, infos = (reference.camera, current.camera), (reference.job.info, current.job.info)
        if cameras[0] is None or cameras[1] is None or infos[0] is None or infos[1] is None:
            self._known, self.calibration = (None, None), calibration.HALF_A_PAIR
            return None
        rectified = current.job.settings.rectified
        key = (calibration.content(infos[0]), calibration.content(infos[1]), reference.size, current.size, rectified)
        if self._known[0] != key:
            try:
                rig = StereoRig(cameras[0], cameras[1], stereo_pose(infos[0], infos[1], rectified, rectified))
                self.calibration = calibration.of_rig(rig)
            except CalibrationError as error:
                rig, self.calibration = None, calibration.refused(error)
                self._on_warning(f"the stereo geometry is estimated from the matches, there are no points: {error}")
            self._known = (key, rig)
        return self._known[1]
