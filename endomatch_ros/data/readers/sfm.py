"""Recordings with camera poses and sparse points from structure from motion.

The layout is that of the training data of github.com/lppllppl920/EndoscopyDepthEstimation-Pytorch:

- ``NNNNNNNN.jpg``: undistorted frames, named by their number
- ``undistorted_mask.bmp``: bright inside the scope's view
- ``camera_intrinsics_per_view``: fx, fy, cx, cy, or one focal length and cx, cy (both are about), one number per line,
  once for all frames or once for each
- ``motion.yaml``: ``poses[k]`` of the k-th frame, camera to world, position and quaternion (x, y, z, w)
- ``structure.ply``: the points in world coordinates, ASCII
- ``view_indexes_per_point``: for each point a line ``-1``, then the numbers of the frames that see it
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from endomatch_ros.data.frames import Frame, FrameSequence
from endomatch_ros.data.readers.images import read_image, read_mask
from endomatch_ros.data.readers.interface import Fit, Reader, SourceOptions
from endomatch_ros.errors import DataError
from endomatch_ros.geometry.camera import Camera

Array = NDArray[np.float64]


class SfmSequence:
    """A recording with poses, read lazily: an image is decoded each time its frame is asked for.

    Args:
        folder: in the layout above.
        rate: frames a second, for the stamps; the layout does not tell.

    Attributes:
        points: ``(P, 3)`` float64 in world coordinates; the unit is arbitrary.
        numbers: the frames' numbers in the recording.

    Raises:
        DataError: a file is missing, damaged or contradicts another one.
    """

    def __init__(self, folder: str | Path, rate: float = 30.0) -> None:
        self.folder = Path(folder)
        self._rate = rate
        if not self.folder.is_dir():
            raise DataError(f"there is no folder {folder}; give one that holds an SfM recording")
        self._paths = sorted(p for p in self.folder.glob("*.jpg") if p.stem.isdigit())
        if not self._paths:
            raise DataError(f"{folder} holds no frames named by their number, such as 00000001.jpg")
        self.numbers = [int(path.stem) for path in self._paths]
        self._mask = read_mask(self._file("undistorted_mask.bmp"))
        self._matrices = _read_intrinsics(self._file("camera_intrinsics_per_view"), len(self))
        self._poses = _read_poses(self._file("motion.yaml"))
        if len(self._poses) != len(self):
            raise DataError(f"{folder} has {len(self)} frames but {len(self._poses)} poses in motion.yaml")
        self.points = read_ply_points(self._file("structure.ply"))
        views = _read_views(self._file("view_indexes_per_point"))
        if len(views) != len(self.points):
            raise DataError(
                f"{folder}: structure.ply has {len(self.points)} points, view_indexes_per_point {len(views)}"
            )
        self._visible = [np.flatnonzero([number in seen for seen in views]) for number in self.numbers]

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, position: int) -> Frame:
        if not 0 <= position < len(self):
            raise IndexError(f"frame {position} of {len(self)}")
        image = read_image(self._paths[position])
        if image.shape[:2] != self._mask.shape:
            raise DataError(f"{self._paths[position]}: image {image.shape[:2]}, but the mask is {self._mask.shape}")
        return Frame(
            image=image,
            stamp=position / self._rate,
            index=self.numbers[position],
            mask=self._mask,
            camera=self.camera(position),
            pose=self.pose(position),
        )

    def __iter__(self) -> Iterator[Frame]:
        return (self[position] for position in range(len(self)))

    def camera(self, position: int) -> Camera:
        """The pinhole that took the frame at ``position`` (0 to ``len - 1``)."""
        height, width = self._mask.shape
        return Camera(self._matrices[position], np.zeros(5), "plumb_bob", (width, height))

    def pose(self, position: int) -> Array:
        """``camera_from_world`` ``(4, 4)`` of the frame at ``position``."""
        return self._poses[position].copy()

    def visible(self, position: int) -> NDArray[np.intp]:
        """Indices into :attr:`points` of those that the frame at ``position`` sees, ascending."""
        return self._visible[position]

    def landmarks(self, position0: int, position1: int) -> tuple[Array, Array]:
        """Pixels ``(N, 2)`` in both frames of the points that both see."""
        both = np.intersect1d(self.visible(position0), self.visible(position1))
        return self.project(position0, both), self.project(position1, both)

    def project(self, position: int, indices: NDArray[np.intp]) -> Array:
        """Pixels ``(N, 2)`` at which the frame at ``position`` has these points; NaN for those behind the camera."""
        pose = self._poses[position]
        return self.camera(position).project(self.points[indices] @ pose[:3, :3].T + pose[:3, 3])

    def _file(self, name: str) -> Path:
        path = self.folder / name
        if not path.is_file():
            raise DataError(f"{self.folder} is not a complete SfM recording: {name} is missing")
        return path


def read_ply_points(path: Path) -> Array:
    """Vertices ``(N, 3)`` of an ASCII PLY file whose first element is ``vertex``; raises :class:`DataError`."""
    lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    try:
        end = lines.index("end_header")
        header = [line.split() for line in lines[:end]]
        if ["format", "ascii", "1.0"] not in header:
            raise ValueError("it is not ASCII")
        elements = [words for words in header if words[:1] == ["element"]]
        if elements[0][1] != "vertex":
            raise ValueError("its first element is not vertex")
        start = header.index(elements[0]) + 1
        stop = header.index(elements[1]) if len(elements) > 1 else len(header)
        names = [words[-1] for words in header[start:stop] if words[:1] == ["property"]]
        columns = [names.index(axis) for axis in "xyz"]
        rows = lines[end + 1 : end + 1 + int(elements[0][2])]
        if len(rows) != int(elements[0][2]):
            raise ValueError(f"it ends after {len(rows)} of {elements[0][2]} points")
        points = np.array([[float(row.split()[column]) for column in columns] for row in rows]).reshape(-1, 3)
        if not np.isfinite(points).all():
            raise ValueError("it has points that are not finite")
    except (ValueError, IndexError) as error:
        raise DataError(f"{path} is not a point cloud that can be read: {error}") from error
    return points


def _read_numbers(path: Path, kind: type) -> list[Any]:
    try:
        return [kind(word) for word in path.read_text().split()]
    except (ValueError, UnicodeDecodeError) as error:
        raise DataError(f"{path} should hold one number per line: {error}") from error


def _read_intrinsics(path: Path, frames: int) -> list[Array]:
    """One ``(3, 3)`` matrix per frame."""
    numbers = _read_numbers(path, float)
    width = next((n for n in (4, 3) if len(numbers) in (n, n * frames)), None)
    if width is None:
        raise DataError(
            f"{path} holds {len(numbers)} numbers; fx, fy, cx, cy make 4 and f, cx, cy make 3, once or for each of "
            f"{frames} frames"
        )
    views = np.array(numbers).reshape(-1, width)
    matrices = [np.array([[view[0], 0, view[-2]], [0, view[-3], view[-1]], [0, 0, 1.0]]) for view in views]
    return matrices if len(matrices) == frames else matrices * frames


def _read_poses(path: Path) -> list[Array]:
    """``camera_from_world`` ``(4, 4)`` in the file's order."""
    try:
        poses = yaml.safe_load(path.read_text())["poses[]"]
        return [_camera_from_world(poses[f"poses[{k}]"]) for k in range(len(poses))]
    except (yaml.YAMLError, KeyError, TypeError, ValueError, UnicodeDecodeError) as error:
        raise DataError(f"{path} should hold poses[k] with position and orientation: {error!r}") from error


def _camera_from_world(entry: dict[str, dict[str, float]]) -> Array:
    """Inverse of a camera-to-world pose given by a position and a quaternion."""
    position = np.array([float(entry["position"][axis]) for axis in "xyz"])
    x, y, z, w = (float(entry["orientation"][axis]) for axis in "xyzw")
    length = float(np.sqrt(x * x + y * y + z * z + w * w))
    if not abs(length - 1) < 0.01 or not np.isfinite(position).all():
        raise ValueError(f"{entry} is not a position with a unit quaternion")
    x, y, z, w = x / length, y / length, z / length, w / length
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation.T, -rotation.T @ position
    return pose


def _read_views(path: Path) -> list[set[int]]:
    """For each point the numbers of the frames that see it."""
    views: list[set[int]] = []
    for number in _read_numbers(path, int):
        if number == -1:
            views.append(set())
        elif views:
            views[-1].add(number)
        else:
            raise DataError(f"{path} should begin with -1, the mark of the first point")
    return views


def _accepts(name: str) -> Fit:
    marks = ("motion.yaml", "structure.ply")
    return Fit.LAYOUT if all(Path(name, mark).is_file() for mark in marks) else Fit.NO


def _open(name: str, options: SourceOptions) -> list[FrameSequence]:
    return [SfmSequence(name, options.rate)]


READER = Reader("sfm", "SfM recordings", _accepts, _open, "an SfM recording (a folder with motion.yaml, structure.ply)")
