"""What a GVSL model looks like, and the named presets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from endomatch_ros.errors import ConfigError, check_ranges
from endomatch_ros.geometry.affine import AffineLimits


@dataclass(frozen=True)
class GvslConfig:
    """Shape of a model; it travels in the checkpoint.

    Attributes:
        spatial_dims: 2 for frames, 3 for volumes.
        in_channels: channels of an image: 1 for CT and MR, 3 for RGB.
        channels: of the U-Net's levels, the finest first; each level halves the resolution. Multiples of 8, or fewer
            than 8.
        affine: keep the global stage.
        deformable: keep the local stage.
        integration_steps: squarings of the local stage's velocity field; 0 takes its output as the displacement itself.
        limits: bounds of the affine map.
        pool: cells along each axis that the bottleneck is pooled to before the affine map is read from it.
        shrink: the network sees the images this many times smaller along each axis; its field is enlarged before it
            resamples the image. A field is smooth: 2 costs little accuracy and saves most of the time.
        levels: resolutions at which the local stage compares the features; more reach further.
    """

    spatial_dims: int = 3
    in_channels: int = 1
    channels: tuple[int, ...] = (8, 16, 32, 64)
    affine: bool = True
    deformable: bool = True
    integration_steps: int = 7
    limits: AffineLimits = field(default_factory=AffineLimits)
    pool: int = 4
    shrink: int = 1
    levels: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))
        ranges = {
            "spatial_dims": (2, 3),
            "in_channels": (1, 64),
            "integration_steps": (0, 12),
            "pool": (1, 8),
            "shrink": (1, 8),
            "levels": (1, 6),
        }
        check_ranges(self, ranges, whole=tuple(ranges))
        bad = [c for c in self.channels if not isinstance(c, int) or c < 1 or (c > 8 and c % 8)]
        if not 2 <= len(self.channels) <= 7 or bad:
            raise ConfigError(
                f"channels={self.channels!r}: give 2 to 7 levels, each a multiple of 8 or a whole number below 8"
            )

    @property
    def stride(self) -> int:
        """Voxels of the image along one side of a voxel of the bottleneck."""
        return int(2 ** (len(self.channels) - 1))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GvslConfig:
        """Inverse of :meth:`to_dict`.

        Raises:
            ConfigError: an unknown name or a value outside its range.
        """
        values = dict(values)
        try:
            limits = AffineLimits(**values.pop("limits", {}))
            return cls(limits=limits, **values)
        except TypeError as error:
            raise ConfigError(f"{error}: not a configuration of this version's GVSL model") from error


PRESETS: dict[str, GvslConfig] = {
    "volume-paper": GvslConfig(channels=(32, 64, 128, 256, 512), integration_steps=0),
    "volume-small": GvslConfig(),
    "frames-small": GvslConfig(spatial_dims=2, in_channels=3, channels=(16, 32, 64, 128)),
}


def preset_config(name: str, **changes: Any) -> GvslConfig:
    """The named preset with some attributes changed.

    ``volume-paper``: the paper's network; ``volume-small``: 8–64 channels with an integrated velocity field, for small
    volumes and CPUs; ``frames-small``: the same idea for RGB frames.

    Raises:
        ConfigError: an unknown preset or attribute, or a value outside its range.
    """
    if name not in PRESETS:
        raise ConfigError(f"there is no GVSL preset {name!r}: use one of {', '.join(PRESETS)}")
    try:
        return dataclasses.replace(PRESETS[name], **changes)
    except TypeError as error:
        raise ConfigError(f"{error}: not an attribute of a GVSL configuration") from error
