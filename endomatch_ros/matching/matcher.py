"""Two images in, correspondences out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from endomatch_ros.errors import ConfigError
from endomatch_ros.geometry.coverage import coverage
from endomatch_ros.matching.coarse import CoarseMatches, descriptor_similarity, match_coarse
from endomatch_ros.matching.config import MatcherConfig
from endomatch_ros.matching.features import FrameFeatures
from endomatch_ros.matching.keypoints import detect, thin
from endomatch_ros.matching.preparation import Prepared, Roi, prepare, share_size
from endomatch_ros.matching.refiners.dense_field import DenseField, consistent, dense_field
from endomatch_ros.matching.refiners.photometric import refine
from endomatch_ros.matching.types import Matches
from endomatch_ros.matching.view import lookup
from endomatch_ros.models import Descriptors, MatcherNetwork, ModelInfo, load_model


class Matcher:
    """Matches two images with an adapted vision Transformer.

    Set up once, then call :meth:`match` for image pairs; for a stream use
    :class:`~endomatch_ros.matching.StreamMatcher`, which runs the network once per frame.

    Args:
        network: the model, in eval mode.
        info: its description.
        config: settings.
        device: torch device name.

    Raises:
        ConfigError: settings that the model cannot serve.
    """

    def __init__(self, network: MatcherNetwork, info: ModelInfo, config: MatcherConfig, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.network = network.eval().requires_grad_(False).to(self.device)
        self.info = replace(info, device=str(self.device))
        self.config = self._possible(config)

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
            model: ``embedded``, ``embedded-dense``, ``dinov2-small``, ``dinov2-small-reg``, ``dinov2-base`` or a
                ``.safetensors`` path.
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
        """Change settings; raises :class:`ConfigError` and changes nothing if one of them is wrong.

        Features made before serve on; a frame whose features lack what the new settings need is described anew.
        """
        self.config = self.changed(**changes)

    def changed(self, **changes: Any) -> MatcherConfig:
        """The settings as :meth:`configure` would make them, which raises the same."""
        return self._possible(self.config.changed(**changes))

    def _possible(self, config: MatcherConfig) -> MatcherConfig:
        if config.needs_dense and self.network.dense is None:
            name = "refinement" if config.refinement == "dense" else "dense_consistency_cells"
            raise ConfigError(
                f"{name}={getattr(config, name)!r} needs a model with a head for dense fields, which this one has not: "
                "use embedded-dense, train one with `endomatch train --objective gvsl`, or set refinement to "
                "photometric and dense_consistency_cells to 0"
            )
        return config

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

    def extract(
        self, image: NDArray[np.uint8], mask: NDArray[Any] | None = None, roi: Roi | None = None
    ) -> FrameFeatures:
        """What :meth:`match_features` needs of one image; one pass of the network. Arguments as in :meth:`prepare`."""
        return self.describe([self.prepare(image, mask, roi)])[0]

    def prepare(
        self,
        image: NDArray[np.uint8],
        mask: NDArray[Any] | None = None,
        roi: Roi | None = None,
        auto: bool | None = None,
    ) -> Prepared:
        """Check an image and find its view, without the network.

        Args:
            image: RGB uint8 ``(H, W, 3)``.
            mask: as in :meth:`match`.
            roi: ``(x, y, width, height)`` in pixels, match only there; None: in the whole view.
            auto: find the view where no mask is given, and leave highlights out; None: as the setting ``mask`` says.

        Raises:
            ImageError: an image, mask or region that cannot be used.
        """
        auto = self.config.mask == "auto" if auto is None else auto
        return prepare(image, mask, roi, auto, self.config.resolution, self.network.config.patch_size)

    def describe(self, frames: Sequence[Prepared]) -> list[FrameFeatures]:
        """Features of several frames, by one pass of the network for those of one image size."""
        frames = share_size(frames)
        inputs = [frame.network_input for frame in frames]
        found: dict[int, FrameFeatures] = {}
        for shape in {image.shape for image, _ in inputs}:
            batch = [index for index, (image, _) in enumerate(inputs) if image.shape == shape]
            maps = self._forward(*(np.stack(part) for part in zip(*(inputs[i] for i in batch), strict=True)))
            found |= {i: self._features(frames[i], maps, position) for position, i in enumerate(batch)}
        return [found[index] for index in range(len(frames))]

    def complete(self, features: FrameFeatures) -> FrameFeatures:
        """The features with all that the settings need, described anew if they were made for others."""
        if features.tokens is not None or not self.config.needs_dense:
            return features
        return self.describe([Prepared(features.image, features.view, features.usable, features.window)])[0]

    def _features(self, frame: Prepared, maps: Descriptors, position: int) -> FrameFeatures:
        network, descriptors = self.network, maps.finest[position].float()
        log_scale = network.log_scale_coarse if network.fine is None else network.log_scale_fine
        return FrameFeatures(
            image=frame.image,
            usable=frame.usable,
            view=frame.view,
            window=frame.window,
            descriptors=descriptors,
            cell=frame.window.net_width / descriptors.shape[-1],
            temperature=float(torch.exp(-log_scale)),
            tokens=maps.coarse[position].float() if self.config.needs_dense else None,
        )

    def sample(
        self, features: FrameFeatures, tracked: NDArray[np.floating] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
        """Points of a frame to match: tracked ones where they do not crowd, new ones where there are none.

        Args:
            features: the frame.
            tracked: ``(M, 2)`` points to keep if possible, the oldest first.

        Returns:
            Points ``(N, 2)`` in source pixels, the tracked ones first, and the positions in ``tracked`` of those.
        """
        most = self.config.max_keypoints
        tracked = np.zeros((0, 2), np.float32) if tracked is None else tracked.astype(np.float32)
        kept = thin(features, tracked, most)
        fresh = detect(features, most - len(kept), tracked[kept])
        return np.concatenate([tracked[kept], fresh]), kept

    def match_features(
        self, features0: FrameFeatures, features1: FrameFeatures, points: NDArray[np.float32] | None = None
    ) -> Matches:
        """Correspondences between two extracted frames.

        Args:
            features0: the reference.
            features1: the current frame.
            points: ``(M, 2)`` points of the reference to match; None: those of :meth:`sample`. The result's
                ``track_ids`` are positions among them. Without refinement matches lie on the network's grid instead.
        """
        config, start = self.config, time.perf_counter()
        with torch.inference_mode():
            coarse = match_coarse(features0, features1, config.similarity_threshold)
        matched = time.perf_counter()
        field = self._field(features0, features1)
        registered = time.perf_counter()
        points0, points1, good = self._targets(features0, features1, points, coarse, field)
        with torch.inference_mode():
            similarity = descriptor_similarity(features0, features1, points0, points1)
        good = good & (similarity >= config.similarity_threshold)
        dropped = {}
        if field is not None and config.dense_consistency_cells > 0:
            right = consistent(field, features0, points0, points1, config.dense_consistency_cells)
            good, dropped = good & right, {"dense_consistency": int((good & ~right).sum())}
        keep = np.flatnonzero(good)
        seconds = {"matching": matched - start, "refinement": time.perf_counter() - registered}
        if field is not None:
            seconds["dense"] = registered - matched
        return Matches(
            keypoints0=points0[keep],
            keypoints1=points1[keep],
            similarity=similarity[keep],
            track_ids=keep.astype(np.uint32),
            size0=features0.size,
            size1=features1.size,
            coverage=coverage(points0[keep], features0.view),
            timings={stage: 1e3 * took for stage, took in seconds.items()},
            dropped=dropped,
        )

    def _field(self, features0: FrameFeatures, features1: FrameFeatures) -> DenseField | None:
        """The head's field, where the settings use it."""
        if not self.config.needs_dense:
            return None
        return dense_field(self.network, self.complete(features0), self.complete(features1))

    def _targets(
        self,
        features0: FrameFeatures,
        features1: FrameFeatures,
        points: NDArray[np.float32] | None,
        coarse: CoarseMatches,
        field: DenseField | None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
        """Points of the reference, their targets and which of these can be believed, as the setting refinement says."""
        config = self.config
        if config.refinement == "none":
            order = np.sort(np.argsort(-coarse.similarity, kind="stable")[: config.max_keypoints])
            points0, points1 = coarse.points0[order].astype(np.float32), coarse.points1[order].astype(np.float32)
            return points0, points1, lookup(features0.usable, points0) & lookup(features1.usable, points1)
        points0 = self.sample(features0)[0] if points is None else points
        prior = field if config.refinement == "dense" else None
        points1, good = refine(features0, features1, points0, coarse, config.forward_backward_px, prior)
        return points0, points1, good

    def warmup(self, size: tuple[int, int]) -> None:
        """Run once on noise of ``size`` = ``(width, height)``, so that the first real frame is not the slow one."""
        noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        features = self.extract(noise)
        self.match_features(features, features)

    def _forward(self, images: NDArray[np.uint8], views: NDArray[np.uint8]) -> Descriptors:
        """Descriptors of network images ``(B, H, W, 3)`` and their views ``(B, H, W)``."""
        with torch.inference_mode():
            # Channels last, as the images come: convolutions and the matching after them are faster for it.
            tensor = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).float() / 255.0
            weights = torch.from_numpy(views).to(self.device)[:, None].float()
            half = self.config.half and self.device.type == "cuda"
            with torch.autocast(self.device.type, torch.float16, enabled=half):
                maps: Descriptors = self.network(tensor, weights)
            return maps


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
