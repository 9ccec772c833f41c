"""Depth from one image by a pre-trained network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from endomatch_ros.data.frames import Frame
from endomatch_ros.data.view import view_of
from endomatch_ros.device import resolve_device
from endomatch_ros.errors import CheckpointError, ConfigError

DEFAULT_WEIGHTS = "depth-anything/Depth-Anything-V2-Small-hf"


@dataclass(frozen=True)
class MonoConfig:
    """How a relative inverse depth, known up to scale and shift, becomes a depth.

    Attributes:
        ratio: depth of the farthest tissue over that of the nearest; the network cannot tell it, so it is set.
        percentiles: of the network's output in the view, which are taken for the farthest and the nearest tissue.

    Raises:
        ConfigError: a value outside its range.
    """

    ratio: float = 5.0
    percentiles: tuple[float, float] = (1.0, 99.0)

    def __post_init__(self) -> None:
        if not 1.0 < self.ratio <= 1000.0:
            raise ConfigError(f"mono depth: ratio={self.ratio} is outside (1, 1000]")
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise ConfigError(f"mono depth: percentiles={self.percentiles} do not rise within [0, 100]")


class MonoDepth:
    """Depth Anything V2, or another depth network that ``transformers`` loads.

    Args:
        weights: folder with a model in ``transformers``' format, or a model's name on the Hugging Face hub, which is
            looked for in the local cache before the hub is asked; None for :data:`DEFAULT_WEIGHTS`.
        device: ``auto`` (CUDA where there is one, else CPU), ``cpu``, ``cuda``, ``cuda:1``, …
        config: how relative output becomes depth.

    Attributes:
        metric: whether the network was trained to give metres.

    Raises:
        CheckpointError: ``transformers`` is not installed, or the weights are missing, damaged or of another kind.
        ConfigError: a device that is not there.
    """

    name = "mono"

    def __init__(
        self, weights: str | Path | None = None, device: str = "cpu", config: MonoConfig | None = None
    ) -> None:
        self.config = config or MonoConfig()
        self._device = torch.device(resolve_device(device))
        self._processor, model = _load(str(weights or DEFAULT_WEIGHTS))
        self._model = model.to(self._device).eval()
        self.metric = getattr(model.config, "depth_estimation_type", "relative") == "metric"

    def __call__(self, frame: Frame) -> NDArray[np.float32]:
        """Depth ``(H, W)``: metres from a metric network, else relative with median 1; NaN outside the view."""
        view = view_of(frame)
        out = np.full(view.shape, np.nan, np.float32)
        if not view.any():
            return out
        predicted = self._predict(frame.image)[view]
        if self.metric:
            out[view] = np.where(np.isfinite(predicted) & (predicted > 0), predicted, np.nan)
        else:
            depth = relative_depth(predicted, self.config)
            out[view] = depth / np.median(depth)
        return out

    @torch.inference_mode()
    def _predict(self, image: NDArray[np.uint8]) -> NDArray[np.float64]:
        """The network's output at the image's own size, ``(H, W)``."""
        inputs = self._processor(images=image, input_data_format="channels_last", return_tensors="pt")
        predicted = self._model(pixel_values=inputs["pixel_values"].to(self._device)).predicted_depth
        full = functional.interpolate(predicted[:, None].float(), image.shape[:2], mode="bilinear", align_corners=False)
        return full[0, 0].cpu().numpy().astype(np.float64)


def relative_depth(inverse: NDArray[np.float64], config: MonoConfig) -> NDArray[np.float64]:
    """Positive depth of any scale from inverse depth up to scale and shift.

    The output between the configured percentiles is mapped to 0…1 and clipped there; depth is ``1 / (that + c)`` with
    ``c = 1 / (ratio - 1)``, so that depths span exactly ``ratio``. An output without any contrast is a flat depth.
    """
    low, high = np.percentile(inverse, config.percentiles)
    nearness = ((inverse - low) / (high - low)).clip(0, 1) if high > low else np.zeros_like(inverse)
    return np.asarray(1.0 / (nearness + 1.0 / (config.ratio - 1.0)), np.float64)


def _load(weights: str) -> tuple[Any, Any]:
    """Image processor and model, from a folder, the local cache, or else the hub."""
    folder = Path(weights).expanduser()
    if folder.is_dir():
        remedy = "give a folder that save_pretrained wrote, with its preprocessor_config.json"
    elif folder.is_absolute() or weights.startswith(("~", ".")) or weights.count("/") != 1:
        raise CheckpointError(f"there is no folder {weights}: give one with a model, or a model's name, user/name")
    else:
        remedy = f"run `hf download {weights}` where there is a network and copy that folder here, to be given by name"
    try:
        return _from_cache_or_hub(str(folder) if folder.is_dir() else weights, folder.is_dir())
    except CheckpointError:
        raise
    except Exception as error:  # whatever transformers, the hub and safetensors raise
        raise CheckpointError(f"the weights {weights} of mono depth cannot be loaded: {error}; {remedy}") from error


def _from_cache_or_hub(source: str, local: bool) -> tuple[Any, Any]:
    try:
        return _from_pretrained(source, offline=True)
    except OSError:
        if local:
            raise
        return _from_pretrained(source, offline=False)


def _from_pretrained(source: str, offline: bool) -> tuple[Any, Any]:
    try:
        from transformers import AutoImageProcessor, AutoModelForDepthEstimation
    except ImportError as error:
        raise CheckpointError(
            f'mono depth needs transformers ({error}): pip install "endomatch_ros[mono]", or choose the depth provider '
            "photometric"
        ) from error
    # Only safetensors: unpickling a file that somebody else made can run their code.
    model, info = AutoModelForDepthEstimation.from_pretrained(
        source, local_files_only=offline, use_safetensors=True, output_loading_info=True
    )
    if info["missing_keys"]:
        # transformers would go on with random numbers in their place.
        raise ValueError(f"it lacks {', '.join(sorted(info['missing_keys'])[:3])}")
    return AutoImageProcessor.from_pretrained(source, local_files_only=offline), model
