"""Measure matchers on recordings with known camera motion: the work behind ``endomatch evaluate``.

Every method gets the same images and masks and nothing else, and every one is measured alike.
"""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from rich.progress import track

from endomatch_ros import __version__
from endomatch_ros.data.frames import Frame, FrameSequence
from endomatch_ros.data.sources import DEFAULTS, SourceOptions, open_sources
from endomatch_ros.errors import ConfigError, DataError, ImageError
from endomatch_ros.evaluation.methods.interface import NamedMethod
from endomatch_ros.evaluation.methods.registry import named_methods
from endomatch_ros.evaluation.plots import write_curves, write_overlays
from endomatch_ros.evaluation.predictions import Predictor, View
from endomatch_ros.evaluation.report import Row, print_table, write_report
from endomatch_ros.evaluation.score import PairScore, Prediction, score, summarise
from endomatch_ros.evaluation.truth import pair_truth
from endomatch_ros.evaluation.unrelated import measure_unrelated, plan_unrelated

_log = logging.getLogger(__name__)
_Pair = tuple[int, tuple[int, int]]  # gap, positions
_T = TypeVar("_T")


def evaluate(
    sequence: FrameSequence,
    methods: Sequence[NamedMethod],
    gaps: Sequence[int],
    max_pairs: int = 10,
    predictor: Predictor | None = None,
) -> list[PairScore]:
    """Run methods over pairs of frames and measure what they say.

    A pair with a frame that cannot be read is left out with a warning.

    Args:
        sequence: with camera poses, else nothing but counts and times can be measured.
        methods: what is measured.
        gaps: distances between the frames of a pair, in frames.
        max_pairs: pairs for each gap, spread evenly over the sequence.
        predictor: makes or finds the predictions; None: all are made, none is kept.

    Returns:
        One score for each gap, pair and method.

    Raises:
        ConfigError: a gap that the sequence is too short for.
    """
    predictor = predictor or Predictor()
    planned = [(gap, pair) for gap in gaps for pair in pairs_with_gap(len(sequence), gap, max_pairs)]
    found: dict[_Pair, list[PairScore]] = {}

    def read(position: int) -> tuple[Frame, View]:
        frame = sequence[position]
        return frame, View.of(frame)

    walk = in_reading_order(planned, read)
    for pair, (frame0, view0), (frame1, view1) in track(walk, "matching", len(planned), disable=not os.isatty(1)):
        said = [Prediction(method.name, *pair, *predictor(method, view0, view1)) for method in methods]
        truth = pair_truth(sequence, *pair[1], frame0, frame1)
        found[pair] = [score(prediction, truth, frame0, frame1) for prediction in said]
    return [one for pair in planned if pair in found for one in found[pair]]


def in_reading_order(pairs: Sequence[_Pair], read: Callable[[int], _T]) -> Iterator[tuple[_Pair, _T, _T]]:
    """Pairs and what is read of their frames, by the time of the later one; without those that cannot be read.

    Each frame is read once, in order of time, and kept only while a pair still needs it: to go back in a packed
    recording means to unpack it from its beginning.

    Args:
        pairs: gap, and positions of both frames in ascending order.
        read: gives a frame, or what is made of it, by its position.
    """
    needed_until: dict[int, int] = {}
    for _, (start, end) in pairs:
        needed_until |= {position: max(end, needed_until.get(position, 0)) for position in (start, end)}
    kept: dict[int, _T] = {}
    for position in sorted(needed_until):
        try:
            kept[position] = read(position)
        except (DataError, ImageError) as error:
            _log.warning("frame %d and its pairs are left out: %s", position, error)
        for pair in pairs:
            start, end = pair[1]
            if end == position and start in kept and end in kept:
                yield pair, kept[start], kept[end]
        kept = {other: frame for other, frame in kept.items() if needed_until[other] > position}


def pairs_with_gap(length: int, gap: int, max_pairs: int) -> list[tuple[int, int]]:
    """Pairs of positions ``gap`` apart, at most ``max_pairs``, evenly spread; raises :class:`ConfigError` for none."""
    if not 1 <= gap < length:
        raise ConfigError(f"gap {gap}: a sequence of {length} frames has gaps 1 to {length - 1}")
    starts = np.linspace(0, length - 1 - gap, min(max_pairs, length - gap)).round().astype(int)
    return [(int(start), int(start) + gap) for start in starts]


def run_evaluation(
    data: str | Sequence[str],
    methods: Sequence[str],
    gaps: Sequence[int],
    output: Path | None = None,
    model: str = "embedded",
    device: str = "auto",
    max_pairs: int = 10,
    frames: str = "",
    backbone_weights: Path | None = None,
    options: SourceOptions = DEFAULTS,
    cache: Path | None = None,
    fresh: bool = False,
    unrelated: int = 0,
    facts: Mapping[str, Any] | None = None,
) -> list[Row]:
    """Evaluate named methods on named recordings, print the tables, and write them if there is an ``output`` folder.

    Of several recordings, those too short for a gap are left out at that gap, with a warning.

    Args:
        data: as for :func:`~endomatch_ros.data.sources.open_sources`; several are measured as one.
        methods: as for :func:`~endomatch_ros.evaluation.methods.registry.named_methods`.
        gaps: in frames.
        output: folder for ``evaluation.md``, ``evaluation.json`` and pictures; made if need be.
        model: of the method ``endomatch``: preset or checkpoint.
        device: of the method ``endomatch``.
        max_pairs: for each gap and recording.
        frames: part of each recording, as ``0:20``; empty: all.
        backbone_weights: of the method ``endomatch``, for a DINOv2 preset.
        options: what the recordings do not tell of themselves.
        cache: folder for predictions; None: none is kept.
        fresh: make all predictions anew.
        unrelated: pairs of frames of different scenes to measure, too.
        facts: what else the report shall say.

    Raises:
        EndomatchError: what cannot be evaluated, and why.
    """
    names = list(dict.fromkeys([data] if isinstance(data, str) else data))
    _check(output, max_pairs, unrelated)
    sequences = [sequence for name in names for sequence in open_sources(name, options, frames)]
    possible, left_out = _possible_gaps(sequences, list(dict.fromkeys(gaps)))
    pairs = plan_unrelated(sequences, unrelated) if unrelated else []  # these too, before hours of work
    chosen = named_methods(methods, model, device, backbone_weights)
    predictor = Predictor(cache, fresh)
    scored = [(s, evaluate(s, chosen, own, max_pairs, predictor)) for s, own in zip(sequences, possible, strict=True)]
    rows = summarise([one for _, scores in scored for one in scores])
    if not rows:
        raise DataError(f"no pair of frames of {', '.join(names)} can be read; see the warnings")
    others = measure_unrelated(sequences, pairs, chosen, predictor) if pairs else []
    print_table(rows, unrelated=others)
    if output is not None:
        asked = {"data": names, "frames": frames or "all", "max_pairs": max_pairs, "left out": left_out}
        known = {"predictions": predictor.describe(), **_versions(), **{m.name: m.about for m in chosen if m.about}}
        pictures = [*write_curves(output, rows), *write_overlays(output, scored)]
        write_report(output, rows, {**(facts or {}), **asked, **known}, others, pictures)
    return rows


def _check(output: Path | None, max_pairs: int, unrelated: int) -> None:
    if output is not None and output.exists() and not output.is_dir():
        raise ConfigError(f"--output {output} is a file; name a folder for evaluation.md and evaluation.json")
    if max_pairs < 1:
        raise ConfigError(f"--max-pairs {max_pairs}: at least 1 is needed")
    if unrelated < 0:
        raise ConfigError(f"--unrelated {unrelated}: give a number of pairs, or 0 for none")


def _possible_gaps(sequences: Sequence[FrameSequence], gaps: Sequence[int]) -> tuple[list[list[int]], list[str] | None]:
    """Which gaps each sequence is long enough for, and what is left out; raises ConfigError for a gap of none."""
    left_out = []
    for gap in gaps:
        pairs_with_gap(max(map(len, sequences)), gap, 1)
        short = sum(len(sequence) <= gap for sequence in sequences)
        if short:
            left_out.append(f"{short} of {len(sequences)} recordings, too short for gap {gap}")
            _log.warning("left out: %s", left_out[-1])
    return [[gap for gap in gaps if gap < len(sequence)] for sequence in sequences], left_out or None


def _versions() -> dict[str, Any]:
    return {
        "endomatch_ros": __version__,
        "opencv": cv2.__version__,
        "python": platform.python_version(),
        "machine": platform.platform(),
    }
