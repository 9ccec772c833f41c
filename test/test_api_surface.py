"""The public face: names and signatures that users, robots and recordings rely on are those of api_surface.json.

A change here is a change of a contract: say so in CHANGELOG.md, then write the file anew with
``ENDOMATCH_WRITE_SURFACE=1 python -m pytest test/test_api_surface.py``.
"""

from __future__ import annotations

import inspect
import json
import os
from pathlib import Path
from typing import Any

import pytest

import endomatch_ros
from endomatch_ros.data.clouds import CLOUD_DTYPE, STEREO_DTYPE
from endomatch_ros.models import PRESETS

FILE = Path(__file__).with_name("api_surface.json")
STANDARD = {"parameter_events", "rosout", "transition_event"}  # of every lifecycle node


def hold(part: str, found: dict[str, Any]) -> None:
    """Compare a part of the surface with the file, or write it there."""
    pinned = json.loads(FILE.read_text()) if FILE.is_file() else {}
    if os.environ.get("ENDOMATCH_WRITE_SURFACE"):
        FILE.write_text(json.dumps(pinned | {part: found}, indent=1, sort_keys=True) + "\n")
        return
    assert found == pinned[part]


def members(kind: type) -> dict[str, str]:
    """Public fields, methods and properties of a class, with their types or signatures."""
    out = {name: str(text) for name, text in inspect.get_annotations(kind).items() if not name.startswith("_")}
    for name, member in vars(kind).items():
        if name.startswith("_") or name in out:
            continue
        function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if isinstance(member, property):
            out[name] = f"property -> {inspect.signature(member.fget).return_annotation}"
        elif inspect.isfunction(function):
            out[name] = str(inspect.signature(function))
    return out


def test_python() -> None:
    classes = {name: getattr(endomatch_ros, name) for name in endomatch_ros.__all__}
    found = {
        name: {"": str(inspect.signature(kind)), **members(kind)} if inspect.isclass(kind) else str(kind)
        for name, kind in classes.items()
    }
    hold("python", {**found, "presets": list(PRESETS)})


def test_clouds() -> None:
    layouts = {"correspondences": CLOUD_DTYPE, "stereo/points": STEREO_DTYPE}
    hold("clouds", {topic: {name: str(dtype[name]) for name in dtype.names or ()} for topic, dtype in layouts.items()})


def test_ros() -> None:
    pytest.importorskip("rclpy", reason="rclpy is not installed")
    from support.ros import bench, wait_until

    from endomatch_ros.ros.messages.verdict import failure_values

    with bench() as current:
        node, client = current.node, current.client
        asked = (node.get_name(), node.get_namespace())
        wait_until(lambda: client.diagnostics("processing"), "a report")
        ends = {
            "publishes": client.node.get_publisher_names_and_types_by_node(*asked),
            "subscribes": client.node.get_subscriber_names_and_types_by_node(*asked),
            "services": client.node.get_service_names_and_types_by_node(*asked),
        }
        status = {part: sorted(client.diagnostics(part)[1]) for part in ("input", "processing", "model")}
        parameters = {
            name: str(node.describe_parameter(name).type)
            for name in sorted(node._parameters)
            if not name.startswith(("qos_overrides", "start_type_description"))
        }
    own = {
        kind: {
            name: types[0]
            for name, types in found
            if name.rpartition("/")[2] not in STANDARD and "parameter" not in name and "type_description" not in name
        }
        for kind, found in ends.items()
    }
    hold("ros", {**own, "parameters": parameters, "diagnostics": status, "epipolar_error": list(failure_values())})
