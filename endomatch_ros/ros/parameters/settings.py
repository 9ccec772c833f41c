"""The node's parameters: declared from their table, validated, read into :class:`Settings`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from endomatch_ros.errors import ConfigError
from endomatch_ros.matching.keyframes import KeyframeRules
from endomatch_ros.ros.messages.verdict import Limits
from endomatch_ros.ros.parameters.table import (
    KEYFRAME_PARAMETERS,
    MATCHER_PARAMETERS,
    SPECS,
    STEREO,
    UNNAMED,
    Settings,
    descriptor,
)
from endomatch_ros.settings import OWN, Declaration, Value, declared

if TYPE_CHECKING:
    from rclpy.node import Node

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
_CAMERA = re.compile(r"[a-z][a-z0-9_]*")
_LEAST_ROI_PX = 32


def declare(node: Node) -> list[str]:
    """Declare every parameter and return the cameras' names.

    Raises:
        rclpy.exceptions.ParameterException: an override of wrong type or value.
    """
    for name, spec in SPECS.items():
        node.declare_parameter(name, spec.initial, descriptor(spec))
    cameras = list(node.get_parameter("cameras").value)
    for camera in cameras if cameras != [UNNAMED] else []:
        for name, spec in SPECS.items():
            if spec.each_camera:
                inherited = _inherited(spec)
                text = f"{name} of camera {camera} alone; {_shown(inherited) or 'empty'}: as {name}. {spec.text}"
                node.declare_parameter(f"{camera}.{name}", inherited, descriptor(replace(spec, text=text)))
    return cameras


def read(node: Node, camera: str = UNNAMED) -> Settings:
    """The node's parameters as they are now, for one camera."""
    return changed(node, camera, {})


def changed(node: Node, camera: str, changes: Mapping[str, Any]) -> Settings:
    """The node's parameters as they would be with ``changes`` (by name), for one camera."""

    def value(name: str, spec: Declaration) -> Value:
        return _typed(spec, changes[name] if name in changes else node.get_parameter(name).value)

    values: dict[str, Any] = {name: value(name, spec) for name, spec in SPECS.items()}
    for name, spec in SPECS.items():
        if camera != UNNAMED and spec.each_camera:
            own = value(f"{camera}.{name}", spec)
            values[name] = values[name] if own == _inherited(spec) else own
    rules = {attribute: values[name] for name, attribute in KEYFRAME_PARAMETERS.items()}
    return Settings(
        **{name: values[name] for name in declared(Settings)},
        keyframe_rules=KeyframeRules(min_matches=values["min_matches"], **rules),
        limits=Limits(**{name: values[name] for name in declared(Limits)}),
        matcher={name: values[name] for name in MATCHER_PARAMETERS if values[name] != SPECS[name].initial},
    )


def spec_of(name: str) -> Declaration | None:
    """The declaration of a parameter, also of a camera's own (``left.mask``); None for others."""
    own = SPECS.get(name.rpartition(".")[2])
    return SPECS.get(name) or (own if own and own.each_camera else None)


def _inherited(spec: Declaration) -> Value:
    """The value of a camera's own parameter that means: as for all cameras."""
    return "" if isinstance(spec.default, str) else spec.default


def _typed(spec: Declaration, value: Any) -> Value:
    """A parameter's value as its setting holds it: an array as a tuple, a number with the setting's type."""
    if isinstance(spec.default, tuple):
        return tuple(value)
    return float(value) if isinstance(spec.default, float) and value != OWN else value


def _shown(value: Any) -> Any:
    """A value as people write it: arrays as lists."""
    return value if isinstance(value, str | bool | int | float | None) else list(value)


def check(changes: Mapping[str, Any], current: Mapping[str, Any], configured: bool) -> None:
    """Check new values beyond what rclpy makes of type and range.

    Args:
        changes: new values by name, each of a parameter that :func:`spec_of` knows.
        current: the values so far.
        configured: weights are loaded and topics are open.

    Raises:
        ConfigError: with the parameter's name, its value and what is allowed.
    """
    for name, value in changes.items():
        spec = spec_of(name)
        assert spec is not None
        if "." not in name or _typed(spec, value) != _inherited(spec):
            _check_one(name, _shown(value), spec)
        if configured and spec.when == "unconfigured" and value != current.get(name):
            raise ConfigError(
                f"{name} can only be changed while the node is unconfigured: bring it there with the lifecycle "
                "transitions deactivate and cleanup, set it, then configure and activate"
            )
    values = {**current, **changes}
    if {"warn_median_px", "error_median_px"} <= values.keys():
        warn, error = values["warn_median_px"], values["error_median_px"]
        if warn > error:
            raise ConfigError(f"warn_median_px {warn:g} must not be above error_median_px {error:g}")
    cameras = list(values.get("cameras", [UNNAMED]))
    if values.get("mode", "temporal") != "temporal" and len(cameras) != 2:
        raise ConfigError(
            f"mode {values['mode']} matches two cameras, but cameras is {cameras}; set it at start, for example "
            "cameras: [left, right]"
        )


def _check_one(name: str, value: Any, spec: Declaration) -> None:
    if spec.own and value == OWN:
        return
    try:
        replace(spec, name=name).check(value)
    except ConfigError as error:
        remedy = f"; write {OWN} for the model's own value" if spec.own else ""
        raise ConfigError(f"{error}{remedy}") from None
    if name == "device" and not _DEVICE.fullmatch(value):
        raise ConfigError(f"device is {value!r}; it must be auto, cpu, cuda or cuda:N")
    if name == "model" and not value.strip():
        raise ConfigError("model is empty; name a preset or a checkpoint file")
    if name == "cameras":
        _check_cameras(value)
    if name.endswith("roi"):
        _check_roi(name, value)
    if name.endswith("mask") and value not in ("auto", "none") and not os.path.isfile(value):
        raise ConfigError(f"{name} is {value!r}; it must be auto, none or the path of an existing image")


def _check_cameras(names: list[str]) -> None:
    if names == [UNNAMED]:
        return
    wrong = [name for name in names if not _CAMERA.fullmatch(name) or name == STEREO]
    if not names or wrong or len(set(names)) < len(names):
        raise ConfigError(
            f"cameras is {names}; it must hold different names of small letters, digits and underscores, other than "
            f"{STEREO!r}, or one empty name for a single camera"
        )


def _check_roi(name: str, value: list[int]) -> None:
    if len(value) != 4:
        raise ConfigError(
            f"{name} is {value}; it must be [x, y, width, height] in pixels, or [0, 0, 0, 0] for the image"
        )
    if (value[2] or value[3]) and min(value[2:]) < _LEAST_ROI_PX:
        raise ConfigError(f"{name} is {value}; width and height must be at least {_LEAST_ROI_PX}, or both 0")
