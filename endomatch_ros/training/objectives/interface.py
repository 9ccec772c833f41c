"""What an objective is: the only thing that the rest of training knows of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from endomatch_ros.fitting.monitor import Monitor
from endomatch_ros.models import Descriptors, MatcherNetwork

DESCRIPTORS = frozenset({"adapter", "fine", "fine_stem"})
"""The network's parts that its descriptors come from, but for the backbone, which is trained if a run asks for that."""


@dataclass(frozen=True)
class Processes:
    """Those that train together.

    Attributes:
        rank: of this one among them.
        gather: ``(…)`` to ``(W, …)``, the same tensor of all of them with gradients; ``None`` for a lone process.
    """

    rank: int = 0
    gather: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Objective(ABC):
    """What training minimises on pairs, what of the network it moves, and by which figure it is judged.

    A subclass is a frozen dataclass: its fields are the options that it takes, by the names that they have in
    :class:`~endomatch_ros.training.objectives.config.ObjectiveConfig`, which declares their ranges and defaults.

    Attributes:
        name: what a user calls it.
        monitor: one of the figures of the validation: ``val_pck``, ``val_median_error``, or one of :meth:`figures`.
        printed: those of :meth:`figures` that are printed after each validation.
    """

    name: ClassVar[str]
    monitor: ClassVar[Monitor] = Monitor("val_pck", "max")
    printed: ClassVar[tuple[str, ...]] = ()

    @property
    def keeps_descriptors(self) -> bool:
        """Whether the descriptors, and with them the matches, stay bit for bit as they are."""
        return False

    def prepare(self, network: MatcherNetwork) -> None:
        """Give the network, in place, the parts that are trained, and take away what would no longer fit them.

        A head for dense fields reads the descriptors, so it goes unless the objective trains it with them.
        """
        if network.dense is not None:
            network.config, network.dense = replace(network.config, dense_levels=0), None

    def trains(self, network: MatcherNetwork) -> frozenset[str]:
        """The network's attributes whose parameters all get a gradient, the backbone aside."""
        return DESCRIPTORS

    @abstractmethod
    def losses(
        self,
        network: MatcherNetwork,
        first: Descriptors,
        second: Descriptors,
        batch: dict[str, Tensor],
        processes: Processes,
    ) -> dict[str, Tensor]:
        """The weighted parts that the loss is the sum of, by name, scalars.

        Args:
            network: prepared.
            first: descriptors of the first images of ``B`` pairs.
            second: of the second ones.
            batch: ``image0``, ``image1`` ``(B, 3, H, W)`` uint8, ``view0``, ``view1`` ``(B, 1, H, W)`` bool, and
                ``points0``, ``points1`` ``(B, K, 2)`` pixels (x, y) that show the same tissue.
            processes: that train together.
        """

    def figures(
        self, network: MatcherNetwork, first: Descriptors, second: Descriptors, batch: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Figures of a validation batch beside those of the descriptors, by names that begin with ``val_``, scalars."""
        return {}
