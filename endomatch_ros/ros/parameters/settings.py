"""The node's parameters: declared from their table, validated, read into :class:`Settings`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from endomatch_ros.errors import ConfigError
from endomatch_ros.matching.keyframes import KeyframeRules
from endomatch_ros.ros.messages.verdict import Limits
from endomatch_ros.ros.parameters.table import MATCHER_PARAMETERS, SPECS, STEREO, UNNAMED, Spec

if TYPE_CHECKING:
    from rclpy.node import Node

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
_CAMERA = re.compile(r"[a-z][a-z0-9_]*")
_LEAST_ROI_PX = 32


@dataclass(frozen=True)
class Settings:
    """The parameters' values at one moment; see :data:`SPECS` for the meaning of each."""

    mode: str
    model: str
    device: str
    backbone_weights: str
    image_transport: str
    rectified: bool
    mask: str
    roi: tuple[int, ...]
    reference: str
    keyframe_min_overlap: float
    keyframe_min_inlier_ratio: float
    keyframe_lost_frames: int
    sync_tolerance_s: float
    batch_wait_s: float
    resolution: int
    similarity_threshold: float
    max_keypoints: int
    refinement: str
    forward_backward_px: float
    dense_consistency_cells: float
    ransac_threshold_px: float
    warn_median_px: float
    error_median_px: float
    min_matches: int
    min_inlier_ratio: float
    input_timeout_s: float
    visualization_scale: float
    visualization_quality: int
    markers_max: int

    @property
    def limits(self) -> Limits:
        """The thresholds of ``~/epipolar_error``."""
        return Limits(self.warn_median_px, self.error_median_px, self.min_matches, self.min_inlier_ratio)

    @property
    def keyframe_rules(self) -> KeyframeRules:
        """When a keyframe is replaced."""
        return KeyframeRules(
            self.keyframe_min_overlap, self.keyframe_min_inlier_ratio, self.min_matches, self.keyframe_lost_frames
        )

    @property
    def region(self) -> tuple[int, int, int, int] | None:
        """The region of interest, None for the whole image."""
        x, y, width, height = self.roi
        return (x, y, width, height) if width or height else None

    @property
    def mask_file(self) -> str | None:
        """Path of the mask image, None for ``auto`` and ``none``."""
        return None if self.mask in ("auto", "none") else self.mask

    def matcher_config(self) -> dict[str, Any]:
        """What was chosen for the matcher; values left to the model are absent."""
        return {name: getattr(self, name) for name in MATCHER_PARAMETERS if getattr(self, name) != SPECS[name].default}


def declare(node: Node) -> list[str]:
    """Declare every parameter and return the cameras' names.

    Raises:
        rclpy.exceptions.ParameterException: an override of wrong type or value.
    """
    for name, spec in SPECS.items():
        node.declare_parameter(name, spec.default, spec.descriptor())
    cameras = list(node.get_parameter("cameras").value)
    for camera in cameras if cameras != [UNNAMED] else []:
        for name, spec in SPECS.items():
            if spec.each_camera:
                inherited = _inherited(spec)
                text = f"{name} of camera {camera} alone; {inherited or 'empty'}: as {name}. {spec.description}"
                own = replace(spec, default=inherited, description=text)
                node.declare_parameter(f"{camera}.{name}", own.default, own.descriptor())
    return cameras


def read(node: Node, camera: str = UNNAMED) -> Settings:
    """The node's parameters as they are now, for one camera."""
    return changed(node, camera, {})


def changed(node: Node, camera: str, changes: Mapping[str, Any]) -> Settings:
    """The node's parameters as they would be with ``changes`` (by name), for one camera."""
    values = {f.name: changes.get(f.name, node.get_parameter(f.name).value) for f in fields(Settings)}
    for name, spec in SPECS.items():
        if camera != UNNAMED and spec.each_camera:
            full = f"{camera}.{name}"
            own = _plain(changes.get(full, node.get_parameter(full).value))
            values[name] = values[name] if own == _inherited(spec) else own
    frozen: dict[str, Any] = {name: value if _is_scalar(value) else tuple(value) for name, value in values.items()}
    return Settings(**frozen)


def spec_of(name: str) -> Spec | None:
    """The specification of a parameter, also of a camera's own (``left.mask``); None for others."""
    own = SPECS.get(name.rpartition(".")[2])
    return SPECS.get(name) or (own if own and own.each_camera else None)


def _inherited(spec: Spec) -> Any:
    """The value of a camera's own parameter that means: as for all cameras."""
    return "" if isinstance(spec.default, str) else spec.default


def _plain(value: Any) -> Any:
    return value if _is_scalar(value) else list(value)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, (str, bool, int, float))


def check(changes: Mapping[str, Any], current: Mapping[str, Any], configured: bool) -> None:
    """Check new values beyond what type and range can say.

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
        if "." not in name or _plain(value) != _inherited(spec):
            _check_one(name, _plain(value), spec)
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


def _check_one(name: str, value: Any, spec: Spec) -> None:
    if spec.choices and value not in spec.choices:
        raise ConfigError(f"{name} is {value!r}; it must be one of {', '.join(spec.choices)}")
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
    if isinstance(value, float) and spec.low is not None and spec.low < 0 < (spec.high or 0) and spec.low < value < 0:
        raise ConfigError(f"{name} is {value:g}; it must be {spec.low:g} (the model's own) or 0 to {spec.high:g}")


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
