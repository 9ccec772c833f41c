"""The photometric refinement, started from the dense field of the model's head."""

from __future__ import annotations

from endomatch_ros.matching.refiners.dense_field import head_field, missing_head
from endomatch_ros.matching.refiners.interface import Pair, Refined, Refiner
from endomatch_ros.matching.refiners.photometric import refined
from endomatch_ros.models import MatcherNetwork


class Dense(Refiner):
    """As the photometric refinement, but the first warp is the head's and not the coarse matches'."""

    def lacks(self, network: MatcherNetwork) -> str:
        """A head, if the network has none."""
        return missing_head(network)

    def refine(self, pair: Pair) -> Refined:
        """Targets of the pair's points."""
        return refined(pair, head_field(pair))


STAGE: Refiner = Dense()
