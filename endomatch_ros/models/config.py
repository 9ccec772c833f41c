"""What a matcher network is made of, and the named presets."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from endomatch_ros.errors import CheckpointError, ConfigError

_NEWER = {"max_keypoints", "forward_backward_px", "dense_levels"}  # not in the first checkpoints


@dataclass(frozen=True)
class ModelConfig:
    """Architecture of a matcher network; stored beside the weights in every checkpoint.

    Attributes:
        backbone: ``compact`` (convolutional stem and a small Transformer, trained here) or timm's name of a Vision
            Transformer, e.g. ``vit_small_patch14_dinov2.lvd142m``; see :mod:`~endomatch_ros.models.backbones.registry`.
        patch_size: pixels of the network's input a token stands for; the input is a multiple of it.
        embed_dim, depth, heads: the compact backbone's Transformer; ignored for a timm name.
        stem_channels: channels of the convolutional stem that feeds the fine map.
        fine_dim: length of a fine descriptor; 0 for a model without fine branch (tokens only).
        dense_levels: resolutions of the local stage of the head that registers two images
            (:meth:`~endomatch_ros.models.network.MatcherNetwork.register`); 0 for a model without one.
        normalisation: ``imagenet`` mean and deviation, or ``standardise`` each image over its view.
        resolution: long side in pixels of the view as the network sees it. This and what follows is the model's
            operating point, chosen on validation data; a caller may say otherwise.
        similarity_threshold: least cosine similarity of a match, 0 to 1.
        max_keypoints: most matches of a pair.
        forward_backward_px: largest distance in source pixels between a point and its way there and back.
    """

    backbone: str = "compact"
    patch_size: int = 16
    embed_dim: int = 192
    depth: int = 3
    heads: int = 6
    stem_channels: int = 64
    fine_dim: int = 64
    dense_levels: int = 0
    normalisation: Literal["imagenet", "standardise"] = "standardise"
    resolution: int = 320
    similarity_threshold: float = 0.5
    max_keypoints: int = 6000
    forward_backward_px: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary, the inverse of :meth:`from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Build from a checkpoint's metadata; raises :class:`CheckpointError` on unknown or missing keys.

        What older checkpoints do not know may be missing: part of the operating point gets today's defaults, and there
        is no head.
        """
        known = {f.name for f in fields(cls)}
        missing = known - set(values) - _NEWER
        if set(values) - known or missing:
            odd = ", ".join(sorted((set(values) - known) | missing))
            raise CheckpointError(
                f"the checkpoint's model config differs from this version's in: {odd}; retrain or update"
            )
        return cls(**values)


def _published(name: str, patch_size: int, embed_dim: int, heads: int, resolution: int) -> ModelConfig:
    """A published Vision Transformer of 12 blocks as it is; its operating point was not chosen on data."""
    return ModelConfig(
        backbone=name,
        patch_size=patch_size,
        embed_dim=embed_dim,
        depth=12,
        heads=heads,
        fine_dim=0,
        normalisation="imagenet",
        resolution=resolution,
        similarity_threshold=0.3,
    )


PRESETS: dict[str, ModelConfig] = {
    "embedded": ModelConfig(),
    "embedded-dense": ModelConfig(dense_levels=4),
    "dinov2-small": _published("vit_small_patch14_dinov2.lvd142m", 14, 384, 6, 644),
    "dinov2-small-reg": _published("vit_small_patch14_reg4_dinov2.lvd142m", 14, 384, 6, 644),
    "dinov2-base": _published("vit_base_patch14_dinov2.lvd142m", 14, 768, 12, 644),
    "dinov3-small": _published("vit_small_patch16_dinov3.lvd1689m", 16, 384, 6, 640),
    "dinov3-base": _published("vit_base_patch16_dinov3.lvd1689m", 16, 768, 12, 640),
}


def preset_config(name: str) -> ModelConfig:
    """The configuration of a named preset; raises :class:`ConfigError` for any other name."""
    if name not in PRESETS:
        raise ConfigError(
            f"unknown model {name!r}: use a preset ({', '.join(PRESETS)}) or the path of a .safetensors file"
        )
    return PRESETS[name]
