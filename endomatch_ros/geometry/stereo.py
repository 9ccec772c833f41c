"""Two calibrated cameras that are fixed to one another: epipolar errors and triangulation, in closed form.

Convention: 0 is the first (reference) camera, 1 the second; the rig's pose is ``camera1_from_camera0`` in metres.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from endomatch_ros.errors import CalibrationError
from endomatch_ros.geometry.camera import Camera
from endomatch_ros.geometry.epipolar import epipolar_distance, essential_from_pose, fundamental_from_essential, is_rigid
from endomatch_ros.geometry.robust import EpipolarEstimate

Array = NDArray[np.float64]

LEAST_PARALLAX_PX = 1.0  # below it a pixel's error sets the point anywhere between here and infinity
_ITERATIONS = 6  # of the correction; two suffice for errors of a few pixels away from the epipoles


@dataclass(frozen=True, eq=False)
class StereoRig:
    """Two cameras and the fixed motion between them.

    For rectified images give the cameras without distortion (``to_camera(info, size, rectified=True)``) and the pose
    from :func:`~endomatch_ros.data.calibration.stereo_pose`; the epipolar error of a match is then ``|v0 - v1|``.

    Attributes:
        camera0: of the first image.
        camera1: of the second; its size and its lens may differ.
        pose: ``camera1_from_camera0`` ``(4, 4)``, rigid, in metres.
        essential: ``(3, 3)``, singular values 1, 1, 0.
        fundamental: ``(3, 3)``, ``x1ᵀ F x0 = 0`` in pixels of the two ideal pinholes, Frobenius norm 1.

    Raises:
        CalibrationError: the pose is not rigid, or has no baseline.
    """

    camera0: Camera
    camera1: Camera
    pose: Array
    essential: Array = field(init=False, repr=False)
    fundamental: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        pose = np.array(self.pose, np.float64)
        if not is_rigid(pose):
            raise CalibrationError(f"the pose of a stereo pair must be a rigid (4, 4) motion, not {pose.tolist()}")
        essential = essential_from_pose(pose)
        fundamental = fundamental_from_essential(essential, self.camera0.matrix, self.camera1.matrix)
        for name, matrix in (("pose", pose), ("essential", essential), ("fundamental", fundamental)):
            matrix.flags.writeable = False
            object.__setattr__(self, name, matrix)

    def estimate(
        self, points0: NDArray[np.floating], points1: NDArray[np.floating], threshold: float = 1.0
    ) -> EpipolarEstimate:
        """Measure matches against the calibrated geometry; nothing is estimated.

        The error is the project's epipolar distance, the mean of the two point-to-line distances, of the undistorted
        points: each distance in pixels of its own image's ideal pinhole. NaN for points that cannot be undistorted,
        and for a point on its image's epipole. Whether a point lies before the cameras is not asked here, but by
        :meth:`triangulate`.

        Args:
            points0: ``(N, 2)`` pixels of the first image, as they come from the camera.
            points1: ``(N, 2)`` pixels of the second.
            threshold: largest error of an inlier, pixels.

        Returns:
            An estimate of model ``E``; it never fails, whatever the matches.
        """
        pixels0, pixels1 = self.camera0.undistort(points0), self.camera1.undistort(points1)
        error = epipolar_distance(self.fundamental, pixels0, pixels1)
        inliers = np.nan_to_num(error, nan=np.inf) <= threshold
        message = f"calibrated geometry: {int(inliers.sum())} of {len(error)} matches within {threshold:g} px"
        return EpipolarEstimate("E", self.fundamental, self.essential, inliers, error, message)

    def triangulate(self, points0: NDArray[np.floating], points1: NDArray[np.floating]) -> Array:
        """Points ``(N, 3)`` in the first camera's frame, metres, that match best in the least-squares sense.

        The undistorted points are moved by the least sum of squared pixels to where their rays meet, then intersected.

        NaN (all three) for points that cannot be undistorted, behind either camera, or seen under a parallax of less
        than :data:`LEAST_PARALLAX_PX`, the angle of a pixel at the centre of the coarser image. Points at
        infinity and those on the baseline are among the latter. Outliers are triangulated, too: leave them out first.

        Args:
            points0: ``(N, 2)`` pixels of the first image, as they come from the camera.
            points1: ``(N, 2)`` pixels of the second.
        """
        pixels0, pixels1 = self.camera0.undistort(points0), self.camera1.undistort(points1)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            pixels0, pixels1 = _corrected(self.fundamental, pixels0, pixels1)
            rays0 = _homogeneous(pixels0) @ np.linalg.inv(self.camera0.matrix).T
            rays1 = _homogeneous(pixels1) @ np.linalg.inv(self.camera1.matrix).T @ self.pose[:3, :3]
            return self._intersected(rays0, rays1)

    def _intersected(self, rays0: Array, rays1: Array) -> Array:
        """Where rays ``(N, 3)``, both in axes of camera 0 and with z = 1 in their own camera, meet."""
        centre1 = -self.pose[:3, :3].T @ self.pose[:3, 3]
        normal = np.cross(rays0, rays1)
        squared = (normal**2).sum(axis=1)
        depth0 = (np.cross(centre1, rays1) * normal).sum(axis=1) / squared
        depth1 = (np.cross(centre1, rays0) * normal).sum(axis=1) / squared
        sine = np.sqrt(squared) / np.linalg.norm(rays0, axis=1) / np.linalg.norm(rays1, axis=1)
        focal = min(camera.matrix[i, i] for camera in (self.camera0, self.camera1) for i in (0, 1))
        good = (depth0 > 0) & (depth1 > 0) & (sine >= np.sin(np.arctan(LEAST_PARALLAX_PX / focal)))
        points = depth0[:, None] * rays0
        return np.where((good & np.isfinite(points).all(axis=1))[:, None], points, np.nan)


def _corrected(F: Array, points0: Array, points1: Array) -> tuple[Array, Array]:
    """The nearest pixels ``(N, 2)`` with ``x1ᵀ F x0 = 0``, least sum of squared moves.

    Hartley and Zisserman, section 12.5, iterated as in Kanatani, Sugaya and Niitsu, Triangulation from two views
    revisited, BMVC 2008: the constraint is made linear where the last step ended, not where the points were.
    """
    new0, new1 = points0, points1
    for _ in range(_ITERATIONS):
        x0, x1 = _homogeneous(new0), _homogeneous(new1)
        line1 = x0 @ F.T
        normal0, normal1 = (x1 @ F)[:, :2], line1[:, :2]
        value = (x1 * line1).sum(axis=1)
        value += (normal0 * (points0 - new0)).sum(axis=1) + (normal1 * (points1 - new1)).sum(axis=1)
        scale = (value / ((normal0**2).sum(axis=1) + (normal1**2).sum(axis=1)))[:, None]
        new0, new1 = points0 - scale * normal0, points1 - scale * normal1
    return new0, new1


def _homogeneous(points: Array) -> Array:
    return np.column_stack([points, np.ones(len(points))])
