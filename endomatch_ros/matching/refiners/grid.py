"""No refinement: the matches as they lie on the network's grid, the most similar ones."""

from __future__ import annotations

import numpy as np

from endomatch_ros.matching.refiners.interface import Pair, Refined, Refiner
from endomatch_ros.matching.view import lookup


class Grid(Refiner):
    """Coarse matches, right to about half a cell; sources lie on the cells' centres, so there are no tracks."""

    keeps_points = False
    subpixel = False

    def refine(self, pair: Pair) -> Refined:
        """The most similar coarse matches, up to ``max_keypoints``, in their order."""
        coarse = pair.coarse
        similarity, *points = (part.cpu().numpy() for part in (coarse.similarity, coarse.points0, coarse.points1))
        order = np.sort(np.argsort(-similarity, kind="stable")[: pair.config.max_keypoints])
        points0, points1 = (part[order] for part in points)
        usable = lookup(pair.features0.usable, points0) & lookup(pair.features1.usable, points1)
        return Refined(points0, points1, usable)


STAGE: Refiner = Grid()
