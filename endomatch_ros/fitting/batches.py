"""The order of a run's data: the same whether it is broken off or not, and for any number of processes and workers."""

from __future__ import annotations

from collections.abc import Iterator

import lightning
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler


class Batches(Sampler[list[int]]):
    """Batches of consecutive pairs: step s of all processes together takes what one process would take with all.

    Args:
        start: first batch (of each process), the rest of a run that was broken off.
        stop: number of batches in the whole run.
        size: pairs a batch and process.
        rank, world: this process, and how many there are.
    """

    def __init__(self, start: int, stop: int, size: int, rank: int = 0, world: int = 1) -> None:
        self._range, self._size, self._rank, self._world = range(start, stop), size, rank, world

    def __len__(self) -> int:
        """Batches of the whole run: a resumed trainer counts on from where the broken one was, not from 0."""
        return self._range.stop

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self._range:
            first = (batch * self._world + self._rank) * self._size
            yield list(range(first, first + self._size))


def processes(trainer: lightning.Trainer | None) -> tuple[int, int]:
    """Rank of this process and how many train together."""
    return (trainer.global_rank, trainer.world_size) if trainer else (0, 1)


def training_loader(pairs: Dataset[dict[str, Tensor]], batches: Batches, workers: int) -> DataLoader[dict[str, Tensor]]:
    """Loads batches ahead in so many processes, 0 for none; each keeps what its copy of ``pairs`` has read."""
    return DataLoader(pairs, batch_sampler=batches, num_workers=workers, persistent_workers=workers > 0)
