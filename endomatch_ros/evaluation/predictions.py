"""Predictions, each made once and kept: what is measured is read from the cache."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import tempfile
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from endomatch_ros.data.frames import Frame
from endomatch_ros.errors import ConfigError, DataError
from endomatch_ros.evaluation.methods.interface import NamedMethod
from endomatch_ros.matching.types import Matches
from endomatch_ros.matching.view import without_rim

_log = logging.getLogger(__name__)
_FORMAT = 1  # of the files; another one is computed anew
_ARRAYS: dict[str, tuple[type[np.generic], int]] = {
    "keypoints0": (np.float32, 2),
    "keypoints1": (np.float32, 2),
    "similarity": (np.float32, 1),
    "track_ids": (np.uint32, 1),
}  # type and number of dimensions


@dataclass(frozen=True, eq=False)
class View:
    """What a method is given of a frame.

    Attributes:
        image: RGB uint8 ``(H, W, 3)``.
        mask: ``(H, W)`` bool, True where it may match; None: everywhere.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_] | None

    @classmethod
    def of(cls, frame: Frame) -> View:
        """The frame's image, and its view without the rim."""
        return cls(frame.image, None if frame.mask is None else without_rim(frame.mask))

    def resized(self, size: tuple[int, int]) -> View:
        """Stretched to ``(width, height)``."""
        height, width = self.image.shape[:2]
        if (width, height) == size:
            return self
        method = cv2.INTER_AREA if size[0] * size[1] < width * height else cv2.INTER_LINEAR
        image = np.asarray(cv2.resize(self.image, size, interpolation=method), np.uint8)
        if self.mask is None:
            return View(image, None)
        return View(image, cv2.resize(self.mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0)

    @property
    def size(self) -> tuple[int, int]:
        """``(width, height)`` in pixels."""
        return self.image.shape[1], self.image.shape[0]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of image and mask."""
        digest = hashlib.sha256(str(self.image.shape).encode())
        digest.update(np.ascontiguousarray(self.image).data)
        if self.mask is not None:
            digest.update(np.packbits(self.mask).data)
        return digest.hexdigest()


class Predictor:
    """Asks methods for matches, and each question only once where there is a cache.

    An answer's file is named by a digest of both views, of the method's identity and of the kind of machine. One that
    is damaged is computed anew, with a warning. Files are written whole or not at all, so several processes may share
    a folder.

    Args:
        folder: for the files; made if need be. None: nothing is kept.
        fresh: compute everything anew, replacing what is there.

    Attributes:
        reused: answers that were read from files.
        computed: answers that were made.

    Raises:
        ConfigError: the folder cannot be made.
    """

    def __init__(self, folder: Path | None = None, fresh: bool = False) -> None:
        self.folder, self.fresh = folder, fresh
        self.reused = self.computed = 0
        self._warm: set[tuple[str, tuple[int, int], tuple[int, int]]] = set()
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"the cache {folder} cannot be made ({error}): name another folder") from error

    def __call__(self, method: NamedMethod, view0: View, view1: View) -> tuple[Matches, float]:
        """What a method says about two views, and the milliseconds that it took.

        The time is that of the computation, in an earlier run perhaps. It is taken after one call that does not count,
        for each method and image size: the first call also loads, allocates and compiles.

        Raises:
            ConfigError: the answer cannot be written.
        """
        if self.folder is None or method.identity is None:
            return self._ask(method, view0, view1)
        key = _key(method.identity, view0, view1)
        path = self.folder / f"{key}.npz"
        if path.exists() and not self.fresh:
            try:
                found = _load(path, key)
            except DataError as error:
                _log.warning("%s; it is computed anew", error)
            else:
                self.reused += 1
                return found
        try:
            _save(path, key, *self._ask(method, view0, view1))
        except OSError as error:
            raise ConfigError(f"the cache {self.folder} cannot be written ({error}): name another folder") from error
        return _load(path, key)  # nothing is measured but what is kept

    def describe(self) -> str:
        """How many answers were reused, for the report."""
        text = f"{self.reused + self.computed}, {self.reused} of them from the cache"
        return f"{text}, their times from when they were made" if self.reused else text

    def _ask(self, method: NamedMethod, view0: View, view1: View) -> tuple[Matches, float]:
        arguments = view0.image, view1.image, view0.mask, view1.mask
        kind = (method.name, view0.size, view1.size)
        if kind not in self._warm:
            method.call(*arguments)
            self._warm.add(kind)
        start = time.perf_counter()
        matches = method.call(*arguments)
        self.computed += 1
        return matches, (time.perf_counter() - start) * 1000


def _key(identity: str, view0: View, view1: View) -> str:
    # Times are those of a machine: another kind of it gets figures of its own.
    machine = f"{platform.machine()} {os.cpu_count()}"
    text = json.dumps([_FORMAT, identity, machine, view0.digest, view1.digest])
    return hashlib.sha256(text.encode()).hexdigest()


def _save(path: Path, key: str, matches: Matches, milliseconds: float) -> None:
    """Write an answer to ``path`` (.npz without pickled objects), whole or not at all."""
    about = {
        "key": key,
        "milliseconds": milliseconds,
        "size0": matches.size0,
        "size1": matches.size1,
        "coverage": matches.coverage,
        "timings": matches.timings,
        "dropped": matches.dropped,
    }
    arrays: dict[str, Any] = {name: np.asarray(getattr(matches, name), kind) for name, (kind, _) in _ARRAYS.items()}
    # A name of its own: another run may answer the same question at the same time.
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as part:
        try:
            np.savez(part, about=np.array(json.dumps(about)), **arrays)
        except BaseException:
            os.unlink(part.name)
            raise
    os.replace(part.name, path)


def _load(path: Path, key: str) -> tuple[Matches, float]:
    """Read what :func:`_save` wrote; raises :class:`DataError` if it is damaged or the answer to another question."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            about = json.loads(str(archive["about"]))
            arrays: dict[str, Any] = {name: archive[name] for name in _ARRAYS}
        if about["key"] != key:
            raise ValueError("it is the answer to another question")
        count = len(arrays["keypoints0"])
        for name, (kind, dimensions) in _ARRAYS.items():
            if arrays[name].dtype != kind or arrays[name].shape != (count, 2)[:dimensions]:
                raise ValueError(f"{name} is {arrays[name].dtype} {arrays[name].shape}")
        (width0, height0), (width1, height1) = about["size0"], about["size1"]
        matches = Matches(
            **arrays,
            size0=(width0, height0),
            size1=(width1, height1),
            coverage=about["coverage"],
            timings=about["timings"],
            dropped=about.get("dropped", {}),  # caches are older than the field
        )
        return matches, float(about["milliseconds"])
    except Exception as error:  # zipfile, numpy and the OS each have types of their own for damaged files
        raise DataError(f"{path} cannot be read ({error})") from error
