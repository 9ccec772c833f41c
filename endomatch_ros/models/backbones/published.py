"""timm's models with their published weights: from a file, the Hugging Face cache or the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import timm
from huggingface_hub import try_to_load_from_cache
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from endomatch_ros.errors import CheckpointError


def timm_home(name: str) -> str | None:
    """The module of timm that a model of this name is from; ``None`` if there is no such model."""
    return str(timm.models.model_entrypoint(name).__module__) if timm.is_model(name) else None


def timm_model(name: str, pretrained: bool, weights: Path | None) -> VisionTransformer | Eva:
    """One of timm's Transformers for images of any size, without a classifier; the rest as :func:`timm_module`."""
    model = timm_module(name, pretrained, weights, num_classes=0, dynamic_img_size=True)
    return cast(VisionTransformer | Eva, model)


def timm_module(name: str, pretrained: bool, weights: Path | None, **options: Any) -> nn.Module:
    """One of timm's models, whatever it is.

    Args:
        name: timm's, with the tag of the weights.
        pretrained: with the published weights, from the hub's cache or the hub itself.
        weights: local file with these weights in timm's format instead.
        options: what timm's model takes besides.

    Raises:
        CheckpointError: the weights cannot be had or do not fit.
    """
    if pretrained and weights is None:
        # From the cache without asking the hub: a robot without internet would wait for its retries at every start.
        weights = cached_weights(name)
    overlay = {"file": str(weights)} if weights is not None else None
    try:
        model: nn.Module = timm.create_model(
            name, pretrained=pretrained or weights is not None, pretrained_cfg_overlay=overlay, **options
        )
    except Exception as error:  # timm, the hub and safetensors raise types of their own for missing or damaged files
        raise CheckpointError(_missing(name, weights, error)) from error
    return model


def cached_weights(name: str) -> Path | None:
    """The file of a timm model's published weights in the Hugging Face cache, ``None`` if it is not there."""
    published = timm.get_pretrained_cfg(name)
    if published is None or not published.hf_hub_id:
        return None
    found = try_to_load_from_cache(published.hf_hub_id, "model.safetensors")
    return Path(found) if isinstance(found, str) else None


def _missing(name: str, weights: Path | None, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    where = f"from {weights}" if weights is not None else "from the hub or its cache"
    return (
        f"weights of {name} could not be loaded {where} ({reason}). Either run once with internet access "
        f"(they go to the Hugging Face cache, $HF_HOME), or download them and give the file as backbone_weights; "
        "the preset 'embedded' needs no download"
    )
