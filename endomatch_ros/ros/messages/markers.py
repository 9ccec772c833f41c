"""Match lines for RViz and Foxglove: ``~/markers``, at unit depth in the camera's optical frame.

Convention: the optical frame of REP-103 (x right, y down, z forward), so that seen from the origin the lines lie where
the overlay draws them, up to the lens's distortion. Colours are the overlay's, from
:mod:`endomatch_ros.drawing`.
"""

from __future__ import annotations

import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import Point
from numpy.typing import NDArray
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from endomatch_ros.drawing import OUTLIER_COLOUR, error_colours, spread
from endomatch_ros.errors import DataError
from endomatch_ros.ros.messages.clouds import NANOSECONDS

NAMESPACES = ("matches", "outliers", "figures")
"""The markers' ``ns``, which viewers switch on and off one by one: id 0 holds the lines (or text), id 1 the dots."""

_LINE_WIDTH = 0.002  # at depth 1, where an image is about 2 wide
_DOT_SIZE = 0.008
_TEXT_HEIGHT = 0.06
_MATCHES, _OUTLIERS, _FIGURES = NAMESPACES


def make_markers(
    points: NDArray[np.void],
    reference_rays: NDArray[np.floating] | None,
    stamp: Time,
    frame_id: str,
    full_scale_px: float,
    limit: int,
    lifetime_s: float = 2.0,
) -> MarkerArray:
    """Make the message of ``~/markers``: a line from each match's reference ray to its current ray, a dot at its end.

    The same markers (``ns``, ``id``) come with every frame, so that a new message takes the place of the last one; what
    has nothing to show is deleted. Outliers have a namespace of their own.

    Args:
        points: ``(N,)`` of :data:`~endomatch_ros.ros.messages.clouds.CLOUD_DTYPE`; ``x y z`` are the current rays.
        reference_rays: ``(N, 3)`` rays of ``u_ref v_ref`` at unit depth, in the optical frame of the reference's
            camera; None without a calibration.
        stamp: the current image's stamp.
        frame_id: the current camera's optical frame.
        full_scale_px: epipolar error at the end of the colour scale.
        limit: most lines to draw, evenly over the image; 0: none.
        lifetime_s: after so many seconds without a new message viewers remove the markers; 0: never.

    Returns:
        Five markers, or a single one that deletes all where no match has rays (uncalibrated: NaN or None).

    Raises:
        DataError: ``reference_rays`` is not ``(N, 3)``.
    """
    if reference_rays is not None and reference_rays.shape != (len(points), 3):
        raise DataError(
            f"reference_rays of {len(points)} matches must be ({len(points)}, 3), not {reference_rays.shape}"
        )
    ends = np.stack([points[axis] for axis in "xyz"], axis=1).astype(np.float64)
    starts = np.full_like(ends, np.nan) if reference_rays is None else np.asarray(reference_rays, np.float64)
    drawable = np.flatnonzero(np.isfinite(ends).all(axis=1) & np.isfinite(starts).all(axis=1))
    pixels = np.stack([points["u"], points["v"]], axis=1)[drawable]
    chosen = drawable[spread(pixels, max(0, limit))]
    template = _Template(stamp, frame_id, lifetime_s)
    if len(chosen) == 0:
        return MarkerArray(markers=[template.marker("", 0, Marker.DELETEALL)])
    error = points["epipolar_error"]
    outlier = (points["inlier"] < 0.5) & np.isfinite(error)  # without an error nothing is known, as in the overlay
    markers = []
    for namespace, part in ((_MATCHES, chosen[~outlier[chosen]]), (_OUTLIERS, chosen[outlier[chosen]])):
        colours = error_colours(error[part].astype(np.float64), full_scale_px)
        colours = np.broadcast_to(OUTLIER_COLOUR, colours.shape) if namespace == _OUTLIERS else colours
        markers += _segments(template, namespace, starts[part], ends[part], colours)
    return MarkerArray(markers=[*markers, _text(template, points, ends[chosen])])


class _Template:
    """Makes markers with the header and lifetime of one message."""

    def __init__(self, stamp: Time, frame_id: str, lifetime_s: float) -> None:
        self._stamp, self._frame_id = stamp, frame_id
        self._lifetime = Duration(sec=int(lifetime_s), nanosec=int(lifetime_s % 1 * NANOSECONDS))

    def marker(self, namespace: str, number: int, action: int, kind: int = Marker.LINE_LIST) -> Marker:
        marker = Marker(ns=namespace, id=number, type=kind, action=action, lifetime=self._lifetime, frame_locked=False)
        marker.header.stamp, marker.header.frame_id = self._stamp, self._frame_id
        marker.pose.orientation.w = 1.0
        marker.color.a = 1.0
        return marker


def _segments(
    template: _Template,
    namespace: str,
    starts: NDArray[np.float64],
    ends: NDArray[np.float64],
    colours: NDArray[np.uint8],
) -> list[Marker]:
    """Lines (id 0) and the dots at their ends (id 1); rays ``(N, 3)``, RGB ``(N, 3)``."""
    if len(ends) == 0:
        return [template.marker(namespace, number, Marker.DELETE) for number in (0, 1)]
    lines = template.marker(namespace, 0, Marker.ADD, Marker.LINE_LIST)
    dots = template.marker(namespace, 1, Marker.ADD, Marker.POINTS)
    lines.scale.x = _LINE_WIDTH
    dots.scale.x = dots.scale.y = _DOT_SIZE
    # Python objects are what a message costs: each end's point and each colour are made once and shared.
    tails, heads, shades = _points(starts), _points(ends), _shades(colours)
    lines.points = [point for pair in zip(tails, heads, strict=True) for point in pair]
    lines.colors = [shade for shade in shades for _ in range(2)]
    dots.points, dots.colors = heads, shades
    return [lines, dots]


def _text(template: _Template, points: NDArray[np.void], ends: NDArray[np.float64]) -> Marker:
    """The figures in words, above the lines."""
    known = points["epipolar_error"][np.isfinite(points["epipolar_error"])]
    words = [f"{len(points)} matches"]
    if len(known):
        words += [f"{np.mean(points['inlier'] > 0.5):.0%} inliers", f"median error {np.median(known):.2f} px"]
    else:
        words += ["no geometry"]
    text = template.marker(_FIGURES, 0, Marker.ADD, Marker.TEXT_VIEW_FACING)
    text.text = ", ".join(words)
    text.scale.z = _TEXT_HEIGHT
    text.color = ColorRGBA(r=0.95, g=0.95, b=0.95, a=1.0)
    low, high = ends.min(axis=0), ends.max(axis=0)
    text.pose.position = Point(x=float(low[0] + high[0]) / 2, y=float(low[1]) - _TEXT_HEIGHT, z=1.0)
    return text


def _points(positions: NDArray[np.float64]) -> list[Point]:
    return [Point(x=x, y=y, z=z) for x, y, z in positions.tolist()]


def _shades(colours: NDArray[np.uint8]) -> list[ColorRGBA]:
    keys = [tuple(colour) for colour in colours.tolist()]
    made = {key: ColorRGBA(r=key[0] / 255, g=key[1] / 255, b=key[2] / 255, a=1.0) for key in set(keys)}
    return [made[key] for key in keys]
