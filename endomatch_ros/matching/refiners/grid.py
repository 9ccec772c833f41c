"""No refinement: the matches as they lie on the network's grid, the most similar ones."""

from __future__ import annotations

import torch

from endomatch_ros.matching.refiners.interface import Pair, Refined, Refiner
from endomatch_ros.matching.refiners.masks import usable_at


class Grid(Refiner):
    """Coarse matches, right to about half a cell; sources lie on the cells' centres, so there are no tracks."""

    keeps_points = False
    subpixel = False

    def refine(self, pair: Pair) -> Refined:
        """The most similar coarse matches, up to ``max_keypoints``, in their order."""
        with torch.inference_mode():
            coarse = pair.coarse.compact()
            best = coarse.similarity.argsort(descending=True, stable=True)[: pair.config.max_keypoints].sort().values
            points0, points1 = coarse.points0[best], coarse.points1[best]
            usable = usable_at(pair.features0, points0) & usable_at(pair.features1, points1)
            return Refined(points0, points1, usable)


STAGE: Refiner = Grid()
