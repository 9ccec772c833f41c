"""The pairs of a run, prepared once and served to every process in the same order as to one."""

from __future__ import annotations

import lightning
from torch import Tensor
from torch.utils.data import DataLoader

from endomatch_ros.device import resolve_device
from endomatch_ros.fitting.batches import Batches, processes, training_loader
from endomatch_ros.training.config import TRAIN_SEEDS, VALIDATION_SEEDS, TrainConfig
from endomatch_ros.training.novel_view.pairs import NovelViewPairs
from endomatch_ros.training.pairs.datasets import AugmentConfig, Pairs, PairSource, ScenePairs
from endomatch_ros.training.pairs.prepare import prepare_recordings
from endomatch_ros.training.pairs.render import SCENE_WIDTH, render_scenes

_VALIDATION_SEED = 1


def batches_by_source(pairs: Pairs, size: int) -> list[list[int]]:
    """All items of ``pairs`` in batches of at most ``size``, each of one source: sources differ in image size."""
    groups: dict[int, list[int]] = {}
    for index in range(len(pairs)):
        groups.setdefault(pairs.source(index), []).append(index)
    return [group[k : k + size] for _, group in sorted(groups.items()) for k in range(0, len(group), size)]


class TrainingData(lightning.LightningDataModule):
    """Renders and prepares what is missing (one process a machine does), then draws pairs.

    Args:
        config: the run.
        resolution: long side of the view as the network sees it at run time, pixels.
        done: optimiser steps that an earlier, broken run has taken.
        patch: pixels of the network's input a token stands for; the images are multiples of it.

    Attributes:
        summary: what was found in the recordings, one line each; filled by :meth:`setup`.
    """

    def __init__(self, config: TrainConfig, resolution: int, done: int = 0, patch: int = 1) -> None:
        super().__init__()
        self.config, self._resolution, self._done, self._patch = config, resolution, done, patch
        self._train: list[PairSource] = []
        self._validation: list[PairSource] = []
        self.summary: list[str] = []

    def prepare_data(self) -> None:
        """Called in one process a machine, before the others go on."""
        for name in self.config.data:
            self._open(name)

    def setup(self, stage: str) -> None:
        """Called in every process; finds everything ready."""
        opened = [self._open(name) for name in self.config.data]
        self._train, self._validation = [o[0] for o in opened], [o[1] for o in opened]
        self.summary = [line for o in opened for line in o[2]]

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """The rest of the run."""
        c, (rank, world) = self.config, processes(self.trainer)
        batches = c.max_steps * c.accumulate
        pairs = Pairs(self._train, batches * c.batch_size * world, c.points, c.seed, self._patch)
        return training_loader(pairs, Batches(self._done * c.accumulate, batches, c.batch_size, rank, world), c.workers)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """The same pairs at every validation, in every process."""
        c = self.config
        pairs = Pairs(self._validation, c.validation_pairs, c.points, _VALIDATION_SEED, self._patch)
        return DataLoader(pairs, batch_sampler=batches_by_source(pairs, 8))

    def _open(self, name: str) -> tuple[PairSource, PairSource, list[str]]:
        """Training pairs, validation pairs and a summary of one entry of ``data``."""
        c = self.config
        augment = AugmentConfig(c.crop, c.photometric)
        if name == "synthetic":
            seeds = TRAIN_SEEDS[: c.synthetic.scenes], VALIDATION_SEEDS[: c.synthetic.validation_scenes]
            files = [render_scenes(part, c.cache / "synthetic") for part in seeds]
            text = f"synthetic endoscope: scene seeds {seeds[0][0]} to {seeds[0][-1]}, validation from {seeds[1][0]}"
            return ScenePairs(files[0], augment, self._resolution / SCENE_WIDTH), ScenePairs(files[1]), [text]
        prepared = prepare_recordings(name, c.recording, self._resolution, c.cache / "frames", resolve_device(c.device))
        pairs = [NovelViewPairs(part, augment, c.novel_view) for part in (prepared.train, prepared.validation)]
        text = f"{name}: {len(prepared.train)} frames for training, {len(prepared.validation)} for validation"
        return pairs[0], pairs[1], [*prepared.summary, text]
