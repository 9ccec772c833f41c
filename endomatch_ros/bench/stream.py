"""The frames that everything is measured on: in memory, so that neither reading nor rendering counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from endomatch_ros.data.calibration import write_calibration
from endomatch_ros.data.frames import Frame, FrameSequence
from endomatch_ros.data.sources import DEFAULTS, SourceOptions, SubSequence, open_sequence
from endomatch_ros.data.synthetic import SceneConfig, SyntheticEndoscope, SyntheticSequence, render_all
from endomatch_ros.errors import DataError
from endomatch_ros.evaluation.pair import write_image
from endomatch_ros.evaluation.truth import PairTruth, pair_truth

RATE = 30.0
LEAST = 4
"""Frames below which nothing is left to measure behind the warm-up."""
_SEED = 20_500  # a scene that neither training nor any choice has seen


@dataclass(frozen=True, eq=False)
class Stream:
    """Frames in memory.

    Attributes:
        name: of the source.
        frames: in order, at least :data:`LEAST`.
        sequence: knows the truth about them, by the same positions.
    """

    name: str
    frames: list[Frame]
    sequence: FrameSequence

    @property
    def images(self) -> list[NDArray[np.uint8]]:
        """RGB uint8 ``(H, W, 3)`` each."""
        return [frame.image for frame in self.frames]

    @property
    def size(self) -> tuple[int, int]:
        """``(width, height)`` of the first."""
        return self.frames[0].size

    def truth(self, position: int) -> PairTruth:
        """What is known about a frame, and the one after it."""
        first, second = self.frames[position : position + 2]
        return pair_truth(self.sequence, position, position + 1, first, second)

    def write(self, folder: Path) -> list[str]:
        """Write the frames into an empty folder, for another process; the publisher's arguments to play them."""
        (folder / "frames").mkdir()
        for number, image in enumerate(self.images):
            write_image(folder / "frames" / f"{number:06}.png", image)
        arguments = [str(folder / "frames"), "--source", "images"]
        camera = self.frames[0].camera
        if camera is not None:
            write_calibration(folder / "calibration.yaml", camera)
            arguments += ["--calibration", str(folder / "calibration.yaml")]
        return arguments


def synthetic_stream(size: tuple[int, int], count: int, on_frame: Callable[[int], None] = lambda n: None) -> Stream:
    """The default: the synthetic endoscope, 30 frames per second, with exact truth.

    Args:
        size: ``(width, height)``.
        count: frames.
        on_frame: told how many are rendered.
    """
    config = SceneConfig(seed=_SEED, width=size[0], height=size[1])
    frames = []
    for frame in render_all(config, [k / RATE for k in range(count)]):
        frames.append(frame)
        on_frame(len(frames))
    return Stream(f"synthetic scene {_SEED}", frames, SyntheticSequence(SyntheticEndoscope(config), count, RATE))


def recorded_stream(source: str, count: int, options: SourceOptions = DEFAULTS) -> Stream:
    """The first ``count`` frames of any source, as :func:`~endomatch_ros.data.sources.open_sequence` takes it.

    Raises:
        DataError: it cannot be read, is too short, or its frames differ in size.
    """
    whole = open_sequence(source, options)
    sequence = SubSequence(whole, 0, count)
    frames = list(sequence)
    if len(frames) < LEAST:
        raise DataError(f"{source} has {len(frames)} frames; a benchmark needs at least {LEAST}")
    sizes = sorted({frame.size for frame in frames})
    if len(sizes) > 1:
        raise DataError(f"the frames of {source} are of several sizes, {sizes}; name a source of one size")
    return Stream(source, frames, sequence)
