"""Pictures from files: one, or a folder of them as a sequence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from endomatch_ros.data.frames import Frame, FrameSequence
from endomatch_ros.data.readers.interface import Fit, Reader, SourceOptions, fit_of_files, natural_key
from endomatch_ros.errors import DataError, ImageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
"""File types that a folder is searched for, in lower case."""


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """RGB uint8 ``(H, W, 3)`` of a picture file; grey and 16-bit pictures are converted.

    Raises:
        ImageError: there is no such file, or it is not a picture that OpenCV can read.
    """
    return np.asarray(cv2.cvtColor(_decode(Path(path), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB), np.uint8)


def read_mask(path: str | Path) -> NDArray[np.bool_]:
    """``(H, W)`` bool, True where a picture is brighter than half; raises as :func:`read_image`."""
    return np.asarray(_decode(Path(path), cv2.IMREAD_GRAYSCALE) > 127, np.bool_)


class ImageFolder:
    """The pictures of a folder as frames, in the natural order of their names (``2.png`` before ``10.png``).

    Args:
        folder: holds the pictures; other files are ignored, subfolders are not searched.
        rate: frames a second, for the stamps.

    Raises:
        DataError: the folder is missing or holds no picture.
    """

    def __init__(self, folder: str | Path, rate: float = 30.0) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise DataError(f"there is no folder {folder}; check the path")
        self.paths = sorted((p for p in self.folder.iterdir() if p.suffix.lower() in SUFFIXES), key=natural_key)
        if not self.paths:
            raise DataError(f"the folder {folder} holds no pictures ({', '.join(SUFFIXES)})")
        self._rate = rate

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: int) -> Frame:
        if not 0 <= position < len(self):
            raise IndexError(f"frame {position} of {len(self)}")
        return Frame(read_image(self.paths[position]), position / self._rate, position)

    def __iter__(self) -> Iterator[Frame]:
        return (self[position] for position in range(len(self)))


def _decode(path: Path, flags: int) -> NDArray[np.uint8]:
    if not path.is_file():
        raise ImageError(f"there is no picture {path}; check the path")
    data = np.fromfile(path, np.uint8)
    image = cv2.imdecode(data, flags) if data.size else None
    if image is None:
        raise ImageError(f"{path} is not a picture that can be read; give a PNG, JPEG, TIFF or BMP file")
    return np.asarray(image, np.uint8)


def _accepts(name: str) -> Fit:
    return fit_of_files(name, SUFFIXES) if Path(name).is_dir() else Fit.NO


def _open(name: str, options: SourceOptions) -> list[FrameSequence]:
    return [ImageFolder(name, options.rate)]


READER = Reader("images", "pictures", _accepts, _open, f"a folder of pictures ({' '.join(SUFFIXES)})")
