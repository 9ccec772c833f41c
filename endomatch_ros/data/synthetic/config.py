"""What a synthetic endoscopy scene is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from endomatch_ros.errors import ConfigError, check_ranges

Kind = Literal["tunnel", "cavity"]


@dataclass(frozen=True)
class SceneConfig:
    """A procedural endoscopy scene; equal configurations render equal frames.

    Attributes:
        seed: fixes the anatomy, the colours, the camera path and the noise.
        kind: ``tunnel`` (a lumen with folds, seen along its axis) or ``cavity`` (a closed space with bulging walls).
        width, height: image size in pixels, each at least 32.
        field_of_view: full angle seen across the view circle's diameter, degrees, 30 to 130.
        view_radius: radius of the circular view as a share of the shorter image side; above about 0.75 the circle
            leaves no black corners.
        radius: radius of the lumen in metres, the scene's scale.
        speed: mean camera speed in lumen radii per second.
        wobble: strength of the hand's rotation jitter; 1 gives some degrees per second.
        deformation: amplitude of the tissue's motion in lumen radii; 0 is a rigid scene.
        noise: standard deviation of the sensor noise in 8-bit levels at mid grey.
        specular: strength of wet highlights, 0 for none.
        stereo_baseline: metres from the camera to a second one on its right, whose image becomes the frames'
            partner; 0 for none, at most half the lumen's radius.
    """

    seed: int = 0
    kind: Kind = "tunnel"
    width: int = 640
    height: int = 512
    field_of_view: float = 85.0
    view_radius: float = 0.5
    radius: float = 0.012
    speed: float = 0.25
    wobble: float = 1.0
    deformation: float = 0.0
    noise: float = 2.0
    specular: float = 1.0
    stereo_baseline: float = 0.0

    def __post_init__(self) -> None:
        ranges = {
            "width": (32, 8192),
            "height": (32, 8192),
            "field_of_view": (30.0, 130.0),
            "view_radius": (0.2, 1.5),
            "radius": (1e-4, 1.0),
            "speed": (0.0, 10.0),
            "wobble": (0.0, 10.0),
            "deformation": (0.0, 0.2),
            "noise": (0.0, 50.0),
            "specular": (0.0, 10.0),
            "stereo_baseline": (0.0, self.radius / 2),  # further out the second camera would often be in the wall
        }
        if self.kind not in ("tunnel", "cavity"):
            raise ConfigError(f"scene kind {self.kind!r} is unknown: use 'tunnel' or 'cavity'")
        check_ranges(self, ranges, what="scene parameter ")


def parse_size(text: str) -> tuple[int, int]:
    """``(width, height)`` of ``WIDTHxHEIGHT``; raises :class:`ConfigError` for other text."""
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise ConfigError(f"--size {text!r} is not WIDTHxHEIGHT, e.g. 640x512") from None
    return width, height
