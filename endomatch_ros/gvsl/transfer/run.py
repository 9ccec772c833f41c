"""What pre-training is worth for segmentation: few labelled volumes, several initialisations, several seeds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from endomatch_ros.device import resolve_device
from endomatch_ros.errors import ConfigError, DataError
from endomatch_ros.gvsl.evaluate import choose_subjects, load_labelled
from endomatch_ros.gvsl.overlap import dice_per_label, mean_dice, present_labels
from endomatch_ros.gvsl.subjects import Subject, known_split
from endomatch_ros.gvsl.transfer.initialisation import SCRATCH, Initialisation, read_initialisations
from endomatch_ros.gvsl.transfer.segmentation import Example, SegmentationConfig, SegmentationNet, segment, train
from endomatch_ros.gvsl.volumes import Prepared, VolumeConfig, isotropic_grid, prepare, sample


@dataclass(frozen=True)
class TransferConfig:
    """What is compared.

    Attributes:
        shots: numbers of labelled volumes to learn from.
        seeds: how often each is repeated, with other volumes, other random weights and another order.
        training: of each segmentation.
    """

    shots: tuple[int, ...] = (2, 5, 10)
    seeds: int = 5
    training: SegmentationConfig = field(default_factory=SegmentationConfig)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shots", tuple(sorted(set(self.shots))))
        if not self.shots or self.shots[0] < 1:
            raise ConfigError(f"shots={self.shots!r}: give one or more numbers of labelled volumes, each at least 1")
        if not 1 <= self.seeds <= 10_000:
            raise ConfigError(f"seeds={self.seeds!r} is outside its range [1, 10000]")


@dataclass(frozen=True)
class Run:
    """One segmentation, trained and measured.

    Attributes:
        initialisation: its name.
        shots: number of labelled volumes.
        seed: of everything random.
        dice: mean over labels, then over the volumes that were measured.
        dice_per_label: mean over the volumes of which one map, the true or the found one, has the label.
        seconds: for training and measuring.
    """

    initialisation: str
    shots: int
    seed: int
    dice: float
    dice_per_label: Mapping[int, float]
    seconds: float


@dataclass(frozen=True, eq=False)
class _Case:
    prepared: Prepared
    labels: NDArray[np.int32]


def choose_shots(pool: Sequence[Subject], shots: int, seed: int) -> list[Subject]:
    """Volumes to learn from: the same ones for every initialisation, and fewer are among more.

    Raises:
        ConfigError: more than there are.
    """
    if shots > len(pool):
        raise ConfigError(f"shots={shots}: the train part has {len(pool)} labelled volumes only; ask for fewer")
    order = np.random.default_rng(seed).permutation(len(pool))
    return [pool[k] for k in order[:shots]]


def transfer(
    folder: Path,
    checkpoints: Mapping[str, str],
    config: TransferConfig,
    part: str = "test",
    split: str = "auto",
    device: str = "cpu",
    progress: Callable[[Run], None] = lambda run: None,
) -> dict[str, Any]:
    """Train and measure a segmentation for every initialisation, number of volumes and seed.

    Dice is measured on the stored voxels.

    Args:
        folder: holds ``images/`` and ``labels/``.
        checkpoints: by name, see :func:`read_initialisations`.
        config: what is compared.
        part: ``test``, or ``validation`` to choose settings with.
        split: see :func:`endomatch_ros.gvsl.subjects.divide`; volumes to learn from are of its train part.
        device: cpu, cuda, cuda:N or auto.
        progress: called after each run.

    Returns:
        ``results`` (mean and standard deviation over seeds, differences to random weights), ``runs`` and how they were
        made, for JSON.

    Raises:
        ConfigError, DataError, CheckpointError: as the parts of it say.
    """
    if part not in ("validation", "test"):
        raise ConfigError(f"part {part!r}: measure on validation or test, not on what is learned from")
    initialisations, volumes = read_initialisations(checkpoints)
    pool, measured = (choose_subjects(folder, name, split) for name in ("train", part))
    chosen = {(shots, seed): choose_shots(pool, shots, seed) for seed in range(config.seeds) for shots in config.shots}
    bench = _Bench(chosen, measured, volumes, torch.device(resolve_device(device)))
    runs = bench.run_all(initialisations, config.training, progress)
    about = {"volumes": volumes.to_dict(), "part": part, "split": known_split(pool) if split == "auto" else split}
    facts = {**bench.facts(initialisations), "train_subjects": len(pool), "checkpoints": dict(checkpoints), **about}
    return {**_results(runs, initialisations), **asdict(config), **facts, "device": device}


def _results(runs: Sequence[Run], initialisations: Sequence[Initialisation]) -> dict[str, Any]:
    """The runs, and their summary against random weights where these are among them."""
    baseline = next((i.name for i in initialisations if i.source == SCRATCH), None)
    return {"results": summarise(runs, baseline), "baseline": baseline, "runs": [asdict(run) for run in runs]}


class _Bench:
    """The volumes of all runs, prepared once."""

    def __init__(
        self,
        chosen: Mapping[tuple[int, int], Sequence[Subject]],
        measured: Sequence[Subject],
        volumes: VolumeConfig,
        device: torch.device,
    ) -> None:
        self._chosen, self._measured, self._device = chosen, measured, device
        self._cases = [_case(subject, volumes) for subject in measured]
        used = dict.fromkeys(subject for few in chosen.values() for subject in few)
        taught = present_labels(*(load_labelled(subject)[1].data for subject in used))
        if not taught:
            names = ", ".join(subject.name for subject in used)
            raise DataError(f"the label maps of {names} hold background only: there is nothing to learn")
        # A structure that no chosen volume shows cannot be found, but it counts.
        self.labels = sorted({*taught, *present_labels(*(case.labels for case in self._cases))})
        self._examples = {subject: _example(subject, volumes, self.labels) for subject in used}

    def run_all(
        self,
        initialisations: Sequence[Initialisation],
        training: SegmentationConfig,
        progress: Callable[[Run], None],
    ) -> list[Run]:
        """A run of every initialisation for every choice of volumes and seed."""
        runs = []
        for shots, seed in self._chosen:
            for initialisation in initialisations:
                runs.append(self.run(initialisation, shots, seed, training))
                progress(runs[-1])
        return runs

    def facts(self, initialisations: Sequence[Initialisation]) -> dict[str, Any]:
        """What the runs learn from and are measured on, for JSON."""
        seen = {i.name: sum(subject.name in i.pretrained_on for subject in self._measured) for i in initialisations}
        chosen = {f"{shots} shots, seed {seed}": [s.name for s in few] for (shots, seed), few in self._chosen.items()}
        return {
            "chosen": chosen,
            "labels": self.labels,
            "measured_subjects": len(self._measured),
            "measured_subjects_seen_in_pretraining": seen,
        }

    def run(self, initialisation: Initialisation, shots: int, seed: int, training: SegmentationConfig) -> Run:
        """Train and measure one segmentation."""
        start = time.perf_counter()
        net = SegmentationNet(initialisation.model(seed), len(self.labels) + 1, seed).to(self._device)
        train(net, [self._examples[subject] for subject in self._chosen[shots, seed]], training, seed)
        dice = self._dice(net)
        by_label = {label: mean_dice(dice[:, column]) for column, label in enumerate(self.labels)}
        mean = mean_dice(np.array([mean_dice(row) for row in dice]))
        return Run(initialisation.name, shots, seed, mean, by_label, time.perf_counter() - start)

    def _dice(self, net: SegmentationNet) -> NDArray[np.float64]:
        """``(volumes, labels)`` on the stored voxels; NaN where neither map has the label."""
        values = np.array([0, *self.labels])
        rows = []
        for case in self._cases:
            found = values[segment(net, case.prepared, case.labels.shape)]
            rows.append(dice_per_label(found, case.labels, self.labels))
        return np.array(rows)


def _example(subject: Subject, config: VolumeConfig, labels: Sequence[int]) -> Example:
    image, stored = load_labelled(subject)
    prepared = prepare(image, config, config.size)
    on_grid = sample(stored, prepared.grid, "nearest")
    # Border values go on beyond the volume, but structures must not.
    kept = torch.where(prepared.mask, on_grid, 0)
    target = torch.zeros_like(kept, dtype=torch.int64)
    for number, label in enumerate(labels, start=1):
        target[kept == label] = number
    return Example(prepared.image, target)


def _case(subject: Subject, config: VolumeConfig) -> _Case:
    image, labels = load_labelled(subject)
    size = np.maximum(config.size, isotropic_grid(image, config.spacing).shape).tolist()
    return _Case(prepare(image, config, size), labels.data)


def summarise(runs: Sequence[Run], baseline: str | None) -> list[dict[str, Any]]:
    """Mean and spread over seeds by initialisation and number of volumes, for JSON.

    Args:
        runs: every initialisation and number of volumes with the same seeds in the same order.
        baseline: the initialisation that others are compared with, seed by seed; None: no comparison.

    Returns:
        Rows with ``dice``, ``dice_std`` (of the sample; None for one seed), ``dice_by_seed``, ``dice_per_label`` and,
        if there is a baseline, ``difference``, ``difference_std`` and ``seeds_better``.
    """
    groups: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.initialisation, run.shots), []).append(run)
    rows = []
    for (name, shots), group in groups.items():
        dice = np.array([run.dice for run in group])
        by_label = {k: np.array([run.dice_per_label[k] for run in group]) for k in group[0].dice_per_label}
        row: dict[str, Any] = {
            "initialisation": name,
            "shots": shots,
            "dice": float(dice.mean()),
            "dice_std": _spread(dice),
            "dice_by_seed": dice.tolist(),
            "dice_per_label": {str(k): float(v.mean()) for k, v in by_label.items()},
            "dice_per_label_std": {str(k): _spread(v) for k, v in by_label.items()},
            "seconds": float(np.mean([run.seconds for run in group])),
        }
        if baseline not in (None, name):
            difference = dice - np.array([run.dice for run in groups[str(baseline), shots]])
            row |= {"difference": float(difference.mean()), "difference_std": _spread(difference)}
            row["seeds_better"] = int((difference > 0).sum())
        rows.append(row)
    return rows


def _spread(values: NDArray[np.float64]) -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 else None
