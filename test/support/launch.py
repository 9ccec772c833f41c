"""Help for tests of what launch files decide: launch arguments at their defaults."""

from __future__ import annotations

import pytest
from conftest import ROOT

pytest.importorskip("rclpy", reason="rclpy is not installed")

from endomatch_ros.ros import launching

CONFIG = ROOT / "config"
STEREO = {"cameras": "[left, right]", "image": "/rig/{camera}/image_raw"}


def values(**given: str) -> dict[str, str]:
    """All launch arguments of the node, those not given at their defaults."""
    return {name: default or "" for name, (default, _) in launching.NODE_ARGUMENTS.items()} | given


def inputs(pushed: str = "", **given: str) -> launching.Inputs:
    """What :func:`launching.find_inputs` makes of them."""
    return launching.find_inputs(values(**given), CONFIG, pushed)
