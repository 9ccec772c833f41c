"""Small videos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

WIDTH, HEIGHT, COUNT, FPS = 128, 64, 90, 25.0


def numbered(number: int) -> np.ndarray:
    """RGB ``(HEIGHT, WIDTH, 3)``: the number as eight blocks, bright for a one; red above, blue below."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[:20], image[-20:] = (200, 40, 40), (40, 40, 200)
    for bit in range(8):
        image[24:40, 16 * bit : 16 * bit + 16] = 230 if number >> bit & 1 else 20
    return image


def write_video(path: Path, codec: str = "mp4v", pictures: Sequence[np.ndarray] | None = None) -> Path:
    pictures = [numbered(k) for k in range(COUNT)] if pictures is None else pictures
    size = pictures[0].shape[1::-1]
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec), FPS, size)
    for picture in pictures:
        writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def stereo_picture(layout: str) -> np.ndarray:
    """A light picture (the frame) and a dark one (its partner)."""
    frame, partner = np.full((48, 64, 3), 200, np.uint8), np.full((48, 64, 3), 50, np.uint8)
    pair = [partner, frame] if layout == "right-left" else [frame, partner]
    return np.concatenate(pair, axis=0 if layout == "top-bottom" else 1)
