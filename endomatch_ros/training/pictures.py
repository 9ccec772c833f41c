"""Pictures for TensorBoard: the pair, its triplets, and the matches before and after training."""

from __future__ import annotations

import cv2
import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from numpy.typing import NDArray
from torch import Tensor

from endomatch_ros.training.data import TrainingData
from endomatch_ros.training.module import MatcherModule, nearest_neighbours, tolerance
from endomatch_ros.training.objectives.losses import sample_map, to_cells
from endomatch_ros.training.objectives.mining import hardest_in_image

Image = NDArray[np.uint8]

_POINTS = 60  # drawn a picture; more hide the tissue
_TRIPLETS = 12
_GOOD, _BAD, _ANCHOR, _NEGATIVE = (70, 230, 90), (255, 60, 200), (255, 220, 60), (255, 70, 60)
_SCALE = 2


class PictureLog(Callback):
    """After each validation, the first pair of the validation data goes to TensorBoard.

    Args:
        data: of the run.
    """

    def __init__(self, data: TrainingData) -> None:
        self._data = data
        self._batch: dict[str, Tensor] | None = None
        self._before: Image | None = None

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Draw the matches of the untrained network."""
        if not trainer.is_global_zero:
            return
        self._batch = next(iter(self._data.val_dataloader()))
        self._before = _matches(*self._maps(pl_module))

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write the pictures."""
        if not trainer.is_global_zero or self._batch is None or self._before is None:
            return
        batch, maps = self._maps(pl_module)
        pictures = {
            "pair": draw_points(self._batch),
            "triplets": _triplets(batch, maps),
            "matches_before_and_after": np.concatenate([self._before, _matches(batch, maps)]),
        }
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                for name, picture in pictures.items():
                    logger.experiment.add_image(name, picture, trainer.global_step, dataformats="HWC")

    def _maps(self, module: lightning.LightningModule) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
        assert isinstance(module, MatcherModule)
        assert self._batch is not None
        training = module.training
        batch = {k: v[:1].to(module.device) for k, v in self._batch.items()}
        with torch.no_grad():
            first, second = module.eval().descriptors(batch)
        module.train(training)
        return batch, (first.finest.float(), second.finest.float())


def _matches(batch: dict[str, Tensor], maps: tuple[Tensor, Tensor]) -> Image:
    width = batch["image0"].shape[-1]
    found = nearest_neighbours(*maps, batch["points0"], width)
    return draw_matches(batch, found, tolerance(maps[0], width))


def _triplets(batch: dict[str, Tensor], maps: tuple[Tensor, Tensor]) -> Image:
    stride = batch["image0"].shape[-1] / maps[0].shape[-1]
    cells = [to_cells(batch[k], stride) for k in ("points0", "points1")]
    negatives = hardest_in_image(sample_map(maps[0], cells[0]), maps[1], cells[1], radius=1.5)
    return draw_triplets(batch, (negatives.cells + 0.5) * stride - 0.5)


def draw_points(batch: dict[str, Tensor]) -> Image:
    """The first pair side by side, corresponding points in the same colour."""
    canvas, left, right = _side_by_side(batch)
    colours = _wheel(len(left))
    for a, b, colour in zip(left, right, colours, strict=True):
        for point in (a, b):
            cv2.circle(canvas, point, 4, colour, -1, cv2.LINE_AA)
    return canvas


def draw_matches(batch: dict[str, Tensor], found: Tensor, limit_px: float) -> Image:
    """The first pair with its nearest neighbours ``(B, K, 2)``: green within the limit, magenta beyond."""
    canvas, left, right = _side_by_side(batch, found)
    pick = _some(len(batch["points0"][0]), _POINTS)
    error = (found[0] - batch["points1"][0]).norm(dim=1).cpu().numpy()
    for a, b, wrong in zip(left, right, error[pick] >= limit_px, strict=True):
        cv2.line(canvas, a, b, _BAD if wrong else _GOOD, 1, cv2.LINE_AA)
    share = float((error < limit_px).mean())
    cv2.putText(
        canvas,
        f"{share:.0%} within {limit_px:g} px",
        (8, 22),
        cv2.FONT_HERSHEY_DUPLEX,
        0.6,
        (255, 255, 255),
        1,
        cv2.LINE_AA,
    )
    return canvas


def draw_triplets(batch: dict[str, Tensor], negatives: Tensor) -> Image:
    """Anchors (yellow), their partners (green) and their hardest negatives ``(B, K, 2)`` (red) of the first pair."""
    canvas, left, right = _side_by_side(batch, count=_TRIPLETS)
    _, _, wrong = _side_by_side(batch, negatives, count=_TRIPLETS)
    for a, b, c in zip(left, right, wrong, strict=True):
        cv2.line(canvas, a, b, _GOOD, 1, cv2.LINE_AA)
        cv2.line(canvas, a, c, _NEGATIVE, 1, cv2.LINE_AA)
        for point, colour in ((a, _ANCHOR), (b, _GOOD), (c, _NEGATIVE)):
            cv2.circle(canvas, point, 4, colour, -1, cv2.LINE_AA)
    return canvas


def _side_by_side(
    batch: dict[str, Tensor], found: Tensor | None = None, count: int = _POINTS
) -> tuple[Image, list[tuple[int, int]], list[tuple[int, int]]]:
    """The first pair's images in one, and points of the left and the right one on it."""
    images = [batch[k][0].permute(1, 2, 0).cpu().numpy() for k in ("image0", "image1")]
    canvas = np.concatenate(images, axis=1)
    canvas = np.asarray(cv2.resize(canvas, None, fx=_SCALE, fy=_SCALE, interpolation=cv2.INTER_LINEAR), np.uint8)
    pick = _some(len(batch["points0"][0]), count)
    points = [batch["points0"][0], batch["points1"][0] if found is None else found[0]]
    offsets = (0, images[0].shape[1])
    lists = []
    for p, offset in zip(points, offsets, strict=True):
        places = (p.cpu().numpy()[pick] + 0.5) * _SCALE - 0.5 + np.array([offset * _SCALE, 0])
        lists.append([(round(x), round(y)) for x, y in places.tolist()])
    return canvas, lists[0], lists[1]


def _some(total: int, count: int) -> NDArray[np.int64]:
    return np.linspace(0, total - 1, min(total, count)).round().astype(np.int64)


def _wheel(count: int) -> list[tuple[int, int, int]]:
    hues = np.stack([np.linspace(0, 170, count), np.full(count, 200), np.full(count, 255)], 1).astype(np.uint8)
    return [(int(r), int(g), int(b)) for r, g, b in cv2.cvtColor(hues[None], cv2.COLOR_HSV2RGB)[0]]
