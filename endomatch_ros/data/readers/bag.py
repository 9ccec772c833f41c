"""ROS 2 bags as a source: mcap and sqlite3, a file, the bag's folder, or a folder of either."""

from __future__ import annotations

from pathlib import Path

from endomatch_ros.data.frames import FrameSequence
from endomatch_ros.data.readers.interface import Fit, Reader, SourceOptions, files_in, fit_of_files, natural_key

SUFFIXES = (".mcap", ".db3")
"""File types that are taken for recordings of ROS 2, in lower case."""
_MARK = "metadata.yaml"


def _accepts(name: str) -> Fit:
    folder = Path(name)
    if (folder / _MARK).is_file():
        return Fit.LAYOUT
    fit = fit_of_files(name, SUFFIXES)
    return Fit.FOLDERS if fit is Fit.NO and folder.is_dir() and any(folder.glob(f"*/{_MARK}")) else fit


def _open(name: str, options: SourceOptions) -> list[FrameSequence]:
    from endomatch_ros.data.readers.bag_images import BagImages  # rosbags takes its time to load

    path = Path(name)
    bags = [path]
    if path.is_dir() and not (path / _MARK).is_file():
        bags = files_in(path, SUFFIXES) or sorted((m.parent for m in path.glob(f"*/{_MARK}")), key=natural_key)
    topics = options.image_topic, options.camera_info_topic, options.partner_topic
    return [BagImages(bag, *topics) for bag in bags]


READER = Reader(
    "bag", "bags", _accepts, _open, f"ROS 2 bags ({', '.join(SUFFIXES)}, a bag's folder, or a folder of bags)"
)
