"""The public face: names and signatures that users, robots and recordings rely on are those of api_surface.json.

A change here is a change of a contract: say so in CHANGELOG.md, then write the file anew with
``ENDOMATCH_WRITE_SURFACE=1 python -m pytest test/test_api_surface.py``.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Iterable
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
    assert found == pinned[part], __doc__


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
    hold("python", found)
    # Others may come; these stay.
    assert {"embedded", "embedded-dense", "dinov2-small", "dinov2-small-reg", "dinov2-base"} <= PRESETS.keys()


def test_clouds() -> None:
    layouts = {"correspondences": CLOUD_DTYPE, "stereo/points": STEREO_DTYPE}
    hold("clouds", {topic: {name: str(dtype[name]) for name in dtype.names or ()} for topic, dtype in layouts.items()})


def test_ros() -> None:
    pytest.importorskip("rclpy", reason="rclpy is not installed")
    from support.ros import bench, wait_until

    from endomatch_ros.ros.messages.verdict import failure_values

    def kind_of(end: Any) -> str:
        """``package/msg/Name`` of the type of a topic or service."""
        kind = getattr(end, "msg_type", None) or end.srv_type
        return f"{kind.__module__.partition('._')[0].replace('.', '/')}/{kind.__name__}"

    def ends(found: Iterable[Any], name: str) -> dict[str, str]:
        """Those that are not of every node, by name."""
        return {
            getattr(end, name): kind_of(end)
            for end in found
            if getattr(end, name).rpartition("/")[2] not in STANDARD
            and "parameter" not in getattr(end, name)
            and "type_desc" not in getattr(end, name)
        }

    with bench() as current:
        node, client = current.node, current.client
        wait_until(lambda: client.diagnostics("processing"), "a report")
        status = {
            # What refiners and checks drop follows from their registry.
            part: sorted(key for key in client.diagnostics(part)[1] if not key.startswith("matches_dropped_"))
            for part in ("input", "processing", "model")
        }
        parameters = {
            name: str(node.describe_parameter(name).type)
            for name in sorted(node._parameters)
            if not name.startswith(("qos_overrides", "start_type_description"))
        }
        own = {
            "publishes": ends(node.publishers, "topic_name"),
            "subscribes": ends(node.subscriptions, "topic_name"),
            "services": ends(node.services, "service_name"),
        }
    hold("ros", {**own, "parameters": parameters, "diagnostics": status, "epipolar_error": list(failure_values())})
