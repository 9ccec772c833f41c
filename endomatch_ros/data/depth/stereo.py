"""Metric depth from a calibrated stereo pair by semi-global matching."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from endomatch_ros.data.depth.rectification import Rectification
from endomatch_ros.data.frames import Frame
from endomatch_ros.data.view import view_of
from endomatch_ros.errors import ConfigError, DataError, check_ranges
from endomatch_ros.matching.view import highlight_mask, view_mask

Array = NDArray[np.float64]
Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class StereoConfig:
    """How pairs are matched.

    Attributes:
        reach: largest disparity that is looked for, as a share of the rectified image's width. Tissue too near for it
            is unknown at best, wrong at worst; the time and the memory taken grow with it.
        least_disparity: pixels; what is further away than this means is unknown.
        block: side in pixels of the compared windows, odd.
        uniqueness: per cent by which the best match must beat the second one.
        consistency: pixels by which the match may miss its origin when matched back.
        speckle: share of the image; smaller islands of depth are removed.
        scale: of the copies that are matched; tissue is smoother than pixels, and noise is not.

    Raises:
        ConfigError: a value outside its range.
    """

    reach: float = 0.4
    least_disparity: float = 1.0
    block: int = 5
    uniqueness: int = 10
    consistency: float = 1.0
    speckle: float = 0.004
    scale: float = 0.5

    def __post_init__(self) -> None:
        ranges = {
            "reach": (0.01, 1.0),
            "least_disparity": (0.0, 1000.0),
            "block": (1, 31),
            "uniqueness": (0, 100),
            "consistency": (0.0, 100.0),
            "speckle": (0.0, 1.0),
            "scale": (0.05, 1.0),
        }
        check_ranges(self, ranges, what="stereo depth: ")
        if self.block % 2 == 0:
            raise ConfigError(f"stereo depth: block={self.block} is even: a window needs a middle")


class StereoDepth:
    """Depth by triangulation, in the unit of the partner's pose. Rectifies what is not rectified."""

    name = "stereo"
    metric = True

    def __init__(self, config: StereoConfig | None = None) -> None:
        self.config = config or StereoConfig()
        self._rectification: Rectification | None = None

    def __call__(self, frame: Frame) -> NDArray[np.float32]:
        """Depth ``(H, W)`` in the frame's own pixels.

        NaN outside the view of either camera, on highlights, and where the pair does not match or matches differently
        from right to left.

        Raises:
            DataError: the frame has no partner or no camera.
            CalibrationError: the partner is before or behind the frame's camera, or at the same place.
        """
        if frame.partner is None or frame.camera is None:
            lacks = "stereo partner" if frame.partner is None else "camera"
            raise DataError(
                f"frame {frame.index} carries no {lacks}: choose the depth provider given, mono or photometric, or "
                "a calibrated stereo recording"
            )
        partner = frame.partner
        if self._rectification is None or not self._rectification.serves(frame.camera, partner.camera, partner.pose):
            self._rectification = Rectification(frame.camera, partner.camera, partner.pose)
        rig = self._rectification
        left, right = rig.warp(frame.image, partner.image)
        known = rig.warp_mask(view_mask(partner.image) & ~highlight_mask(partner.image))
        wanted = view_of(frame) & ~highlight_mask(frame.image)
        return rig.depth(self._disparity(left, right, known), wanted)

    def _disparity(self, left: Image, right: Image, known: Mask) -> Array:
        """Disparity ``(h, w)`` in pixels of the rectified pair, on a coarser grid than it; NaN where unknown.

        Args:
            left: rectified image.
            right: the partner's.
            known: pixels of the right one in which a match may lie.
        """
        c = self.config
        size = (max(1, round(left.shape[1] * c.scale)), max(1, round(left.shape[0] * c.scale)))
        step = left.shape[1] / size[0]
        left, right = (np.asarray(cv2.resize(im, size, interpolation=cv2.INTER_AREA), np.uint8) for im in (left, right))
        known = cv2.resize(known.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.999
        count = 16 * int(np.ceil((c.reach * size[0] + 1) / 16))  # the matcher takes multiples of 16
        forth = self._match(left, right, count)
        # Mirrored, the right image is the left one of a pair; its matches are those from right to left.
        back = self._match(_mirror(right), _mirror(left), count)[:, ::-1]
        target = np.arange(size[0]) - np.nan_to_num(forth, nan=2.0 * size[0])
        inside = target > -0.5
        column = np.round(np.where(inside, target, 0)).astype(np.intp)
        with np.errstate(invalid="ignore"):
            agrees = np.abs(np.take_along_axis(back, column, axis=1) - forth) * step <= c.consistency
            seen = inside & agrees & np.take_along_axis(known, column, axis=1) & (forth * step >= c.least_disparity)
        least = round(c.speckle * forth.size)
        return _without_speckles(np.where(seen, forth, np.nan), least) * step

    def _match(self, left: Image, right: Image, count: int) -> Array:
        """Disparities ``(h, w)`` of the left image, up to ``count``; NaN where the matcher finds none."""
        c = self.config
        matcher = cv2.StereoSGBM.create(
            minDisparity=0,
            numDisparities=count,
            blockSize=c.block,
            P1=24 * c.block**2,  # OpenCV's advice, for three channels
            P2=96 * c.block**2,
            disp12MaxDiff=-1,
            preFilterCap=31,
            uniquenessRatio=c.uniqueness,
            mode=cv2.STEREO_SGBM_MODE_HH4,
        )
        # The matcher leaves out the first columns, for which the range would end outside the right image.
        padded = [cv2.copyMakeBorder(image, 0, 0, count, 0, cv2.BORDER_REPLICATE) for image in (left, right)]
        disparity = matcher.compute(*padded)[:, count:].astype(np.float64) / 16.0
        return np.where(disparity > 0, disparity, np.nan)


def _mirror(image: Image) -> Image:
    return np.ascontiguousarray(image[:, ::-1])


def _without_speckles(disparity: Array, least: int) -> Array:
    """The disparities less islands of fewer than ``least`` pixels."""
    fixed = np.where(np.isfinite(disparity), disparity * 16.0, 0.0).round().astype(np.int16)
    cv2.filterSpeckles(fixed, 0, least, 2 * 16)
    return np.where(fixed > 0, disparity, np.nan)
