"""The node's parameters: one table, declared with description and range, validated, read into :class:`Settings`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

from endomatch_ros.errors import ConfigError
from endomatch_ros.ros.messages import Limits

if TYPE_CHECKING:
    from rclpy.node import Node

OWN = "model"
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


@dataclass(frozen=True)
class Spec:
    """One parameter.

    Attributes:
        default: default value, which also fixes the type.
        description: what it does, unit included.
        low, high: closed range of a number; None where it has none.
        choices: allowed strings.
        when: ``live`` (any time), ``unconfigured`` (only while the node is unconfigured), ``start`` (read only).
    """

    default: bool | int | float | str
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    when: str = "live"

    def descriptor(self) -> ParameterDescriptor:
        """The parameter's rcl_interfaces descriptor."""
        text = {"live": "", "unconfigured": " Changed only while unconfigured.", "start": " Fixed at start."}[self.when]
        descriptor = ParameterDescriptor(description=self.description + text, read_only=self.when == "start")
        if self.choices:
            descriptor.additional_constraints = "one of: " + ", ".join(self.choices)
        if self.low is not None and self.high is not None:
            if isinstance(self.default, int):
                descriptor.integer_range = [IntegerRange(from_value=int(self.low), to_value=int(self.high), step=0)]
            else:
                descriptor.floating_point_range = [
                    FloatingPointRange(from_value=float(self.low), to_value=float(self.high), step=0.0)
                ]
        return descriptor


_SETUP = "unconfigured"
SPECS: dict[str, Spec] = {
    "autostart": Spec(True, "Configure and activate when the node starts.", when="start"),
    "model": Spec("embedded", "Preset (embedded, dinov2-small, …) or path of a .safetensors checkpoint.", when=_SETUP),
    "device": Spec("auto", "Where the network runs: auto, cpu, cuda or cuda:N.", when=_SETUP),
    "backbone_weights": Spec(
        "", "File with a DINOv2 backbone's weights in timm's format; empty: the hub's cache.", when=_SETUP
    ),
    "image_transport": Spec(
        "raw", "raw: sensor_msgs/Image on image_raw; compressed: CompressedImage on image_raw/compressed.",
        choices=("raw", "compressed"), when=_SETUP,
    ),
    "rectified": Spec(False, "Images are rectified already: use P of camera_info, no distortion.", when=_SETUP),
    "mask": Spec(
        "auto", "Where to match: auto (view circle found, highlights left out), none (everywhere) or the path of a "
        "mask image (non-zero: use) of the images' size.", when=_SETUP,
    ),
    "resolution": Spec(0, "Long side in pixels of what the network sees; 0: the model's own.", 0, 4096),
    "similarity_threshold": Spec(-1.0, "Least cosine similarity of a match, 0 to 1; -1: the model's own.", -1.0, 1.0),
    "max_keypoints": Spec(0, "Most matches per image pair; 0: the model's own.", 0, 100_000),
    "refinement": Spec(
        OWN, "Sub-pixel refinement of the targets in the source image; model: the model's own.",
        choices=(OWN, "none", "photometric"),
    ),
    "forward_backward_px": Spec(
        -1.0, "Largest forward-backward error of the refinement in px; -1: the model's own.", -1.0, 100.0
    ),
    "ransac_threshold_px": Spec(1.0, "Inlier threshold of the robust epipolar geometry in px.", 0.05, 50.0),
    "warn_median_px": Spec(1.5, "Median epipolar error in px above which the level is WARN.", 0.0, 1000.0),
    "error_median_px": Spec(5.0, "Median epipolar error in px above which the level is ERROR.", 0.0, 1000.0),
    "min_matches": Spec(30, "Fewer matches than this are an ERROR.", 8, 100_000),
    "min_inlier_ratio": Spec(0.5, "A smaller share of inliers is a WARN.", 0.0, 1.0),
    "input_timeout_s": Spec(2.0, "Seconds without an image until /diagnostics says so.", 0.1, 3600.0),
    "visualization_scale": Spec(0.5, "Size of the overlay relative to the image.", 0.1, 1.0),
    "visualization_quality": Spec(90, "JPEG quality of the compressed overlay.", 1, 100),
}  # fmt: skip
MATCHER_PARAMETERS = ("resolution", "similarity_threshold", "max_keypoints", "refinement", "forward_backward_px")


@dataclass(frozen=True)
class Settings:
    """The parameters' values at one moment; see :data:`SPECS` for the meaning of each."""

    model: str
    device: str
    backbone_weights: str
    image_transport: str
    rectified: bool
    mask: str
    resolution: int
    similarity_threshold: float
    max_keypoints: int
    refinement: str
    forward_backward_px: float
    ransac_threshold_px: float
    warn_median_px: float
    error_median_px: float
    min_matches: int
    min_inlier_ratio: float
    input_timeout_s: float
    visualization_scale: float
    visualization_quality: int

    @property
    def limits(self) -> Limits:
        """The thresholds of ``~/epipolar_error``."""
        return Limits(self.warn_median_px, self.error_median_px, self.min_matches, self.min_inlier_ratio)

    @property
    def mask_file(self) -> str | None:
        """Path of the mask image, None for ``auto`` and ``none``."""
        return None if self.mask in ("auto", "none") else self.mask

    def matcher_config(self) -> dict[str, Any]:
        """What was chosen for the matcher; values left to the model are absent."""
        chosen = {
            name: getattr(self, name) for name in MATCHER_PARAMETERS if getattr(self, name) != SPECS[name].default
        }
        return {**chosen, "mask": "none" if self.mask == "none" else "auto"}


def declare(node: Node) -> None:
    """Declare every parameter; raises rclpy's InvalidParameter… exceptions on an override of wrong type or value."""
    for name, spec in SPECS.items():
        node.declare_parameter(name, spec.default, spec.descriptor())


def read(node: Node) -> Settings:
    """The node's parameters as they are now."""
    return Settings(**{field.name: node.get_parameter(field.name).value for field in fields(Settings)})


def check(changes: Mapping[str, Any], current: Mapping[str, Any], configured: bool) -> None:
    """Check new values beyond what type and range can say.

    Args:
        changes: new values by name.
        current: the values so far.
        configured: weights are loaded and topics are open.

    Raises:
        ConfigError: with the parameter's name, its value and what is allowed.
    """
    for name, value in changes.items():
        _check_one(name, value, SPECS[name])
        if configured and SPECS[name].when == "unconfigured" and value != current.get(name):
            raise ConfigError(
                f"{name} can only be changed while the node is unconfigured: bring it there with the lifecycle "
                "transitions deactivate and cleanup, set it, then configure and activate"
            )
    values = {**current, **changes}
    if {"warn_median_px", "error_median_px"} <= values.keys():
        warn, error = values["warn_median_px"], values["error_median_px"]
        if warn > error:
            raise ConfigError(f"warn_median_px {warn:g} must not be above error_median_px {error:g}")


def _check_one(name: str, value: Any, spec: Spec) -> None:
    if spec.choices and value not in spec.choices:
        raise ConfigError(f"{name} is {value!r}; it must be one of {', '.join(spec.choices)}")
    if name == "device" and not _DEVICE.fullmatch(value):
        raise ConfigError(f"device is {value!r}; it must be auto, cpu, cuda or cuda:N")
    if name == "model" and not value.strip():
        raise ConfigError("model is empty; name a preset or a checkpoint file")
    if name == "mask" and value not in ("auto", "none") and not os.path.isfile(value):
        raise ConfigError(f"mask is {value!r}; it must be auto, none or the path of an existing image")
    if spec.low is not None and spec.low < 0 < (spec.high or 0) and spec.low < value < 0:
        raise ConfigError(f"{name} is {value:g}; it must be {spec.low:g} (the model's own) or 0 to {spec.high:g}")
