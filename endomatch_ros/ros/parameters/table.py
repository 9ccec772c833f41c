"""The table of the node's parameters: type, default, range, description, and when each may change."""

from __future__ import annotations

from dataclasses import dataclass

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

from endomatch_ros.matching import refiners

OWN = "model"
UNNAMED = ""
"""The camera of a node without named cameras."""
STEREO = "stereo"
"""Where the stereo mode's outputs are, which therefore is no camera's name."""


@dataclass(frozen=True)
class Spec:
    """One parameter.

    Attributes:
        default: default value, which also fixes the type.
        description: what it does, unit included.
        low, high: closed range of a number; None where it has none.
        choices: allowed strings.
        each_camera: with named cameras there is ``NAME.parameter``, too, whose default means: as for all.
        when: ``live`` (any time), ``unconfigured`` (only while the node is unconfigured), ``start`` (read only).
    """

    default: bool | int | float | str | list[int] | list[str]
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    when: str = "live"
    each_camera: bool = False

    def descriptor(self) -> ParameterDescriptor:
        """The parameter's rcl_interfaces descriptor."""
        text = {
            "live": " Changes at once.",
            "unconfigured": " Changed only while unconfigured (lifecycle deactivate, cleanup).",
            "start": " Fixed at start.",
        }[self.when]
        descriptor = ParameterDescriptor(description=self.description + text, read_only=self.when == "start")
        if self.choices:
            descriptor.additional_constraints = "one of: " + ", ".join(self.choices)
        if self.low is not None and self.high is not None:
            if isinstance(self.default, (int, list)):
                descriptor.integer_range = [IntegerRange(from_value=int(self.low), to_value=int(self.high), step=0)]
            else:
                descriptor.floating_point_range = [
                    FloatingPointRange(from_value=float(self.low), to_value=float(self.high), step=0.0)
                ]
        return descriptor


_SETUP = "unconfigured"
SPECS: dict[str, Spec] = {
    "autostart": Spec(True, "Configure and activate when the node starts.", when="start"),
    "cameras": Spec(
        [UNNAMED], "Names of the cameras, for example [left, right]: inputs left/image_raw, …, outputs ~/left/…; one "
        "empty name: a single camera on image_raw.", when="start",
    ),
    "mode": Spec(
        "temporal", "temporal: each frame with an earlier one of its camera; stereo: the first camera's frames with "
        "the second's of the same moment, outputs under ~/stereo; both.",
        choices=("temporal", STEREO, "both"), when=_SETUP,
    ),
    "model": Spec(
        "embedded", "Preset (embedded, embedded-dense, dinov2-small, dinov2-small-reg, dinov2-base) or path of a "
        ".safetensors file.",
        when=_SETUP,
    ),
    "device": Spec("auto", "Where the network runs: auto, cpu, cuda or cuda:N.", when=_SETUP),
    "backbone_weights": Spec(
        "", "For the dinov2 presets: file with the backbone's weights in timm's format; empty: the hub's cache.",
        when=_SETUP
    ),
    "image_transport": Spec(
        "raw", "raw: sensor_msgs/Image on image_raw; compressed: CompressedImage on image_raw/compressed.",
        choices=("raw", "compressed"), when=_SETUP,
    ),
    "rectified": Spec(False, "true: images are rectified already, use P of camera_info; false: K and D.", when=_SETUP),
    "mask": Spec(
        "auto", "Where to match: auto (view circle found, highlights left out), none (everywhere) or the path of a "
        "mask image (non-zero: use) of the images' size.", when=_SETUP, each_camera=True,
    ),
    "roi": Spec(
        [0, 0, 0, 0], "Region of interest [x, y, width, height] in px of the image: match only there; width and height "
        "0: the whole image. A frame that does not hold it is dropped as bad_image.", 0, 65535, each_camera=True,
    ),
    "reference": Spec(
        "previous", "What a frame is matched with: previous (the frame before) or keyframe (the same frame until the "
        "keyframe_… rules or ~/set_keyframe replace it).", choices=("previous", "keyframe"),
    ),
    "keyframe_min_overlap": Spec(
        0.5, "With reference keyframe: a new one when the matches' coverage falls below this share of its best; 0: "
        "never.", 0.0, 1.0
    ),
    "keyframe_min_inlier_ratio": Spec(
        0.4, "With reference keyframe: a new one when a smaller share of matches are inliers; 0: never.", 0.0, 1.0
    ),
    "keyframe_lost_frames": Spec(
        3, "With reference keyframe: a new one after so many frames in a row with fewer than min_matches matches.",
        1, 1000
    ),
    "sync_tolerance_s": Spec(
        0.01, "Largest difference in seconds of the stamps of frames of one moment, with several cameras; 0: "
        "equal.", 0.0, 1.0
    ),
    "batch_wait_s": Spec(
        0.02, "Seconds that a frame waits for the other cameras' frames of its moment, to go through the network with "
        "them; in stereo mode it waits until it is paired or too old.", 0.0, 1.0
    ),
    "resolution": Spec(
        0, "Long side in px of what the network sees, more is finer and slower; 0: the model's own.", 0, 4096
    ),
    "similarity_threshold": Spec(-1.0, "Least cosine similarity of a match, 0 to 1; -1: the model's own.", -1.0, 1.0),
    "max_keypoints": Spec(0, "Most points that are matched, spread over the view; 0: the model's own.", 0, 100_000),
    "refinement": Spec(
        OWN, f"Sub-pixel refinement of the targets in the source image: {refiners.described()}; model: the model's "
        "own.",
        choices=(OWN, *refiners.names()),
    ),
    "forward_backward_px": Spec(
        -1.0, "Matches with a larger forward-backward error of the refinement, px of the image, are dropped; -1: the "
        "model's own.", -1.0, 100.0
    ),
    "dense_consistency_cells": Spec(
        0.0, "Matches further than this from the field of the model's head are dropped, in cells of its map (4 px of "
        "what the network sees); for models that have a head; 0: none are.", 0.0, 100.0
    ),
    "ransac_threshold_px": Spec(1.0, "Largest epipolar distance of an inlier, px of the image.", 0.05, 50.0),
    "warn_median_px": Spec(
        1.5, "Median epipolar error in px above which the level of ~/epipolar_error is WARN.", 0.0, 1000.0
    ),
    "error_median_px": Spec(
        5.0, "Median epipolar error in px above which the level of ~/epipolar_error is ERROR.", 0.0, 1000.0
    ),
    "min_matches": Spec(30, "Fewer matches than this make the level of ~/epipolar_error ERROR.", 8, 100_000),
    "min_inlier_ratio": Spec(0.5, "A smaller share of inliers makes the level of ~/epipolar_error WARN.", 0.0, 1.0),
    "input_timeout_s": Spec(2.0, "Seconds without an image until /diagnostics says so.", 0.1, 3600.0),
    "visualization_scale": Spec(0.5, "Size of the overlay relative to the image; 1: full size.", 0.1, 1.0),
    "visualization_quality": Spec(90, "JPEG quality of the compressed overlay, 1 to 100.", 1, 100),
    "markers_max": Spec(1000, "Most match lines in ~/markers, spread over the image.", 1, 100_000),
}  # fmt: skip
MATCHER_PARAMETERS = (
    "resolution", "similarity_threshold", "max_keypoints", "refinement", "forward_backward_px",
    "dense_consistency_cells",
)  # fmt: skip
