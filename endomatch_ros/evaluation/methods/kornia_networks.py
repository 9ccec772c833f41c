"""Kornia's matching networks behind one interface; everything here needs kornia, which is imported when it is used.

Convention: positions are ``(x, y)`` network pixels, the centre of the top-left pixel is (0, 0), as everywhere in this
package. DISK, ALIKED and XFeat keep to it. LoFTR's published weights put that centre at (½, ½), as its documentation in
kornia says, so half a pixel is taken off.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from endomatch_ros.matching.similarity import mutual_matches

MAX_KEYPOINTS = 4096

Answer = tuple[Tensor, Tensor, Tensor]
"""Positions ``(N, 2)`` in image 0 and in image 1, or indices ``(N,)`` of such, and scores ``(N,)``."""

_Network = TypeVar("_Network", bound=nn.Module)


def fill(network: _Network, state: Mapping[str, Any], derived: Collection[str] = ()) -> _Network:
    """The network with these weights.

    Args:
        network: of any weights.
        state: what to load by name; names that the network does not know are left out.
        derived: names that may be missing, as the network makes them itself.

    Raises:
        ValueError: tensors are missing.
        RuntimeError: tensors have other shapes.
    """
    result = network.load_state_dict(dict(state), strict=False)
    missing = [name for name in result.missing_keys if name not in derived]
    if missing:
        raise ValueError(f"{len(missing)} tensors are missing, first {missing[0]}")
    return network


def _unwrapped(checkpoint: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The tensors of a checkpoint, without what was put around them and before their names."""
    state = checkpoint.get(key, checkpoint)
    return {name.removeprefix("matcher."): value for name, value in state.items()}


class Loftr(nn.Module):
    """LoFTR: no keypoints, coarse cells of 8 px that are matched and refined in image 1 (arXiv 2104.00680).

    Args:
        checkpoint: as published, ``{"state_dict": …}``.
        position_fix: the position encoding of the weights ``indoor_new``.
    """

    def __init__(self, checkpoint: Mapping[str, Any], position_fix: bool = False) -> None:
        super().__init__()
        from kornia.feature import LoFTR
        from kornia.feature.loftr.loftr import default_cfg

        config: dict[str, Any] = copy.deepcopy(default_cfg)
        config["coarse"]["temp_bug_fix"] = position_fix
        self.network = fill(LoFTR(None, config), _unwrapped(checkpoint, "state_dict"))

    def forward(self, image0: Tensor, image1: Tensor, view0: Tensor, view1: Tensor) -> Answer:
        """Matches of two grey images ``(1, 1, H, W)`` in [0, 1]; the views ``(H, W)`` play no part."""
        found = self.network({"image0": image0, "image1": image1})
        return found["keypoints0"] - 0.5, found["keypoints1"] - 0.5, found["confidence"]


class Sparse(nn.Module):
    """Keypoints with descriptors, and a matcher of these.

    Args:
        extractor: to keypoints ``(N, 2)``, scores ``(N,)``, descriptors ``(N, D)`` of RGB ``(1, 3, H, W)`` in [0, 1].
        matcher: to indices ``(M,)`` into both sets and scores ``(M,)``.
    """

    def __init__(self, extractor: nn.Module, matcher: nn.Module) -> None:
        super().__init__()
        self.extractor, self.matcher = extractor, matcher

    def forward(self, image0: Tensor, image1: Tensor, view0: Tensor, view1: Tensor) -> Answer:
        """Matches between the strongest keypoints inside the views ``(H, W)`` bool, at most 4096 per image."""
        points0, descriptors0 = self._strongest(image0, view0)
        points1, descriptors1 = self._strongest(image1, view1)
        if min(len(points0), len(points1)) < 2:
            return points0[:0], points1[:0], points0.new_zeros(0)
        sizes = tuple((image.shape[-1], image.shape[-2]) for image in (image0, image1))
        index0, index1, scores = self.matcher(points0, points1, descriptors0, descriptors1, sizes)
        return points0[index0], points1[index1], scores

    def _strongest(self, image: Tensor, view: Tensor) -> tuple[Tensor, Tensor]:
        points, scores, descriptors = self.extractor(image)
        column, row = points.round().long().T
        inside = view[row.clamp(0, view.shape[0] - 1), column.clamp(0, view.shape[1] - 1)]
        order = scores.masked_fill(~inside, -torch.inf).argsort(descending=True, stable=True)
        kept = order[: min(MAX_KEYPOINTS, int(inside.sum()))]
        return points[kept], descriptors[kept]


class Disk(nn.Module):
    """DISK's keypoints (arXiv 2006.13566); ``checkpoint`` as published, ``{"extractor": …}``."""

    def __init__(self, checkpoint: Mapping[str, Any]) -> None:
        super().__init__()
        from kornia.feature import DISK

        self.network = fill(DISK(), _unwrapped(checkpoint, "extractor"))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keypoints, scores and descriptors; more than are used, as some lie outside the view."""
        found = self.network(image, n=2 * MAX_KEYPOINTS)[0]
        return found.keypoints, found.detection_scores, found.descriptors


class Aliked(nn.Module):
    """ALIKED-N16's keypoints (arXiv 2304.03608); ``checkpoint`` as published."""

    def __init__(self, checkpoint: Mapping[str, Any]) -> None:
        super().__init__()
        from kornia.feature import ALIKED

        # A fixed number of the best rather than a threshold, which dim mucosa does not reach.
        network = ALIKED("aliked-n16", max_num_keypoints=2 * MAX_KEYPOINTS, detection_threshold=0.0)
        self.network = fill(network, checkpoint, derived=("dkd.hw_grid",))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keypoints, scores and descriptors; more than are used, as some lie outside the view."""
        found = self.network(image)[0]
        return found.keypoints, found.keypoint_scores, found.descriptors


class XFeat(nn.Module):
    """XFeat's sparse keypoints (arXiv 2404.19174); ``checkpoint`` as published."""

    def __init__(self, checkpoint: Mapping[str, Any]) -> None:
        super().__init__()
        from kornia.feature import XFeat as KorniaXFeat

        self.network = KorniaXFeat(top_k=2 * MAX_KEYPOINTS)
        fill(self.network.net, checkpoint)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keypoints, scores and descriptors; more than are used, as some lie outside the view."""
        found = self.network.detectAndCompute(image)[0]
        return found["keypoints"], found["scores"], found["descriptors"]


class MutualNeighbours(nn.Module):
    """Mutual nearest neighbours of at least a cosine similarity."""

    def __init__(self, least: float) -> None:
        super().__init__()
        self.least = least

    def forward(
        self, points0: Tensor, points1: Tensor, descriptors0: Tensor, descriptors1: Tensor, sizes: Any
    ) -> Answer:
        """Indices ``(M,)`` into both sets of descriptors ``(N, D)`` of length 1, and their cosines ``(M,)``."""
        rows0, rows1 = descriptors0.T[:, None], descriptors1.T[:, None]  # (D, 1, N): maps of one row
        every0, every1 = (torch.ones_like(rows[0], dtype=torch.bool) for rows in (rows0, rows1))
        index0, index1, cosine = mutual_matches(rows0, rows1, every0, every1)
        kept = cosine >= self.least
        return index0[kept], index1[kept], cosine[kept]


class LightGlue(nn.Module):
    """LightGlue (arXiv 2306.13643), with the weights for one kind of keypoints.

    Args:
        checkpoint: as published.
        kind: kornia's name of the keypoints.
    """

    def __init__(self, checkpoint: Mapping[str, Any], kind: str) -> None:
        super().__init__()
        from kornia.feature import LightGlue as KorniaLightGlue

        settings = {k: v for k, v in KorniaLightGlue.features[kind].items() if k != "weights"}  # those it would fetch
        make: Any = KorniaLightGlue  # None, for no download, is documented but not annotated
        network = make(None, **settings)
        # The published files' names are older than the code.
        state = {
            re.sub(r"^(self_attn|cross_attn)\.(\d+)\.", r"transformers.\2.\1.", name): value
            for name, value in _unwrapped(checkpoint, "state_dict").items()
        }
        self.network = fill(network, state, derived=("confidence_thresholds",))

    def forward(
        self, points0: Tensor, points1: Tensor, descriptors0: Tensor, descriptors1: Tensor, sizes: Any
    ) -> Answer:
        """Indices ``(M,)`` into both sets and scores ``(M,)``; ``sizes``: ``(width, height)`` of both images."""
        sides = zip((points0, points1), (descriptors0, descriptors1), sizes, strict=True)
        data = {
            f"image{k}": {
                "keypoints": points[None],
                "descriptors": descriptors[None],
                "image_size": torch.tensor([size], device=points.device),
            }
            for k, (points, descriptors, size) in enumerate(sides)
        }
        found = self.network(data)
        return found["matches"][0][:, 0], found["matches"][0][:, 1], found["scores"][0]
