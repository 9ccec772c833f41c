"""Every reader of the registry: what it takes, what it leaves to others, and that positions are exact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from support import bags, recordings, videos

from endomatch_ros.data.frames import Frame
from endomatch_ros.data.readers.interface import Fit, Reader, SourceOptions
from endomatch_ros.data.readers.registry import READERS
from endomatch_ros.data.sources import KINDS, open_sequence, open_sources
from endomatch_ros.errors import ConfigError, EndomatchError


def write_pictures(folder: Path) -> str:
    folder.mkdir()
    for number in (2, 10, 1):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((48, 64, 3), number, np.uint8))
    return str(folder)


# A small recording of each kind, made in a folder that does not exist yet; a new reader adds its own.
MAKERS: dict[str, Callable[[Path], str]] = {
    "synthetic": lambda folder: "synthetic:3,cavity",
    "images": write_pictures,
    "video": lambda folder: str(videos.write_video(folder.with_suffix(".avi"), "MJPG")),
    "bag": lambda folder: str(bags.write(folder, bags.camera_messages())),
    "sfm": lambda folder: str(recordings.write_sfm(folder, (40, 80))),
    "scared": lambda folder: str(recordings.write_scared(folder)),
}


@pytest.fixture(scope="module", params=READERS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Reader, str]:
    """A reader and a recording of its kind."""
    assert request.param in MAKERS, "write a small recording of the new kind into MAKERS"
    return READERS[request.param], MAKERS[request.param](tmp_path_factory.mktemp("made") / request.param)


def test_a_recording_goes_to_the_reader_of_its_kind_alone(made: tuple[Reader, str]) -> None:
    reader, name = made
    assert reader.accepts(name) > Fit.NO
    fits = {other.name: other.accepts(name) for other in READERS.values()}
    assert [other for other, fit in fits.items() if fit == max(fits.values())] == [reader.name]
    assert reader.help in KINDS


def test_frames_are_rgb_and_positions_exact(made: tuple[Reader, str]) -> None:
    reader, name = made
    (sequence,) = reader.open(name, SourceOptions())
    assert len(sequence) >= 1
    frames = [frame for frame, _ in zip(sequence, range(4), strict=False)]
    for position in reversed(range(len(frames))):
        again, frame = sequence[position], frames[position]
        assert isinstance(frame, Frame)
        assert frame.image.dtype == np.uint8
        assert frame.image.ndim == 3
        assert np.array_equal(again.image, frame.image)
        assert (again.stamp, again.index) == (frame.stamp, frame.index)
    assert [frame.stamp for frame in frames] == sorted(frame.stamp for frame in frames)
    for outside in (-1, len(sequence)):
        with pytest.raises(IndexError):
            sequence[outside]
    named = open_sequence(name, kind=reader.name)
    assert type(named) is type(sequence)


def test_what_it_does_not_know_is_left_to_others(made: tuple[Reader, str], tmp_path: Path) -> None:
    reader, _ = made
    (tmp_path / "notes.txt").write_text("nothing")
    (tmp_path / "empty").mkdir()
    for name in ("notes.txt", "empty", "missing"):
        assert reader.accepts(str(tmp_path / name)) is Fit.NO
        with pytest.raises(EndomatchError, match=name):
            open_sequence(str(tmp_path / name), kind=reader.name)


def test_a_damaged_recording_is_a_clear_error(made: tuple[Reader, str], tmp_path: Path) -> None:
    reader, _ = made
    if reader.name == "synthetic":
        with pytest.raises(ConfigError, match="synthetic:x"):
            open_sources("synthetic:x")
        return
    name = MAKERS[reader.name](tmp_path / "damaged")
    files = [file for file in (Path(name), *Path(name).glob("**/*")) if file.is_file()]
    for file in files:
        file.write_bytes(b"\x00" * 64)
    with pytest.raises(EndomatchError, match="damaged"):
        [frame.image for sequence in reader.open(name, SourceOptions()) for frame in sequence]


def test_a_new_reader_is_one_entry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ten lines make a source of a kind of file that nobody knew."""

    class Grey:
        def __init__(self, file: Path) -> None:
            self.level = int(file.read_text())

        def __len__(self) -> int:
            return 2

        def __getitem__(self, position: int) -> Frame:
            return Frame(np.full((48, 64, 3), self.level + range(2)[position], np.uint8), float(position), position)

        def __iter__(self):
            return (self[k] for k in range(2))

    def accepts(name: str) -> Fit:
        return Fit.LAYOUT if name.endswith(".grey") else Fit.NO

    reader = Reader("grey", "grey files", accepts, lambda name, options: [Grey(Path(name))], "a .grey file")
    monkeypatch.setitem(READERS, "grey", reader)
    (tmp_path / "a.grey").write_text("7")
    sequence = open_sequence(str(tmp_path / "a.grey"), frames="1:")
    assert [frame.image[0, 0, 0] for frame in sequence] == [8]
