"""Which objective a run has, and the options of all of them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from endomatch_ros.errors import ConfigError
from endomatch_ros.training.objectives.interface import Objective
from endomatch_ros.training.objectives.registration import DenseConfig
from endomatch_ros.training.objectives.registry import OBJECTIVES


@dataclass(frozen=True)
class ObjectiveConfig:
    """The loss; of correspondences it is taken on the token grid and on the fine map alike.

    Attributes:
        kind: ``triplet``, the paper's margin loss on mined triplets; ``infonce``, cross-entropy over the whole other
            image with a learnt temperature; ``gvsl``, registration of the pair by the model's head, without labels.
        margin: of the triplet loss.
        radius: in cells of the map: nearer to the partner no negative is taken.
        others: descriptors taken from each other image of the batch as further negatives; 0 for none.
        fine_weight: of the fine map's loss against the token grid's.
        dense: of ``gvsl`` alone.
    """

    kind: Literal[tuple(OBJECTIVES)] = "triplet"  # type: ignore[valid-type] # mypy wants the names themselves
    margin: float = 1.0
    radius: float = 1.5
    others: int = 64
    fine_weight: float = 1.0
    dense: DenseConfig = field(default_factory=DenseConfig)

    def __post_init__(self) -> None:
        if self.kind not in OBJECTIVES:
            raise ConfigError(f"objective.kind is {self.kind!r}: choose from {', '.join(OBJECTIVES)}")
        for name, low, high in (("margin", 0, 2), ("radius", 0, 100), ("others", 0, 4096), ("fine_weight", 0, 100)):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"objective.{name} is {getattr(self, name)}: it must lie between {low} and {high}")
        takers = [name for name, objective in OBJECTIVES.items() if "dense" in _options(objective)]
        if self.dense.head_only and self.kind not in takers:
            raise ConfigError(
                f"objective.dense.head_only is for the objective {' or '.join(takers)}, not {self.kind}: "
                "drop one of them"
            )

    def make(self) -> Objective:
        """The objective, with those of the options that it takes."""
        objective = OBJECTIVES[self.kind]
        return objective(**{name: getattr(self, name) for name in _options(objective)})


def _options(objective: type[Objective]) -> list[str]:
    return [option.name for option in fields(objective)]
