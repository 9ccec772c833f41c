"""``/diagnostics``: what the node tells about its input, its speed and its model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

from endomatch_ros.ros.messages import make_status

if TYPE_CHECKING:
    from rclpy.node import Node

    from endomatch_ros.ros.statistics import Snapshot

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
# Every cause is always listed, so that a monitor finds the key before the first drop.
DROPS = ("superseded", "bad_encoding", "bad_image", "matching_failed", "not_active", "disabled")
FAULTS = ("bad_encoding", "bad_image", "matching_failed")
RESETS = ("activated", "service", "stamp_backwards", "size_changed", "parameters_changed", "matching_failed")


@dataclass(frozen=True)
class Condition:
    """What a report is made of, beside the counters.

    Attributes:
        state: label of the lifecycle state.
        topic, type_name: the image topic, resolved, and its message type.
        waited: seconds since activation.
        timeout: seconds without an image that are tolerated.
        faults: frames that failed since the last report.
        matcher: the loaded matcher, None while unconfigured.
        fault: why the configuration failed; empty if it did not.
        hardware_id: names model and device.
    """

    state: str
    topic: str
    type_name: str
    waited: float
    timeout: float
    faults: int
    matcher: Any
    fault: str
    hardware_id: str


def make_report(node: Node, snapshot: Snapshot, condition: Condition) -> DiagnosticArray:
    """Make the ``/diagnostics`` message: input, processing, model; a missing input is logged, too."""
    name = node.get_fully_qualified_name()
    report = DiagnosticArray()
    report.header.stamp = node.get_clock().now().to_msg()
    report.status = [
        _input_status(node, f"{name}: input", snapshot, condition),
        _processing_status(f"{name}: processing", snapshot, condition),
        _model_status(f"{name}: model", condition),
    ]
    return report


def _input_status(node: Node, name: str, snapshot: Snapshot, condition: Condition) -> DiagnosticStatus:
    topic, waited, age = condition.topic, condition.waited, snapshot.age
    level, message = OK, f"{snapshot.rate:.1f} images/s on {topic}"
    if condition.state != "active":
        message = f"not matching: the node is {condition.state}"
    elif age is None or age > waited:  # none since activation
        message = f"waiting for images on {topic}"
        if waited > condition.timeout:
            hint = _no_images_hint(node, topic, condition.type_name)
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


def _processing_status(name: str, snapshot: Snapshot, condition: Condition) -> DiagnosticStatus:
    level, message = OK, f"{snapshot.answered} pairs published"
    if snapshot.latency:
        message += f", median latency {snapshot.latency[0]:.0f} ms"
    if condition.faults:
        level = WARN
        message = f"{condition.faults} frames failed since the last report; the last one: {snapshot.problem}"
    values: dict[str, Any] = {"answered": snapshot.answered}
    for label, figures in (("latency", snapshot.latency), ("stamp_latency", snapshot.stamp_latency)):
        for index, percentile in enumerate(("p50", "p95", "p99")):
            values[f"{label}_{percentile}_ms"] = _rounded(figures[index] if figures else None)
    values |= {f"dropped_{cause}": snapshot.drops.get(cause, 0) for cause in DROPS}
    values |= {f"reset_{cause}": snapshot.resets.get(cause, 0) for cause in RESETS}
    return make_status(name, level, message, condition.hardware_id, values)


def _model_status(name: str, condition: Condition) -> DiagnosticStatus:
    if condition.fault:
        return make_status(name, ERROR, f"configuration failed: {condition.fault}", condition.hardware_id, {})
    if condition.matcher is None:
        return make_status(name, OK, "not configured", condition.hardware_id, {})
    info, config = asdict(condition.matcher.info), asdict(condition.matcher.config)
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
    topics = node.get_topic_names_and_types()
    others = sorted(name for name, kinds in topics if type_name in kinds and not name.startswith(mine))
    seen = f" (there are: {', '.join(others[:8])})" if others else " (there is none now)"
    return f"nobody publishes it; remap image_raw to a topic of type {type_name}{seen}"


def _rounded(value: float | None) -> float | str:
    return "" if value is None else round(value, 2)
