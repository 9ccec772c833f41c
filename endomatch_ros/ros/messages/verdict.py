"""What ``~/epipolar_error`` says: the figures of a pair, and whether they are good enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from numpy.typing import NDArray

from endomatch_ros import settings
from endomatch_ros.matching.types import Matches, Stamp
from endomatch_ros.ros.messages.clouds import NANOSECONDS, make_status
from endomatch_ros.settings import setting


@dataclass(frozen=True)
class Limits:
    """When ``~/epipolar_error`` turns from OK to WARN or ERROR; raises :class:`ConfigError` out of its ranges."""

    warn_median_px: float = setting(
        1.5, "Median epipolar error in px above which the level of ~/epipolar_error is WARN.", low=0.0, high=1000.0
    )
    error_median_px: float = setting(
        5.0, "Median epipolar error in px above which the level of ~/epipolar_error is ERROR.", low=0.0, high=1000.0
    )
    min_matches: int = setting(
        30, "Fewer matches than this make the level of ~/epipolar_error ERROR.", low=8, high=100_000
    )
    min_inlier_ratio: float = setting(
        0.5, "A smaller share of inliers makes the level of ~/epipolar_error WARN.", low=0.0, high=1.0
    )

    def __post_init__(self) -> None:
        settings.check(self)


class Figures(TypedDict):
    """The values of ``~/epipolar_error``; ``reference_stamp`` is in seconds, empty without a reference."""

    matches: int
    inliers: int
    inlier_ratio: float
    mean_px: float
    median_px: float
    p95_px: float
    rms_px: float
    coverage: float
    model: str
    matrix: list[float]
    reference_stamp: str


def error_values(
    matches: Matches,
    error: NDArray[np.float64],
    inliers: NDArray[np.bool_],
    model: str,
    matrix: NDArray[np.float64] | None,
) -> Figures:
    """The figures of ``~/epipolar_error`` (see the package's documentation for each).

    ``mean_px``, ``median_px``, ``p95_px`` and ``rms_px`` are over all matches whose error is defined, outliers too, so
    that they do not follow the inlier threshold; NaN if there is none. ``reference_stamp`` is in seconds.
    """
    known = error[np.isfinite(error)]
    count = len(matches)
    return {
        "matches": count,
        "inliers": int(inliers.sum()),
        "inlier_ratio": float(inliers.mean()) if count else 0.0,
        "mean_px": float(known.mean()) if len(known) else np.nan,
        "median_px": float(np.median(known)) if len(known) else np.nan,
        "p95_px": float(np.percentile(known, 95)) if len(known) else np.nan,
        "rms_px": float(np.sqrt(np.mean(known**2))) if len(known) else np.nan,
        "coverage": float(matches.coverage),
        "model": model,
        "matrix": [] if matrix is None else [float(value) for value in matrix.ravel()],
        "reference_stamp": _seconds(matches.stamp0),
    }


def failure_values() -> Figures:
    """The same keys as :func:`error_values` where no matching took place."""
    return {
        "matches": 0,
        "inliers": 0,
        "inlier_ratio": 0.0,
        "mean_px": np.nan,
        "median_px": np.nan,
        "p95_px": np.nan,
        "rms_px": np.nan,
        "coverage": 0.0,
        "model": "none",
        "matrix": [],
        "reference_stamp": "",
    }


def judge(figures: Figures, limits: Limits, reason: str = "", still: bool = False) -> tuple[bytes, str]:
    """Level and message of ``~/epipolar_error``.

    Args:
        figures: from :func:`error_values`.
        limits: the thresholds.
        reason: why no geometry was estimated, when ``model`` is ``none``.
        still: the matches hardly move: then a missing geometry is a WARN, for a scope at rest is no fault.

    Returns:
        ``(DiagnosticStatus level, message that says why)``.
    """
    matches, ratio, median = figures["matches"], figures["inlier_ratio"], figures["median_px"]
    error, warn = DiagnosticStatus.ERROR, DiagnosticStatus.WARN
    if matches < limits.min_matches:
        return error, f"{matches} matches, fewer than min_matches {limits.min_matches}"
    if figures["model"] == "none":
        return warn if still else error, f"no epipolar geometry: {reason}"
    if not median <= limits.error_median_px:
        return error, f"median epipolar error {median:.2f} px is above error_median_px {limits.error_median_px:g}"
    if median > limits.warn_median_px:
        return warn, f"median epipolar error {median:.2f} px is above warn_median_px {limits.warn_median_px:g}"
    if ratio < limits.min_inlier_ratio:
        return warn, f"inlier ratio {ratio:.2f} is below min_inlier_ratio {limits.min_inlier_ratio:g}"
    return DiagnosticStatus.OK, f"{matches} matches, median epipolar error {median:.2f} px, {ratio:.0%} inliers"


def pack_error(
    figures: Figures, level: bytes, message: str, stamp: Time, frame_id: str, name: str, hardware_id: str
) -> DiagnosticArray:
    """Make the ``~/epipolar_error`` message: one status with every figure as text, floats with full precision."""
    status = make_status(name, level, message, hardware_id, figures)
    array = DiagnosticArray(status=[status])
    array.header.stamp, array.header.frame_id = stamp, frame_id
    return array


def _seconds(nanoseconds: Stamp) -> str:
    assert isinstance(nanoseconds, int)  # the node's stamps are
    return f"{nanoseconds // NANOSECONDS}.{nanoseconds % NANOSECONDS:09d}"
