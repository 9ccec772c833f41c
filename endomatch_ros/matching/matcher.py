"""Two images in, correspondences out."""

from __future__ import annotations

import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from endomatch_ros.errors import ConfigError
from endomatch_ros.geometry.coverage import coverage
from endomatch_ros.matching.coarse import descriptor_similarity, match_coarse
from endomatch_ros.matching.config import MatcherConfig
from endomatch_ros.matching.features import FrameFeatures, Window
from endomatch_ros.matching.keypoints import detect, thin
from endomatch_ros.matching.mask import check_image, check_mask, highlight_mask, lookup, view_mask
from endomatch_ros.matching.refinement import refine
from endomatch_ros.matching.types import Matches
from endomatch_ros.models import Descriptors, MatcherNetwork, ModelInfo, load_model


class Matcher:
    """Matches two images with an adapted vision Transformer.

    Set up once, then call :meth:`match` for image pairs; for a stream use
    :class:`~endomatch_ros.matching.StreamMatcher`, which runs the network once a frame.

    Args:
        network: the model, in eval mode.
        info: its description.
        config: settings.
        device: torch device name.
    """

    def __init__(self, network: MatcherNetwork, info: ModelInfo, config: MatcherConfig, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.network = network.eval().requires_grad_(False).to(self.device)
        self.info = replace(info, device=str(self.device))
        self.config = config

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = "embedded",
        device: str = "auto",
        backbone_weights: str | Path | None = None,
        **config: Any,
    ) -> Matcher:
        """Load a preset or a checkpoint.

        Args:
            model: ``embedded``, ``dinov2-small``, ``dinov2-small-reg``, ``dinov2-base`` or a ``.safetensors`` path.
            device: ``auto`` (CUDA where there is one, else CPU), ``cpu``, ``cuda``, ``cuda:1``, …
            backbone_weights: local file with a timm backbone's weights, for models that do not carry them.
            **config: settings of :class:`MatcherConfig`; the rest come from the model's own operating point.

        Raises:
            ConfigError: unknown preset, device or setting, or a value out of range.
            CheckpointError: weights are missing, damaged or do not fit.
        """
        chosen = resolve_device(device)
        network, info = load_model(model, backbone_weights)
        own = {f.name for f in fields(MatcherConfig)} & set(network.config.to_dict())
        defaults = MatcherConfig(**{name: getattr(network.config, name) for name in own})
        return cls(network, info, defaults.changed(**config), chosen)

    def configure(self, **changes: Any) -> None:
        """Change settings; raises :class:`ConfigError` and changes nothing if one of them is wrong."""
        self.config = self.config.changed(**changes)

    def match(
        self,
        image0: NDArray[np.uint8],
        image1: NDArray[np.uint8],
        mask0: NDArray[Any] | None = None,
        mask1: NDArray[Any] | None = None,
    ) -> Matches:
        """Correspondences between two RGB uint8 images ``(H, W, 3)``, whose sizes may differ.

        Args:
            image0: the reference.
            image1: the current image.
            mask0: ``(H, W)`` bool or uint8, non-zero inside the view; ``None`` finds the view by itself.
            mask1: the same for the current image.

        Raises:
            ImageError: an image or mask that cannot be used.
        """
        start = time.perf_counter()
        features0, features1 = self.extract(image0, mask0), self.extract(image1, mask1)
        timings = {"backbone": 1e3 * (time.perf_counter() - start)}  # of both images
        matches = self.match_features(features0, features1)
        return replace(matches, timings={**timings, **matches.timings})

    def extract(self, image: NDArray[np.uint8], mask: NDArray[Any] | None = None) -> FrameFeatures:
        """What :meth:`match_features` needs of one image; one pass of the network."""
        config = self.config
        image = check_image(image)
        auto = config.mask == "auto"
        if mask is not None:
            view = check_mask(mask, image)
        else:
            view = view_mask(image) if auto else np.ones(image.shape[:2], bool)
        usable = view & ~highlight_mask(image) if auto else view
        window = self._window(view, config.resolution)
        size = (window.net_width, window.net_height)
        shrinks = window.net_width < window.width
        small = cv2.resize(image[window.area], size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        small_view = cv2.resize(view[window.area].astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        descriptors = self._forward(np.asarray(small, np.uint8), np.asarray(small_view, np.uint8))
        network = self.network
        log_scale = network.log_scale_coarse if network.fine is None else network.log_scale_fine
        return FrameFeatures(
            image=image,
            usable=usable,
            view=view,
            window=window,
            descriptors=descriptors,
            cell=window.net_width / descriptors.shape[-1],
            temperature=float(torch.exp(-log_scale)),
        )

    def match_features(
        self, features0: FrameFeatures, features1: FrameFeatures, seeds: NDArray[np.float32] | None = None
    ) -> Matches:
        """Correspondences between two extracted frames.

        Args:
            features0: the reference.
            features1: the current frame.
            seeds: ``(M, 2)`` points of the reference to follow (tracks), the oldest first; where they crowd, the
                younger ones are let go. They come first in the result, and ``track_ids`` holds their position in
                ``seeds``. New points get positions from M on.
        """
        config, start = self.config, time.perf_counter()
        seeds = np.zeros((0, 2), np.float32) if seeds is None else seeds.astype(np.float32)
        with torch.inference_mode():
            coarse = match_coarse(features0, features1, config.similarity_threshold)
        matched = time.perf_counter()
        if config.refinement == "photometric":
            kept = thin(features0, seeds, config.max_keypoints)
            fresh = detect(features0, config.max_keypoints - len(kept), seeds[kept])
            points0 = np.concatenate([seeds[kept], fresh])
            positions = np.concatenate([kept, len(seeds) + np.arange(len(fresh))])
            points1, good = refine(features0, features1, points0, coarse, config.forward_backward_px)
        else:
            order = np.sort(np.argsort(-coarse.similarity, kind="stable")[: config.max_keypoints])
            points0, points1 = coarse.points0[order].astype(np.float32), coarse.points1[order].astype(np.float32)
            good = lookup(features0.usable, points0) & lookup(features1.usable, points1)
            # Grid points are not where the tracks are: every match is a new one.
            positions = len(seeds) + np.arange(len(points0))
        with torch.inference_mode():
            similarity = descriptor_similarity(features0, features1, points0, points1)
        keep = np.flatnonzero(good & (similarity >= config.similarity_threshold))
        done = time.perf_counter()
        return Matches(
            keypoints0=points0[keep],
            keypoints1=points1[keep],
            similarity=similarity[keep],
            track_ids=positions[keep].astype(np.uint32),
            size0=features0.size,
            size1=features1.size,
            coverage=coverage(points0[keep], features0.view),
            timings={"matching": 1e3 * (matched - start), "refinement": 1e3 * (done - matched)},
        )

    def warmup(self, size: tuple[int, int]) -> None:
        """Run once on noise of ``size`` = ``(width, height)``, so that the first real frame is not the slow one."""
        noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        features = self.extract(noise)
        self.match_features(features, features)

    def _window(self, view: NDArray[np.bool_], resolution: int) -> Window:
        """The view's bounding box, and its size for the network: a multiple of the patch, long side ``resolution``."""
        height, width = view.shape
        columns, rows = np.flatnonzero(view.any(axis=0)), np.flatnonzero(view.any(axis=1))
        # An empty view, or one too thin to be one, leaves the whole image to the network; nothing will match.
        if len(columns) < 32 or len(rows) < 32:
            x, y = 0, 0
        else:
            x, y = int(columns[0]), int(rows[0])
            width, height = int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y
        patch = self.network.config.patch_size
        scale = resolution / max(width, height)
        net = [max(4, round(side * scale / patch)) * patch for side in (width, height)]
        return Window(x, y, width, height, *net)

    def _forward(self, image: NDArray[np.uint8], view: NDArray[np.uint8]) -> torch.Tensor:
        with torch.inference_mode():
            tensor = torch.from_numpy(image).to(self.device).permute(2, 0, 1)[None].float() / 255.0
            weights = torch.from_numpy(view).to(self.device)[None, None].float()
            half = self.config.half and self.device.type == "cuda"
            with torch.autocast(self.device.type, torch.float16, enabled=half):
                descriptors: Descriptors = self.network(tensor, weights)
            return descriptors.finest[0].float()


def resolve_device(device: str) -> str:
    """``device`` as a torch device name; ``auto`` is CUDA where there is one. Raises :class:`ConfigError`."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device {device!r} is unknown: use auto, cpu, cuda or cuda:N") from error
    if kind.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {device!r} is not supported: use auto, cpu, cuda or cuda:N")
    if kind.type == "cuda" and (kind.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ConfigError(f"device {device!r} was asked for, but PyTorch sees {count} CUDA devices: use auto or cpu")
    return str(kind)
