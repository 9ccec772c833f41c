"""Numbered files out of archives: each process keeps its own place."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from support.scared import pack

from endomatch_ros.data.readers.archive import NumberedFiles, number_of
from endomatch_ros.errors import DataError


@pytest.mark.parametrize(
    ("name", "number"),
    [("frame_data000012.json", 12), ("./data2/points7.tiff", 7), ("0.json", 0), ("data2/readme.json", None)],
)
def test_files_are_known_by_the_last_number_of_their_name(name: str, number: int | None) -> None:
    assert number_of(name) == number


def test_neither_folder_nor_archive_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither .*points nor points\.tar\.gz"):
        NumberedFiles(tmp_path / "points", ".tiff")


def read_archive_in_child(files: NumberedFiles, queue: multiprocessing.Queue) -> None:
    queue.put([files.read(k)[1][:8] for k in (6, 7)])


def test_processes_do_not_move_each_others_place_in_an_archive(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    contents = [noise.bytes(300_000) for _ in range(8)]  # more than the reader's buffer holds, however compressed
    pack(tmp_path / "frame_data.tar.gz", {f"./a{k}.json": content for k, content in enumerate(contents)})
    files = NumberedFiles(tmp_path / "frame_data", ".json")
    assert files.read(1)[1] == contents[1]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=read_archive_in_child, args=(files, queue))
    child.start()
    assert queue.get(timeout=60) == [content[:8] for content in contents[6:]]
    child.join(timeout=60)
    assert [files.read(k)[1] == contents[k] for k in (2, 3, 0)] == [True] * 3
    assert files.read(8) is None
