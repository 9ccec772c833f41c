"""Cross-entropy over the whole other image, with a learnt temperature."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from endomatch_ros.models import MatcherNetwork
from endomatch_ros.training.objectives.correspondences import Correspondences, Level
from endomatch_ros.training.objectives.interface import DESCRIPTORS, Processes
from endomatch_ros.training.objectives.losses import symmetric_infonce


@dataclass(frozen=True)
class InfoNce(Correspondences):
    """Every cell of the other image is a negative, so none has to be mined."""

    name = "infonce"

    def trains(self, network: MatcherNetwork) -> frozenset[str]:
        """Only cross-entropy has temperatures to learn, one per map."""
        scales = {"log_scale_coarse"} if network.fine is None else {"log_scale_coarse", "log_scale_fine"}
        return DESCRIPTORS | scales

    def level_loss(self, level: Level, processes: Processes) -> Tensor:
        """Mean of both ways."""
        # The scale is bounded (CLIP does the same): past 100 the softmax is an argmax and learns nothing.
        return symmetric_infonce(*level.maps, *level.cells, level.log_scale.exp().clamp(max=100.0))
