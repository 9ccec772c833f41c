"""Learned matchers to compare with, through kornia, where the user has their weights. Nothing is ever downloaded.

Images are shrunk, never enlarged, to about the long side that a method's authors use; positions are mapped back by the
package's convention, x' = (x + ½)·s − ½. ``similarity`` is the method's own score, 0 to 1. The networks see the whole
image; keypoints outside the views are left out before the strongest are chosen, and matches outside them at the end.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from endomatch_ros.device import device_name, resolve_device
from endomatch_ros.errors import CheckpointError, ConfigError
from endomatch_ros.evaluation.methods.interface import Entry, Image, Mask, NamedMethod, Request, grey, matches_of
from endomatch_ros.evaluation.methods.kornia_networks import (
    Aliked,
    Disk,
    LightGlue,
    Loftr,
    MutualNeighbours,
    Sparse,
    XFeat,
)
from endomatch_ros.evaluation.provenance import code_digest
from endomatch_ros.matching.types import Matches
from endomatch_ros.matching.view import check_image, check_mask

XFEAT_COSINE = 0.82  # its authors' threshold between mutual neighbours
_HUGGING_FACE = "https://huggingface.co/kornia"


@dataclass(frozen=True)
class Part:
    """A network with a file of weights.

    Attributes:
        file: its name in torch hub's cache, where kornia looks for it.
        url: where kornia has it from.
        build: makes the network of the file's content.
    """

    file: str
    url: str
    build: Callable[[Mapping[str, Any]], nn.Module]


@dataclass(frozen=True)
class Recipe:
    """How a method is made.

    Attributes:
        parts: its networks; the last gives the method its name.
        assemble: makes one of them, which takes images ``(1, C, H, W)`` in [0, 1] and views ``(H, W)`` bool.
        long_side: px, of what the network sees.
        multiple: px, by which its sides can be divided.
        grey: one channel instead of three.
    """

    parts: tuple[Part, ...]
    assemble: Callable[..., nn.Module]
    long_side: int
    multiple: int
    grey: bool = False


def _loftr(weights: str, position_fix: bool) -> Recipe:
    part = Part(weights, f"{_HUGGING_FACE}/loftr/resolve/main/{weights}", partial(Loftr, position_fix=position_fix))
    return Recipe((part,), lambda network: network, 840, 8, grey=True)


def _lightglue(file: str, weights: str, kind: str) -> Part:
    return Part(file, f"{_HUGGING_FACE}/lightglue/resolve/main/{weights}", partial(LightGlue, kind=kind))


_DISK = Part("depth-save.pth", f"{_HUGGING_FACE}/disk/resolve/main/depth-save.pth", Disk)
_ALIKED = Part("aliked-n16.pth", f"{_HUGGING_FACE}/aliked/resolve/main/aliked-n16.pth", Aliked)
_XFEAT = Part("xfeat.pt", "https://github.com/verlab/accelerated_features/raw/main/weights/xfeat.pt", XFeat)
_FOR_DISK = _lightglue("disk_lightglue_v0-1_arxiv-pth", "disk_lightglue.pth", "disk")
_FOR_ALIKED = _lightglue("aliked_lightglue_v0-1_arxiv-pth", "aliked_lightglue.pth", "aliked")
_FOR_XFEAT = _lightglue("xfeat-lighterglue.pt", "xfeat-lighterglue.pt", "xfeat")
RECIPES: dict[str, Recipe] = {
    "lightglue": Recipe((_DISK, _FOR_DISK), Sparse, 1024, 16),
    "lightglue-aliked": Recipe((_ALIKED, _FOR_ALIKED), Sparse, 1024, 32),
    "lighterglue": Recipe((_XFEAT, _FOR_XFEAT), Sparse, 1216, 32),
    "loftr": _loftr("loftr_outdoor.ckpt", position_fix=False),
    "loftr-indoor": _loftr("loftr_indoor_ds_new.ckpt", position_fix=True),
    "xfeat": Recipe((_XFEAT,), lambda xfeat: Sparse(xfeat, MutualNeighbours(XFEAT_COSINE)), 1216, 32),
}
LEARNED: tuple[str, ...] = tuple(RECIPES)
"""Names of the learned methods: LightGlue with DISK, ALIKED or XFeat keypoints, LoFTR's two models, XFeat."""


class LearnedMethod:
    """A network as a :data:`~endomatch_ros.evaluation.methods.interface.Method`.

    Args:
        network: takes two images ``(1, C, H, W)`` in [0, 1] and two views ``(H, W)`` bool; returns positions ``(N, 2)``
            in network pixels of both images and scores ``(N,)``.
        recipe: for size and channels of the images.
        device: torch device name.
        about: facts that its answers depend on, for reports and caches.
    """

    def __init__(self, network: nn.Module, recipe: Recipe, device: str, about: dict[str, Any]) -> None:
        self.about = about
        self._network = network.to(device).eval()
        self._recipe = recipe
        self._device = torch.device(device)

    @torch.inference_mode()
    def __call__(self, image0: Image, image1: Image, mask0: Mask = None, mask1: Mask = None) -> Matches:
        """Matches of two RGB uint8 images ``(H, W, 3)``, whose sizes may differ, inside their views ``(H, W)``.

        Raises:
            ImageError: an image or mask of another kind.
        """
        input0, view0, scale0 = self._prepare(image0, mask0, "image0")
        input1, view1, scale1 = self._prepare(image1, mask1, "image1")
        points0, points1, scores = self._network(input0, input1, view0, view1)
        return matches_of(
            _to_source(points0, scale0), _to_source(points1, scale1), _array(scores), image0, image1, mask0, mask1
        )

    def _prepare(self, image: Image, mask: Mask, name: str) -> tuple[Tensor, Tensor, NDArray[np.float64]]:
        """The image and its view as the network sees them, and network pixels per source pixel ``(x, y)``."""
        height, width = check_image(image, name).shape[:2]
        view = np.ones((height, width), bool) if mask is None else check_mask(mask, image, f"mask of {name}")
        size = network_size(width, height, self._recipe.long_side, self._recipe.multiple)
        seen = grey(image)[..., None] if self._recipe.grey else image
        # Interpolation would alias, but OpenCV averages only where both sides shrink; the multiples may enlarge one.
        averaged = size[0] <= width and size[1] <= height
        resized = cv2.resize(seen, size, interpolation=cv2.INTER_AREA if averaged else cv2.INTER_LINEAR)
        shrunk = np.asarray(resized, np.uint8).reshape(*size[::-1], -1)
        tensor = torch.from_numpy(shrunk).to(self._device).permute(2, 0, 1)[None].float() / 255.0
        small = cv2.resize(view.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool)
        return tensor, torch.from_numpy(small).to(self._device), np.array(size) / (width, height)


def learned_method(name: str, weights: Path | None = None, device: str = "auto") -> LearnedMethod:
    """A learned method, ready to match.

    Args:
        name: of :data:`LEARNED`.
        weights: file with the weights of the method's last network (LightGlue's, LoFTR's, XFeat's), or a folder with
            all its files, named as in the cache or at their source. The keypoints' weights are looked for beside a
            file. What is not there is taken from torch hub's cache; None: everything. Files end in ``.safetensors``
            or are torch's own, of which only tensors are read.
        device: ``auto`` (CUDA where there is one, else CPU), ``cpu``, ``cuda``, ``cuda:1``, …

    Raises:
        ConfigError: an unknown name or device, or kornia is not installed.
        CheckpointError: weights that are missing, damaged or another network's.
    """
    if name not in RECIPES:
        raise ConfigError(f"there is no learned method {name!r}; choose from {', '.join(LEARNED)}")
    recipe, chosen = RECIPES[name], resolve_device(device)
    try:
        from kornia import __version__ as version
        from kornia.feature import ALIKED  # noqa: F401 - the network that releases before 0.9 lack
    except ImportError as error:
        raise ConfigError(
            f"method {name!r} needs kornia 0.9 or newer ({error}), which needs Python 3.11 or newer: "
            'pip install "endomatch_ros[evaluate]"'
        ) from error
    files = [_find(name, part, weights, part is recipe.parts[-1]) for part in recipe.parts]
    networks = [_load(part, file) for part, file in zip(recipe.parts, files, strict=True)]
    digests = {
        part.file: hashlib.sha256(f.read_bytes()).hexdigest() for part, f in zip(recipe.parts, files, strict=True)
    }
    about = {"name": name, "weights": digests, "device": chosen, "kornia": version}
    return LearnedMethod(recipe.assemble(*networks), recipe, chosen, about)


def make(request: Request) -> NamedMethod:
    """The learned method that a user asks for; arguments and errors are those of :func:`learned_method`."""
    weights = Path(request.arguments) if request.arguments else None
    method = learned_method(request.name.partition(":")[0], weights, request.device)
    parts = [code_digest(__name__), method.about, device_name(method.about["device"])]
    return NamedMethod(request.name, method, json.dumps(parts, sort_keys=True), method.about)


_HELP = "learned: kornia and weights, with :PATH where these are not in torch hub's cache"
ENTRIES: tuple[Entry, ...] = tuple(
    Entry(name, make, takes_arguments=True, by_default=False, help=_HELP) for name in LEARNED
)


def network_size(width: int, height: int, long_side: int, multiple: int) -> tuple[int, int]:
    """``(width, height)`` that an image is shrunk to: long side at most about ``long_side``, sides multiples."""
    scale = min(1.0, long_side / max(width, height))
    across, down = (max(1, round(side * scale / multiple)) * multiple for side in (width, height))
    return across, down


def _to_source(points: Tensor, scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """Network pixels ``(N, 2)`` to source pixels."""
    return (_array(points) + 0.5) / scale - 0.5


def _array(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.double().cpu().numpy()


def _find(method: str, part: Part, weights: Path | None, own: bool) -> Path:
    """The file of a part's weights; ``own``: a file that the user names is this part's."""
    given = None if weights is None else Path(weights).expanduser()
    if given is not None and not given.exists():
        raise CheckpointError(f"weights of method {method!r}: there is no file or folder {given}")
    if given is not None and given.is_file() and own:
        return given
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    names = (part.file, part.url.rpartition("/")[2])
    places = [cache] if given is None else [given if given.is_dir() else given.parent, cache]
    for file in (place / name for place in places for name in names):
        if file.is_file():
            return file
    raise CheckpointError(
        f"method {method!r}: no weights {part.file} in {' or '.join(map(str, places))}. Nothing is downloaded: get "
        f"{part.url} and put it there, or into a folder that is given as the method's weights"
    )


def _load(part: Part, file: Path) -> nn.Module:
    try:
        if file.suffix == ".safetensors":
            content = load_file(file)
        else:  # tensors alone: any other pickle could run code
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever safetensors, zipfile, pickle and torch raise for a damaged file
        raise CheckpointError(f"weights {file} cannot be read ({error}): get {part.url} again") from error
    try:
        return part.build(content)
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        first = str(error).strip().splitlines()[-1].strip()
        raise CheckpointError(f"weights {file} are not those of {part.url} ({first}): get that file") from error
