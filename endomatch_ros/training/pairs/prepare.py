"""Recordings made ready for training once: chosen frames, cut to the view, at the network's scale, with depth."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from endomatch_ros.data.depth import DepthProvider, make_provider
from endomatch_ros.data.frames import Frame, FrameSequence
from endomatch_ros.data.selection import SelectionConfig, SelectionReport, select_frames
from endomatch_ros.data.sources import SourceOptions, open_sources
from endomatch_ros.data.view import view_of
from endomatch_ros.errors import ConfigError, DataError
from endomatch_ros.geometry.warping import resize_matrix
from endomatch_ros.matching.view import highlight_mask, without_rim

Array = NDArray[np.float64]
Depth = Literal["auto", "given", "stereo", "mono", "photometric"]

_log = logging.getLogger(__name__)
_LEAST_VIEW = 64  # px per side; smaller is no scope's view
_LEAST_DEPTH = 0.05  # share of the usable pixels; with less a frame is mostly holes
_VERSION = 1  # of the files; another one is prepared anew


@dataclass(frozen=True)
class RecordingConfig:
    """How recordings are read.

    Attributes:
        source: topics, calibration, mask and frame rate, where the recording does not say.
        frames: part of each recording, ``START:STOP`` in frames, as in Python; empty: all of it.
        selection: which frames are good enough.
        depth: where depth comes from; ``auto`` takes what a recording has: given depth, else a stereo partner, else the
            photometric cue, and says which.
        depth_weights: of the monocular network: a folder or a name in the Hugging Face cache.
        field_of_view: horizontal, degrees, assumed of recordings without calibration.
        validation_share: of each recording's frames, taken from its end.
        validation_gap: frames left out before those, so that no training frame is next to a validation frame.
    """

    source: SourceOptions = field(default_factory=SourceOptions)
    frames: str = ""
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    depth: Depth = "auto"
    depth_weights: str | None = None
    field_of_view: float = 70.0
    validation_share: float = 0.15
    validation_gap: int = 2

    def __post_init__(self) -> None:
        if not 10 <= self.field_of_view <= 150:
            raise ConfigError(
                f"recording.field_of_view is {self.field_of_view}: it must lie between 10 and 150 degrees"
            )
        if not 0 < self.validation_share < 1:
            raise ConfigError(f"recording.validation_share is {self.validation_share}: it must lie between 0 and 1")
        if self.validation_gap < 0:
            raise ConfigError(f"recording.validation_gap is {self.validation_gap}: it must not be negative")


@dataclass(frozen=True, eq=False)
class PreparedFrame:
    """A frame as training uses it.

    Attributes:
        image: ``(H, W, 3)`` RGB uint8, cut to the view, its long side at the network's resolution.
        view: ``(H, W)`` bool, inside the scope's view.
        usable: ``(H, W)`` bool, tissue: in view, no highlight.
        depth: ``(H, W)`` float32, NaN where unknown.
        matrix: ``(3, 3)`` pinhole intrinsics of this picture.
    """

    image: NDArray[np.uint8]
    view: NDArray[np.bool_]
    usable: NDArray[np.bool_]
    depth: NDArray[np.float32]
    matrix: Array

    def save(self, path: Path) -> None:
        """Write to ``path`` (.npz), whole or not at all."""
        # A name of its own: another run may prepare the same recording at the same time.
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as part:
            np.savez(part, **vars(self))
        os.replace(part.name, path)

    @classmethod
    def load(cls, path: Path) -> PreparedFrame:
        """Read what :meth:`save` wrote; raises :class:`DataError` for a damaged file."""
        try:
            with np.load(path) as archive:
                return cls(**{name: archive[name] for name in cls.__dataclass_fields__})
        except Exception as error:  # zipfile, numpy and the OS each have types of their own for damaged files
            raise DataError(f"{path} cannot be read ({error}): remove its folder, it is made anew") from error


@dataclass(frozen=True)
class PreparedData:
    """Frames of one or several recordings on disk, apart by purpose, and how they were chosen."""

    train: list[Path]
    validation: list[Path]
    summary: list[str]


def prepare_recordings(
    name: str,
    config: RecordingConfig,
    resolution: int,
    cache: Path,
    device: str = "cpu",
) -> PreparedData:
    """Prepare all recordings at ``name``, or take what an earlier run has prepared alike.

    Args:
        name: as for :func:`~endomatch_ros.data.sources.open_sources`.
        config: how to read.
        resolution: long side of the view as the network sees it, pixels.
        cache: folder for the prepared frames; each combination of recording and settings gets a folder of its own.
        device: for a monocular network.

    Raises:
        DataError: nothing usable, or fewer than two frames.
    """
    folder = cache / _key(name, config, resolution)
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        _prepare_all(name, config, resolution, manifest, device)
    recordings = json.loads(manifest.read_text())
    train: list[Path] = []
    validation: list[Path] = []
    for recording in recordings:
        first, second = _split([folder / file for file in recording["files"]], config)
        train, validation = train + first, validation + second
    summary = [line for recording in recordings for line in recording["summary"]]
    if not train or not validation:
        raise DataError(
            f"{name}: {len(train)} usable training and {len(validation)} validation frames; both are needed. Record "
            "more, loosen recording.selection, or change recording.validation_share and recording.validation_gap. "
            f"Found: {'; '.join(summary)}"
        )
    return PreparedData(train, validation, [f"{name}: {line}" for line in summary])


def prepare_frame(
    frame: Frame, depth: NDArray[np.floating], resolution: int, field_of_view: float = 70.0
) -> PreparedFrame | None:
    """One frame, undistorted, cut to its view and resized; ``None`` if its view is too small to use."""
    camera = frame.camera
    matrix = _assumed(frame.size, field_of_view) if camera is None else camera.matrix
    image, mask = frame.image, view_of(frame)
    depth = np.asarray(depth, np.float32)
    if camera is not None and camera.distortion.any():
        image, mask, depth = _undistorted(frame, mask, depth)
    mask = without_rim(mask)
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if min(len(columns), len(rows)) < _LEAST_VIEW:
        return None
    left, top, right, bottom = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    part = slice(top, bottom), slice(left, right)
    scale = resolution / max(right - left, bottom - top)
    size = round((right - left) * scale), round((bottom - top) * scale)
    shrink = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = np.asarray(cv2.resize(image[part], size, interpolation=shrink), np.uint8)
    view = cv2.resize(mask[part].astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    # Nearest: between a near and a far pixel lies neither's depth, and unknown must not spread.
    depths = cv2.resize(depth[part], size, interpolation=cv2.INTER_NEAREST_EXACT)
    shift = np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1.0]])
    inner = resize_matrix((right - left, bottom - top), size) @ shift @ matrix
    usable = view & ~highlight_mask(small)
    return PreparedFrame(small, view, usable, np.where(view, depths, np.nan).astype(np.float32), inner)


def choose_depth(config: RecordingConfig, frame: Frame, device: str = "cpu") -> DepthProvider:
    """The provider that the configuration names; for ``auto`` the best that this frame allows."""
    name: str = config.depth
    if name == "auto":
        known = frame.depth is not None and bool((np.isfinite(frame.depth) & (frame.depth > 0)).any())
        stereo = frame.partner is not None and frame.camera is not None
        name = "given" if known else "stereo" if stereo else "photometric"
    return make_provider(name, config.depth_weights, device)


def _prepare_all(name: str, config: RecordingConfig, resolution: int, manifest: Path, device: str) -> None:
    """Write the usable frames of all recordings beside the manifest, and then the manifest, which lists them."""
    folder = manifest.parent
    folder.mkdir(parents=True, exist_ok=True)
    sequences = open_sources(name, config.source, config.frames)
    found = []
    for number, sequence in enumerate(sequences):
        try:
            found.append(_prepare(sequence, f"{number:03d}", config, resolution, folder, device))
        except DataError as error:
            if len(sequences) == 1:
                raise
            found.append({"files": [], "summary": [f"recording {number} left out: {error}"]})
    part = folder / f"{os.getpid()}.part"
    part.write_text(json.dumps(found, indent=1))
    os.replace(part, manifest)


def _prepare(
    sequence: FrameSequence, prefix: str, config: RecordingConfig, resolution: int, folder: Path, device: str
) -> dict[str, list[str]]:
    """Write the usable frames of one recording; their file names and what to tell of them."""
    report, files, provider = SelectionReport(), [], None
    left_out: list[str] = []
    calibrated = True
    chosen = select_frames(sequence, config.selection, report)
    for frame in track(chosen, f"preparing {folder.name}", len(sequence), disable=not os.isatty(1)):
        provider = provider or choose_depth(config, frame, device)
        try:
            prepared = prepare_frame(frame, provider(frame), resolution, config.field_of_view)
        except DataError as error:  # this frame has not what the provider needs; another may
            left_out.append(str(error))
            continue
        if prepared is None or np.isfinite(prepared.depth[prepared.usable]).mean() < _LEAST_DEPTH:
            left_out.append(f"frame {frame.index} has hardly any depth, or a view under {_LEAST_VIEW} pixels")
            continue
        calibrated &= frame.camera is not None
        files.append(f"{prefix}_{frame.index:07d}.npz")
        prepared.save(folder / files[-1])
    summary = [report.describe(), f"depth: {provider.name if provider else 'none'}"]
    if left_out:
        summary.append(f"{len(left_out)} frames left out: {left_out[0]}")
    if not calibrated:
        summary.append(f"no calibration: a field of view of {config.field_of_view:g} degrees is assumed")
    return {"files": files, "summary": summary}


def _split(files: list[Path], config: RecordingConfig) -> tuple[list[Path], list[Path]]:
    """Training and validation frames: the recording's end, and what comes well before it."""
    held = max(1, round(config.validation_share * len(files)))
    return files[: max(0, len(files) - held - config.validation_gap)], files[len(files) - held :]


def _undistorted(
    frame: Frame, mask: NDArray[np.bool_], depth: NDArray[np.float32]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.float32]]:
    """Image, mask and depth as the ideal pinhole with the same matrix sees them."""
    camera = frame.camera
    assert camera is not None
    width, height = camera.size
    xs, ys = np.meshgrid(np.arange(width), np.arange(height))
    homogeneous = np.stack([xs.ravel(), ys.ravel(), np.ones(xs.size)], 1)
    where = camera.project(homogeneous @ np.linalg.inv(camera.matrix).T).astype(np.float32).reshape(height, width, 2)
    x, y = where[..., 0], where[..., 1]
    image = cv2.remap(frame.image, x, y, cv2.INTER_LINEAR)
    inside = cv2.remap(mask.astype(np.uint8), x, y, cv2.INTER_NEAREST) > 0
    nan = float("nan")
    depths = cv2.remap(depth, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=nan)
    return np.asarray(image, np.uint8), np.asarray(inside), np.asarray(depths, np.float32)


def _assumed(size: tuple[int, int], field_of_view: float) -> Array:
    focal = size[0] / (2 * np.tan(np.radians(field_of_view) / 2))
    return np.array([[focal, 0, (size[0] - 1) / 2], [0, focal, (size[1] - 1) / 2], [0, 0, 1.0]])


def _key(name: str, config: RecordingConfig, resolution: int) -> str:
    """Folder name that changes with the recording's files and with every setting that the frames depend on."""
    path = Path(name)
    files = sorted(path.rglob("*")) if path.is_dir() else [path] * path.is_file()
    stamps = [(str(f), s.st_size, s.st_mtime_ns) for f in files if f.is_file() and (s := f.stat())]
    settings = {k: v for k, v in asdict(config).items() if not k.startswith("validation")}
    text = json.dumps([_VERSION, name, stamps, settings, resolution], default=str, sort_keys=True)
    return f"{path.stem[:24] or 'data'}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
