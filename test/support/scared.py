"""Keyframes as SCARED stores them."""

from __future__ import annotations

import io
import struct
import tarfile
from pathlib import Path

import cv2
import numpy as np

from endomatch_ros.data.frames import Frame

COUNT, FPS = 8, 5.0


ROTATION = cv2.Rodrigues(np.array([0.01, -0.02, 0.005]))[0]


TRANSLATION = np.array([-4.3, 0.05, 0.1])  # mm


KR = np.array([[70.0, 0, 50], [0, 71.0, 41], [0, 0, 1]])


D_LEFT, D_RIGHT = np.zeros(5), np.array([-6e-4, 2e-3, 0, 1e-4, 0])


def tiff(points: np.ndarray) -> bytes:
    """A float32 TIFF of points ``(H, W, 3)``, written by the book (TIFF 6.0), without the library that reads it."""
    height, width, channels = points.shape
    pixels = points.astype("<f4").tobytes()
    tail = 8 + 2 + 12 * 11 + 4  # where the arrays that do not fit into an entry begin
    longs = {256: width, 257: height, 273: tail + 12, 278: height, 279: len(pixels)}
    shorts = {259: 1, 262: 2, 277: channels, 284: 1}
    entries = {tag: struct.pack("<HHII", tag, 4, 1, value) for tag, value in longs.items()}
    entries |= {tag: struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in shorts.items()}
    entries |= {258: struct.pack("<HHII", 258, 3, 3, tail), 339: struct.pack("<HHII", 339, 3, 3, tail + 6)}
    directory = struct.pack("<H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<6H", 32, 32, 32, 3, 3, 3) + pixels


def points_of(frame: Frame, unknown: float) -> np.ndarray:
    """x, y, z ``(H, W, 3)`` in mm of a frame's pixels."""
    rows, columns = np.mgrid[: frame.size[1], : frame.size[0]]
    rays = frame.camera.rays(np.stack([columns, rows], -1).reshape(-1, 2)).reshape(*rows.shape, 3)
    with np.errstate(invalid="ignore"):
        points = rays * frame.depth[..., None] * 1000
    return np.where(np.isfinite(frame.depth)[..., None], points, unknown).astype(np.float32)


def frame_data(frame: Frame) -> dict[str, object]:
    pose = frame.pose.copy()
    pose[:3, 3] *= 1000
    matrices = {"KL": frame.camera.matrix, "KR": KR, "DL": D_LEFT[None], "DR": D_RIGHT[None], "R": ROTATION}
    calibration = {name: matrix.tolist() for name, matrix in matrices.items()}
    calibration["T"] = TRANSLATION[:, None].tolist()
    return {"camera-calibration": calibration, "camera-pose": pose.tolist(), "timestamp": 1.5e9 + frame.index}


def pack(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_video(path: Path, pictures: list[np.ndarray]) -> None:
    size = pictures[0].shape[1::-1]
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"mp4v"), FPS, size)
    for picture in pictures:
        writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    writer.release()


def write_still(folder: Path, frame: Frame) -> None:
    """A keyframe without video."""
    folder.mkdir(parents=True)
    for name, image in (("Left", frame.image), ("Right", frame.image[:, ::-1])):
        cv2.imwrite(str(folder / f"{name}_Image.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    (folder / "left_depth_map.tiff").write_bytes(tiff(points_of(frame, np.nan)))
    storage = cv2.FileStorage(str(folder / "endoscope_calibration.yaml"), cv2.FILE_STORAGE_WRITE)
    matrices = {"M1": frame.camera.matrix, "D1": D_LEFT[None], "M2": KR, "D2": D_RIGHT[None], "R": ROTATION}
    for name, matrix in {**matrices, "T": TRANSLATION[:, None]}.items():
        storage.write(name, matrix)
    storage.release()
