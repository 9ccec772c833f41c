"""``/diagnostics``: what the node tells about its input, its speed and its model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TypeVar

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

from endomatch_ros.ros.messages.clouds import make_status
from endomatch_ros.ros.monitoring.causes import MATCH_DROPS, Drop, Explained, Keyframe, Reset
from endomatch_ros.ros.parameters.table import STEREO

if TYPE_CHECKING:
    from rclpy.node import Node

    from endomatch_ros.matching.interface import FrameMatcher
    from endomatch_ros.ros.monitoring.statistics import Snapshot

_Cause = TypeVar("_Cause", bound=str)
OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


@dataclass(frozen=True)
class Condition:
    """The node as a whole.

    Attributes:
        state: label of the lifecycle state.
        waited: seconds since activation.
        timeout: seconds without an image that are tolerated.
        matcher: with the settings in force, None while unconfigured.
        fault: why the configuration failed; empty if it did not.
        hardware_id: names model and device.
        gap: seconds between the stamps of the last unpaired frame and its nearest partner; None if unknown.
        tolerance: how far apart they may be, s.
    """

    state: str
    waited: float
    timeout: float
    matcher: FrameMatcher | None
    fault: str
    hardware_id: str
    gap: float | None = None
    tolerance: float = 0.0


@dataclass(frozen=True)
class Source:
    """One camera, or the stereo pair.

    Attributes:
        label: goes before the names of its statuses; empty for a single camera.
        snapshot: its counters.
        faults: frames that failed since the last report.
        calibration: the one in use or why there is none; empty while there is no session.
        topic, type_name: the image topic, resolved, and its message type; empty for the stereo pair.
    """

    label: str
    snapshot: Snapshot
    faults: int
    calibration: str = ""
    topic: str = ""
    type_name: str = ""


def make_report(
    node: Node, condition: Condition, cameras: Sequence[Source], stereo: Source | None = None
) -> DiagnosticArray:
    """Make the ``/diagnostics`` message; a missing input is logged, too.

    For each camera ``NODE: LABEL input`` and ``NODE: LABEL processing``; with a stereo mode
    ``NODE: stereo processing``; ``NODE: model``.
    """
    name = node.get_fully_qualified_name()
    report = DiagnosticArray()
    report.header.stamp = node.get_clock().now().to_msg()
    for source in cameras:
        label = f"{name}: {source.label} ".replace("  ", " ")
        report.status.append(_input_status(node, f"{label}input", source, condition))
        report.status.append(_processing_status(f"{label}processing", source, condition))
    if stereo is not None:
        report.status.append(_stereo_status(f"{name}: stereo processing", stereo, cameras, condition))
    report.status.append(_model_status(f"{name}: model", condition))
    return report


def _input_status(node: Node, name: str, source: Source, condition: Condition) -> DiagnosticStatus:
    topic, snapshot = source.topic, source.snapshot
    waited, age = condition.waited, snapshot.age
    level, message = OK, f"{snapshot.rate:.1f} images/s on {topic}"
    if condition.state != "active":
        message = f"not matching: the node is {condition.state}"
    elif age is None or age > waited:  # none since activation
        message = f"waiting for images on {topic}"
        if waited > condition.timeout:
            hint = _no_images_hint(node, topic, source.type_name)
            level, message = WARN, f"no images on {topic} for {waited:.0f} s: {hint}"
            node.get_logger().warning(message, throttle_duration_sec=10.0)
    elif age > condition.timeout:
        level, message = WARN, f"no image on {topic} for {age:.1f} s, after {snapshot.received} images"
    values = {
        "topic": topic,
        "state": condition.state,
        "received": snapshot.received,
        "rate_hz": round(snapshot.rate, 2),
        "age_s": _rounded(age),
    }
    return make_status(name, level, message, topic, values)


def _processing_status(name: str, source: Source, condition: Condition) -> DiagnosticStatus:
    snapshot = source.snapshot
    level, message = OK, f"{snapshot.answered} pairs published"
    if snapshot.latency:
        message += f", median latency {snapshot.latency[0]:.0f} ms"
    if source.faults:
        level = WARN
        message = f"{source.faults} frames failed since the last report; the last one: {snapshot.problem}"
    values: dict[str, object] = {"answered": snapshot.answered, "calibration": source.calibration}
    stages = {f"stage_{stage}": figures for stage, figures in snapshot.stages.items()}
    times = {"latency": snapshot.latency, "stamp_latency": snapshot.stamp_latency, **stages}
    for label, figures in times.items():
        values |= _figures(label, ("p50_ms", "p95_ms", "p99_ms"), figures)
    if source.label != STEREO:  # a stereo match is no step of a track
        values["tracks_alive"] = snapshot.tracks_alive
        values |= _figures("track_frames", ("p50", "p90", "max"), snapshot.tracks)
    values |= _counts("dropped", Drop, snapshot.drops)
    values |= _counts("matches_dropped", MATCH_DROPS, snapshot.left_out)
    values |= _counts("reset", Reset, snapshot.resets)
    values |= _counts("keyframe", Keyframe, snapshot.keyframes)
    values["last_drop"] = _explained(snapshot.last_drop)
    values["last_reset"] = _explained(snapshot.last_reset)
    values["last_keyframe"] = _explained(snapshot.last_keyframe)
    return make_status(name, level, message, condition.hardware_id, values)


def _stereo_status(name: str, stereo: Source, cameras: Sequence[Source], condition: Condition) -> DiagnosticStatus:
    status = _processing_status(name, stereo, condition)
    ages = [source.snapshot.age for source in (stereo, *cameras)]
    silent = [age is None or age > condition.timeout for age in ages]
    # A camera that sends nothing has a warning of its own.
    if condition.state == "active" and condition.waited > condition.timeout and silent[0] and not any(silent[1:]):
        gap = "unknown" if condition.gap is None else f"{1e3 * condition.gap:.1f} ms"
        status.level = WARN
        status.message = (
            f"images, but no pairs: the nearest stamps differ by {gap}, sync_tolerance_s allows "
            f"{1e3 * condition.tolerance:.1f} ms; stamp both cameras with one clock, or raise it"
        )
    return status


def _model_status(name: str, condition: Condition) -> DiagnosticStatus:
    if condition.fault:
        return make_status(name, ERROR, f"configuration failed: {condition.fault}", condition.hardware_id, {})
    if condition.matcher is None:
        return make_status(name, OK, "not configured", condition.hardware_id, {})
    info, config = asdict(condition.matcher.info), asdict(condition.matcher.config)
    del config["mask"]  # each camera has its own
    values = {**info, **{f"config_{key}": value for key, value in config.items()}}
    return make_status(name, OK, condition.hardware_id, condition.hardware_id, values)


def _no_images_hint(node: Node, topic: str, type_name: str) -> str:
    """Why no image arrives on ``topic``, as far as the ROS graph tells, and what to do about it."""
    endpoints = node.get_publishers_info_by_topic(topic)
    types = {endpoint.topic_type for endpoint in endpoints}
    if endpoints and type_name not in types:
        return f"it carries {', '.join(sorted(types))}, not {type_name}; set image_transport or remap image_raw"
    if endpoints:
        return (
            f"{len(endpoints)} publishers, but nothing arrives; compare the QoS (ros2 topic info -v {topic}), "
            "and with Fast DDS give the publisher's process the profile config/fastdds_shm.xml for large images"
        )
    if node.get_publishers_info_by_topic(f"{topic}/compressed"):
        return f"only {topic}/compressed is published; set image_transport to compressed"
    mine = (topic, node.get_fully_qualified_name() + "/")  # asked for, or the node's own pictures
    topics = [name for name, kinds in node.get_topic_names_and_types() if type_name in kinds]
    # A topic that is only subscribed to, such as another camera's of this node, is no help.
    others = sorted(name for name in topics if not name.startswith(mine) and node.count_publishers(name))
    seen = f" (there are: {', '.join(others[:8])})" if others else " (there is none now)"
    return f"nobody publishes it; remap image_raw to a topic of type {type_name}{seen}"


def _figures(label: str, which: Sequence[str], figures: Sequence[float] | None) -> dict[str, float | str]:
    """Figures by key, in the order of ``which``; empty where there are none yet."""
    return {f"{label}_{name}": _rounded(figures[index] if figures else None) for index, name in enumerate(which)}


def _counts(prefix: str, causes: Iterable[str], counts: Mapping[_Cause, int]) -> dict[str, int]:
    """Counts by key. Every cause is always listed, so that a monitor finds the key before the first drop."""
    return {f"{prefix}_{cause}": count for cause, count in (dict.fromkeys(causes, 0) | dict(counts)).items()}


def _explained(cause: Explained | None) -> str:
    return "" if cause is None else f"{cause}: {cause.meaning}"


def _rounded(value: float | None) -> float | str:
    return "" if value is None else round(value, 2)
