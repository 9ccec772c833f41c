"""The table of the node's parameters: what they are, in which order, and their values at one moment.

The node's own are declared here; those of the matcher, of keyframes and of the verdict are the declarations of
:class:`MatcherConfig`, :class:`KeyframeRules` and :class:`Limits`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

from endomatch_ros.matching.config import MatcherConfig
from endomatch_ros.matching.keyframes import KeyframeRules
from endomatch_ros.models.config import PRESETS
from endomatch_ros.ros.messages.verdict import Limits
from endomatch_ros.settings import OWN, Declaration, Scalar, When, declared, setting

UNNAMED = ""
"""The camera of a node without named cameras."""
STEREO = "stereo"
"""Where the stereo mode's outputs are, which therefore is no camera's name."""


@dataclass(frozen=True)
class Settings:
    """The parameters' values at one moment, for one camera.

    Attributes:
        matcher: what was chosen of :data:`MATCHER_PARAMETERS`; what is left to the model is absent.
    """

    autostart: bool = setting(True, "Configure and activate when the node starts.", when="start")
    cameras: tuple[str, ...] = setting(
        (UNNAMED,),
        "Names of the cameras, for example [left, right]: inputs left/image_raw, …, outputs ~/left/…; one empty name: "
        "a single camera on image_raw.",
        when="start",
    )
    mode: str = setting(
        "temporal",
        "temporal: each frame with an earlier one of its camera; stereo: the first camera's frames with the second's "
        "of the same moment, outputs under ~/stereo; both.",
        choices=("temporal", STEREO, "both"),
        when="unconfigured",
    )
    model: str = setting(
        "embedded",
        f"Preset ({', '.join(PRESETS)}) or path of a .safetensors file.",
        when="unconfigured",
    )
    device: str = setting("auto", "Where the network runs: auto, cpu, cuda or cuda:N.", when="unconfigured")
    backbone_weights: str = setting(
        "",
        "For presets with a published backbone: file with its weights in timm's format; empty: the hub's cache.",
        when="unconfigured",
    )
    image_transport: str = setting(
        "raw",
        "raw: sensor_msgs/Image on image_raw; compressed: CompressedImage on image_raw/compressed.",
        choices=("raw", "compressed"),
        when="unconfigured",
    )
    rectified: bool = setting(
        False, "true: images are rectified already, use P of camera_info; false: K and D.", when="unconfigured"
    )
    mask: str = setting(
        "auto",
        "Where to match: auto (view circle found, highlights left out), none (everywhere) or the path of a mask image "
        "(bright: use) of the images' size.",
        when="unconfigured",
        each_camera=True,
    )
    roi: tuple[int, ...] = setting(
        (0, 0, 0, 0),
        "Region of interest [x, y, width, height] in px of the image: match only there; width and height 0: the whole "
        "image. A frame that does not hold it is dropped as bad_image.",
        low=0,
        high=65535,
        each_camera=True,
    )
    reference: str = setting(
        "previous",
        "What a frame is matched with: previous (the frame before) or keyframe (the same frame until the keyframe_… "
        "rules or ~/set_keyframe replace it).",
        choices=("previous", "keyframe"),
    )
    sync_tolerance_s: float = setting(
        0.01,
        "Largest difference in seconds of the stamps of frames of one moment, with several cameras; 0: equal.",
        low=0.0,
        high=1.0,
    )
    batch_wait_s: float = setting(
        0.02,
        "Seconds that a frame waits for the other cameras' frames of its moment, to go through the network with them; "
        "in stereo mode it waits until it is paired or too old.",
        low=0.0,
        high=1.0,
    )
    ransac_threshold_px: float = setting(
        1.0, "Largest epipolar distance of an inlier, px of the image.", low=0.05, high=50.0
    )
    input_timeout_s: float = setting(2.0, "Seconds without an image until /diagnostics says so.", low=0.1, high=3600.0)
    visualization_scale: float = setting(
        0.5, "Size of the overlay relative to the image; 1: full size.", low=0.1, high=1.0
    )
    visualization_quality: int = setting(90, "JPEG quality of the compressed overlay.", low=1, high=100)
    markers_max: int = setting(1000, "Most match lines in ~/markers, spread over the image.", low=1, high=100_000)
    keyframe_rules: KeyframeRules = field(default_factory=KeyframeRules)
    limits: Limits = field(default_factory=Limits)
    matcher: Mapping[str, Scalar] = field(default_factory=dict)

    @property
    def region(self) -> tuple[int, int, int, int] | None:
        """The region of interest, None for the whole image."""
        x, y, width, height = self.roi
        return (x, y, width, height) if width or height else None

    @property
    def mask_file(self) -> str | None:
        """Path of the mask image, None for ``auto`` and ``none``."""
        return None if self.mask in ("auto", "none") else self.mask

    def matcher_config(self) -> dict[str, Scalar]:
        """What was chosen for the matcher; values left to the model are absent."""
        return dict(self.matcher)


_MATCHER = {name: spec for name, spec in declared(MatcherConfig).items() if name not in ("mask", "half")}
MATCHER_PARAMETERS = tuple(_MATCHER)
"""The matcher's settings that are parameters: not ``mask``, which each camera has, nor ``half``, for Python alone."""
# A frame is lost with fewer matches than the verdict's min_matches: one parameter for both.
KEYFRAME_PARAMETERS = {f"keyframe_{name}": name for name in declared(KeyframeRules) if name != "min_matches"}
"""Attributes of the keyframes' rules by parameter."""
GROUPS: dict[str, Mapping[str, Declaration]] = {
    "The node": declared(Settings),
    "Keyframes (reference: keyframe)": {
        name: replace(declared(KeyframeRules)[attribute], name=name) for name, attribute in KEYFRAME_PARAMETERS.items()
    },
    "The matcher": _MATCHER,
    "Levels of ~/epipolar_error": declared(Limits),
}
"""The parameters by name, under headings for people."""
SPECS: dict[str, Declaration] = {name: spec for group in GROUPS.values() for name, spec in group.items()}
"""All parameters by name."""

_WHEN: dict[When, str] = {
    "live": "Changes at once.",
    "unconfigured": "Changed only while unconfigured (lifecycle deactivate, cleanup).",
    "start": "Fixed at start.",
}


def allowed(spec: Declaration) -> str:
    """What a parameter may be, in words; empty for anything of its type."""
    if not spec.own:
        return spec.allowed
    return f"{OWN}, {spec.allowed}" if spec.choices else f"{OWN} or {spec.allowed}"


def descriptor(spec: Declaration) -> ParameterDescriptor:
    """The parameter's rcl_interfaces descriptor.

    A number that can be left to the model is dynamically typed: it can be :data:`OWN`. Its range is told in words, for
    rclpy would refuse a value outside before the node can say what to write.
    """
    made = ParameterDescriptor(description=f"{spec.text} {_WHEN[spec.when]}", read_only=spec.when == "start")
    if spec.choices:
        made.additional_constraints = f"one of: {allowed(spec)}"
    elif spec.own:
        made.additional_constraints, made.dynamic_typing = allowed(spec), True
    elif spec.low is not None and spec.high is not None:
        if isinstance(spec.default, float):
            made.floating_point_range = [FloatingPointRange(from_value=spec.low, to_value=spec.high, step=0.0)]
        else:
            made.integer_range = [IntegerRange(from_value=int(spec.low), to_value=int(spec.high), step=0)]
    return made
