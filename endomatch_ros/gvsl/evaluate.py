"""How well a way of registering does on labelled volumes: overlap, folding, time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from endomatch_ros.errors import ConfigError, DataError
from endomatch_ros.gvsl.overlap import dice_per_label, mean_dice, present_labels
from endomatch_ros.gvsl.registration import (
    REFINE_STEPS,
    Registrar,
    jacobian_report,
    load_registrar,
    no_field,
    warp_stored,
)
from endomatch_ros.gvsl.subjects import PARTS, Subject, divide, find_subjects, known_split, neighbour_pairs
from endomatch_ros.gvsl.volumes import Volume, read_labels, read_volume

ALL = "all"
"""In place of a part's name: every subject of the folder."""


@dataclass(frozen=True)
class PairScore:
    """One registered pair.

    Attributes:
        moving, fixed: the subjects' names.
        dice: by label; NaN where neither volume has the label.
        folding_percent: of the voxels inside the fixed volume.
        minimum_jacobian: the smallest determinant there.
        seconds: from two prepared volumes in memory to the warped label map.
        cpu_seconds: of them, what all of the process's threads computed: it says more on a machine with other work.
    """

    moving: str
    fixed: str
    dice: Mapping[int, float]
    folding_percent: float
    minimum_jacobian: float
    seconds: float
    cpu_seconds: float

    @property
    def mean_dice(self) -> float:
        """Over the labels that one of both has."""
        return mean_dice(np.array(list(self.dice.values())))


class LabelledPairs:
    """Pairs of labelled volumes, read when they are asked for.

    Args:
        pairs: (moving, fixed); every subject needs labels.
    """

    def __init__(self, pairs: Sequence[tuple[Subject, Subject]]) -> None:
        self.pairs = pairs
        subjects = dict.fromkeys(s for pair in pairs for s in pair)
        # Neighbours are asked for one after another, so that a few kept volumes save nearly all reading.
        self._load = lru_cache(8)(load_labelled)
        self.labels = present_labels(*(self._load(subject)[1].data for subject in subjects))
        if not self.labels:
            raise DataError("the label maps hold background only: there is no structure to measure")

    def score(self, registrar: Registrar, index: int) -> PairScore:
        """Register pair ``index`` and measure the result on the fixed volume's stored voxels."""
        moving, fixed = self.pairs[index]
        (moving_image, moving_labels), (fixed_image, fixed_labels) = self._load(moving), self._load(fixed)
        prepared = registrar.prepare(fixed_image, moving_image)
        start, computed = time.perf_counter(), time.process_time()
        result = registrar.register_prepared(*prepared)
        warped = warp_stored(moving_labels, fixed_labels, result, "nearest")
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - computed
        jacobian = jacobian_report(result)
        dice = dice_per_label(warped, fixed_labels.data, self.labels)
        values = dict(zip(self.labels, map(float, dice), strict=True))
        folding, minimum = jacobian.folding_percent, jacobian.minimum
        return PairScore(moving.name, fixed.name, values, folding, minimum, seconds, cpu_seconds)

    def score_all(self, registrar: Registrar) -> list[PairScore]:
        """All pairs, after one that is not counted: the first pass through a network takes longer."""
        self.score(registrar, 0)
        return [self.score(registrar, index) for index in range(len(self.pairs))]


def load_labelled(subject: Subject) -> tuple[Volume, Volume]:
    """A subject's image and label map as stored; raises :class:`DataError` where there is no label map."""
    image = read_volume(subject.image)
    if subject.labels is None:
        raise DataError(f"{subject.name} has no label map: overlap cannot be measured")
    return image, read_labels(subject.labels, image)


def choose_subjects(folder: Path, part: str = ALL, split: str = "auto") -> list[Subject]:
    """Labelled subjects of a folder, all or those of a part of a split.

    Raises:
        ConfigError: unknown part or split.
        DataError: no volumes, no labels, or nothing in that part.
    """
    if part not in (ALL, *PARTS):
        raise ConfigError(f"split part {part!r} is unknown: use {ALL}, {', '.join(PARTS)}")
    subjects = find_subjects(folder, need_labels=True)
    chosen = subjects if part == ALL else divide(subjects, split)[part]
    if not chosen:
        raise DataError(f"none of the {len(subjects)} subjects in {folder} is in the part {part!r}")
    return chosen


def summarise(scores: Sequence[PairScore]) -> dict[str, Any]:
    """Means over pairs, with standard deviations and percentiles, for JSON."""
    means = np.array([score.mean_dice for score in scores])
    labels = scores[0].dice
    by_label = {k: np.array([score.dice[k] for score in scores]) for k in labels}
    seconds = np.array([score.seconds for score in scores])
    return {
        "dice": float(np.nanmean(means)),
        "dice_std": float(np.nanstd(means)),
        "dice_per_label": {str(k): mean_dice(values) for k, values in by_label.items()},
        "folding_percent": float(np.mean([score.folding_percent for score in scores])),
        "folding_percent_max": float(np.max([score.folding_percent for score in scores])),
        "minimum_jacobian": float(np.min([score.minimum_jacobian for score in scores])),
        "seconds_per_pair": float(seconds.mean()),
        "seconds_p50": float(np.percentile(seconds, 50)),
        "seconds_p95": float(np.percentile(seconds, 95)),
        "cpu_seconds_per_pair": float(np.mean([score.cpu_seconds for score in scores])),
        "pairs": len(scores),
    }


def evaluate(
    folder: Path,
    checkpoint: str | Path,
    part: str = ALL,
    device: str = "cpu",
    split: str = "auto",
    refine_steps: int = REFINE_STEPS,
) -> dict[str, Any]:
    """Register all ordered neighbour pairs of the sorted subjects with a checkpoint's model.

    Dice is the mean over labels, then over pairs; folding the share of voxels inside the fixed volume, mean over pairs.

    Args:
        folder: holds ``images/`` and ``labels/``.
        checkpoint: ``hippocampus`` or a .safetensors file.
        part: ``all``, ``train``, ``validation`` or ``test``.
        device: cpu, cuda, cuda:N or auto.
        split: the split that ``part`` is of, see :func:`endomatch_ros.gvsl.subjects.divide`.
        refine_steps: of instance optimisation for every pair.

    Returns:
        ``dice``, ``dice_identity`` (centre laid on centre, no registration), ``folding_percent``, ``seconds_per_pair``
        and more, for JSON.

    Raises:
        ConfigError, DataError, CheckpointError: as the parts of it say.
    """
    registrar, notes = load_registrar(checkpoint, device, refine_steps)
    subjects = choose_subjects(folder, part, split)
    pairs = LabelledPairs(neighbour_pairs(subjects))
    identity = summarise(pairs.score_all(Registrar(no_field, registrar.config)))
    report = summarise(pairs.score_all(registrar))
    report |= {f"dice_identity{end}": identity[f"dice{end}"] for end in ("", "_std", "_per_label")}
    trained_on = set(notes.get("subjects", "").split())
    seen = sum(subject.name in trained_on for subject in subjects)
    about: dict[str, Any] = {"subjects": len(subjects), "subjects_seen_in_training": seen, "part": part}
    about |= {"split": known_split(subjects) if split == "auto" else split, "checkpoint": str(checkpoint)}
    return report | about | {"device": device, "refine_steps": refine_steps}
