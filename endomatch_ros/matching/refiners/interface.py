"""What a refiner is, what a check of its matches is, and the pair of frames that both work on."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from endomatch_ros.device import upload
from endomatch_ros.matching.config import MatcherConfig
from endomatch_ros.matching.features import FrameFeatures
from endomatch_ros.matching.keypoints import sample

if TYPE_CHECKING:
    from torch import Tensor

    from endomatch_ros.matching.coarse import CoarseMatches
    from endomatch_ros.matching.refiners.engine import Engine
    from endomatch_ros.models import MatcherNetwork

_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class Pair:
    """Two frames that are being matched.

    Attributes:
        network: the model.
        config: the matcher's settings.
        features0: the reference.
        features1: the current frame.
        coarse: their matches on the descriptor grid.
        engine: finds flow in the images.
        given: ``(M, 2)`` points of the reference that shall be matched; None: :attr:`points` chooses them.
        seconds: what :meth:`once` has taken, by timing stage.
    """

    network: MatcherNetwork
    config: MatcherConfig
    features0: FrameFeatures
    features1: FrameFeatures
    coarse: CoarseMatches
    engine: Engine
    given: NDArray[np.float32] | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    _made: dict[str, object] = field(default_factory=dict)

    @cached_property
    def points(self) -> NDArray[np.float32]:
        """``(N, 2)`` source pixels of the reference to match: those given, else textured ones all over the view."""
        return sample(self.features0, self.config.max_keypoints)[0] if self.given is None else self.given

    @cached_property
    def start(self) -> Tensor:
        """:attr:`points` on the model's device."""
        return upload(self.points, self.features0.descriptors.device)

    def once(self, stage: str, make: Callable[[], _T]) -> _T:
        """What ``make`` gives, made once per pair for all that ask for it, and timed as ``stage``."""
        if stage not in self._made:
            start = time.perf_counter()
            self._made[stage] = make()
            self.seconds[stage] = time.perf_counter() - start
        return cast(_T, self._made[stage])


@dataclass(frozen=True, eq=False)
class Refined:
    """What a refiner has found, on the model's device; the matcher copies it to the host, once.

    Attributes:
        points0: ``(N, 2)`` float32 source pixels of the reference.
        points1: ``(N, 2)`` float32 their targets, source pixels of the current frame.
        good: ``(N,)`` bool, targets that can be believed; all of them lie on usable pixels.
        dropped: number of matches that were left out, by causes that the registry names.
    """

    points0: Tensor
    points1: Tensor
    good: Tensor
    dropped: dict[str, int] = field(default_factory=dict)


class Stage(Protocol):
    """A step of the matching that settings choose. It keeps nothing of a pair: all matchers share it."""

    def lacks(self, network: MatcherNetwork) -> str:
        """What it needs and ``network`` has not, and what to do, to go behind "SETTING needs"; empty: nothing."""
        return ""


class Refiner(Stage, Protocol):
    """Finds where points of the reference have gone. The same pair gives the same bits.

    Attributes:
        keeps_points: ``points0`` are the pair's points, bit for bit and in order, so that a stream can track them;
            False: they lie where the refiner finds matches, and no pair's have to do with another's.
        subpixel: targets are right to a fraction of a pixel of the source image; False: of a descriptor cell.
    """

    keeps_points: ClassVar[bool] = True
    subpixel: ClassVar[bool] = True

    @abstractmethod
    def refine(self, pair: Pair) -> Refined:
        """Targets of the points, without a thought for similarity, which the matcher measures for every refiner."""


class Check(Stage, Protocol):
    """Says which matches of a refiner can be believed."""

    @abstractmethod
    def keep(self, pair: Pair, found: Refined) -> Tensor:
        """``(N,)`` bool on the model's device, the matches to keep; it is not asked whether they are good."""
