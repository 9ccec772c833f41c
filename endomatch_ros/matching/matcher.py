"""Two images in, correspondences out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from endomatch_ros.device import half_type, resolve_device, upload
from endomatch_ros.geometry.coverage import coverage
from endomatch_ros.matching import refiners
from endomatch_ros.matching.coarse import descriptor_similarity, match_coarse
from endomatch_ros.matching.config import MatcherConfig
from endomatch_ros.matching.features import FrameFeatures, WorkingCopy
from endomatch_ros.matching.graphs import PLAIN_CALLS
from endomatch_ros.matching.interface import FrameStream, Reference
from endomatch_ros.matching.preparation import Prepared, Roi, prepare, share_size
from endomatch_ros.matching.refiners.engine import Engine, make_engine
from endomatch_ros.matching.refiners.interface import Pair, Refined
from endomatch_ros.matching.stream import StreamMatcher
from endomatch_ros.matching.types import Matches
from endomatch_ros.models import Descriptors, MatcherNetwork, ModelInfo, load_model
from endomatch_ros.settings import Scalar


class Matcher:
    """Matches two images with an adapted vision Transformer.

    Set up once, then call :meth:`match` for image pairs; for a stream use
    :class:`~endomatch_ros.matching.StreamMatcher`, which runs the network once per frame. Settings never change: for
    others take :meth:`with_config`.

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
        if self.device.type == "cpu":
            _attend_plainly(self.network)
        self.info = replace(info, device=str(self.device))
        # Read once: it would make the host wait for a GPU with every frame.
        self._temperature = float(
            torch.exp(-network.log_scale_coarse if network.fine is None else -network.log_scale_fine)
        )
        self._engines: dict[str, Engine] = {}  # by name, shared by matchers of other settings, as the network is
        self._use(config)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = "embedded",
        device: str = "auto",
        backbone_weights: str | Path | None = None,
        **config: Scalar,
    ) -> Matcher:
        """Load a preset or a checkpoint.

        Args:
            model: one of :data:`~endomatch_ros.models.config.PRESETS`, or a ``.safetensors`` path.
            device: ``auto`` (CUDA where there is one, else CPU), ``cpu``, ``cuda``, ``cuda:1``, …
            backbone_weights: local file with the backbone's published weights, for models that do not carry them.
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

    @property
    def config(self) -> MatcherConfig:
        """Settings."""
        return self._config

    def with_config(self, **changes: Scalar) -> Matcher:
        """A matcher with other settings that shares the network with this one, which stays as it is.

        Features that either has made serve the other.

        Raises:
            ConfigError: an unknown setting, a value out of range or one that the model cannot serve.
        """
        other = copy(self)
        other._use(self.config.changed(**changes))
        return other

    @property
    def keeps_points(self) -> bool:
        """Whether matches start at the points that are asked for, so that a stream can track them."""
        return self._refiner.keeps_points

    def stream(self, reference: Reference = "previous", after: FrameStream | None = None) -> StreamMatcher:
        """A new stream; ``after``: the one that it takes over from, whose track ids are not used again."""
        return StreamMatcher(self, reference, 0 if after is None else after.next_id)

    def _use(self, config: MatcherConfig) -> None:
        """Take the settings, of a matcher that nobody else knows yet."""
        self._refiner, self._checks = refiners.build(config, self.network)
        self._engine_name = config.engine_on(self.device.type)
        if self._engine_name not in self._engines:
            self._engines[self._engine_name] = make_engine(self._engine_name)
        self._config = config

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
        # What is looked at beside the network is made beside it: a network has a core to spare, or a GPU of its own.
        with ThreadPoolExecutor(1, "endomatch-copies") as beside:
            copies = [beside.submit(WorkingCopy.of, frame.image, frame.usable, frame.window) for frame in frames]
            for shape in {image.shape for image, _ in inputs}:
                batch = [index for index, (image, _) in enumerate(inputs) if image.shape == shape]
                maps = self._forward(*(np.stack(part) for part in zip(*(inputs[i] for i in batch), strict=True)))
                found |= {i: self._features(frames[i], maps, position) for position, i in enumerate(batch)}
        for index, copied in enumerate(copies):
            found[index].once("working copy", copied.result)
        return [found[index] for index in range(len(frames))]

    def _features(self, frame: Prepared, maps: Descriptors, position: int) -> FrameFeatures:
        descriptors = maps.finest[position].float()
        return FrameFeatures(
            image=frame.image,
            usable=frame.usable,
            view=frame.view,
            window=frame.window,
            descriptors=descriptors,
            cell=frame.window.net_width / descriptors.shape[-1],
            temperature=self._temperature,
            tokens=maps.coarse[position].float(),
        )

    def match_features(
        self, features0: FrameFeatures, features1: FrameFeatures, points: NDArray[np.float32] | None = None
    ) -> Matches:
        """Correspondences between two extracted frames.

        Args:
            features0: the reference.
            features1: the current frame.
            points: ``(M, 2)`` points of the reference to match; None: well-textured ones all over the view. If the
                matcher :attr:`keeps_points`, the result's ``track_ids`` are positions among them.
        """
        config, start = self.config, time.perf_counter()
        fixed = self._engine_name == "torch"
        with torch.inference_mode():
            coarse = match_coarse(features0, features1, config.similarity_threshold, fixed)
        pair = Pair(self.network, config, features0, features1, coarse, self._engines[self._engine_name], points)
        matched = time.perf_counter()
        found = self._refiner.refine(pair)
        points0, points1, similarity, good, *rest = self._read(pair, found)
        good, dropped = good & (similarity >= config.similarity_threshold), dict(found.dropped)
        for name, right in zip(self._checks, rest, strict=True):
            good, dropped[name] = good & right, int((good & ~right).sum())
        keep = np.flatnonzero(good)
        refined = time.perf_counter() - matched - sum(pair.seconds.values())
        seconds = {"matching": matched - start, "refinement": refined, **pair.seconds}
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

    def _read(self, pair: Pair, found: Refined) -> tuple[NDArray[Any], ...]:
        """Points 0 and 1, similarity, good, and what each check keeps, by one copy to the host."""
        with torch.inference_mode():
            similarity = descriptor_similarity(pair.features0, pair.features1, found.points0, found.points1)
            flags = [found.good, *(check.keep(pair, found) for check in self._checks.values())]
            columns = [found.points0, found.points1, similarity[:, None], torch.stack(flags, 1).float()]
            read = torch.cat(columns, 1).cpu().numpy()
        points0, points1 = (np.ascontiguousarray(read[:, k : k + 2]) for k in (0, 2))
        return points0, points1, read[:, 4].copy(), *(column > 0 for column in read[:, 5:].T)

    def warmup(self, size: tuple[int, int]) -> None:
        """Run on noise of ``size`` = ``(width, height)``, so that the first real frame is not the slow one."""
        noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        features = self.extract(noise)
        for _ in range(PLAIN_CALLS + 1 if self.device.type == "cuda" else 1):  # on a GPU until graphs are captured
            self.match_features(features, features)

    def _forward(self, images: NDArray[np.uint8], views: NDArray[np.uint8]) -> Descriptors:
        """Descriptors of network images ``(B, H, W, 3)`` and their views ``(B, H, W)``."""
        with torch.inference_mode():
            # Channels last, as the images come: convolutions and the matching after them are faster for it.
            tensor = upload(images, self.device).permute(0, 3, 1, 2).float() / 255.0
            weights = upload(views, self.device)[:, None].float()
            half = half_type(self.device.type) if self.config.half else None
            with torch.autocast(self.device.type, half, enabled=half is not None):
                maps: Descriptors = self.network(tensor, weights)
            return maps


def _attend_plainly(network: MatcherNetwork) -> None:
    """Attention by plain products: with some hundred tokens a CPU's fused kernel takes longer in half precision."""
    for module in network.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # type: ignore[assignment]  # timm's own switch
