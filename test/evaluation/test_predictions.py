"""Predictions are made once, kept whole, found again, and never mistaken for others."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import numpy as np
import pytest

from endomatch_ros.data.frames import Frame
from endomatch_ros.errors import ConfigError
from endomatch_ros.evaluation import predictions
from endomatch_ros.evaluation.methods.interface import NamedMethod
from endomatch_ros.evaluation.predictions import Predictor, View
from endomatch_ros.matching.types import Matches
from endomatch_ros.matching.view import without_rim

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 255, (2, 48, 64, 3), np.uint8)
MASK = np.zeros((48, 64), bool)
MASK[5:40, 9:50] = True
VIEW0, VIEW1 = View(IMAGES[0], MASK), View(IMAGES[1], None)


class Method:
    """Counts its calls; every answer differs from the last."""

    def __init__(self, count: int = 7) -> None:
        self.calls = 0
        self.count = count
        self.last: Matches | None = None

    def __call__(self, image0: np.ndarray, image1: np.ndarray, mask0: object, mask1: object) -> Matches:
        self.calls += 1
        points = np.float32(RNG.uniform(0, 48, (2, self.count, 2))) + self.calls
        ids = np.arange(self.count, dtype=np.uint32) + 4_000_000_000
        sizes = image0.shape[1::-1], image1.shape[1::-1]
        facts = {"coverage": 0.1 + 0.2, "timings": {"matching": 1 / 3}, "dropped": {"a": 3}}
        self.last = Matches(*points, points[0, :, 0] / 99, ids, *sizes, **facts)
        return self.last


def named(method: Method | None = None, identity: str | None = "made up 1", name: str = "made up") -> NamedMethod:
    return NamedMethod(name, method or Method(), identity)


def same(a: Matches, b: Matches) -> None:
    for name in ("keypoints0", "keypoints1", "similarity", "track_ids"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), strict=True)
    for name in ("size0", "size1", "coverage", "timings", "dropped", "stamp0"):
        assert getattr(a, name) == getattr(b, name)


@pytest.mark.parametrize("count", [0, 1, 7])
def test_an_answer_is_found_again_as_it_was(tmp_path: Path, count: int) -> None:
    method = Method(count)
    first, second = Predictor(tmp_path / "new" / "cache"), Predictor(tmp_path / "new" / "cache")
    (matches, milliseconds), calls = first(named(method), VIEW0, VIEW1), method.calls
    again, then = second(named(method), View(IMAGES[0].copy(), MASK.copy()), VIEW1)
    assert method.calls == calls
    assert len(matches) == count
    same(matches, method.last)
    same(again, method.last)
    assert then == milliseconds > 0  # the time of the computation, to the last digit
    assert (first.computed, first.reused, second.computed, second.reused) == (1, 0, 0, 1)
    assert second.describe() == "1, 1 of them from the cache, their times from when they were made"
    assert first.describe() == "1, 0 of them from the cache"


def test_what_is_returned_is_what_is_kept(tmp_path: Path) -> None:
    matches, milliseconds = Predictor(tmp_path)(named(), VIEW0, VIEW1)
    (path,) = tmp_path.iterdir()
    kept, time = predictions._load(path, path.stem)
    same(kept, matches)
    assert time == milliseconds
    with np.load(path, allow_pickle=False) as archive:  # no file of the cache can run code
        np.testing.assert_array_equal(archive["keypoints0"], matches.keypoints0)


def changed(image: np.ndarray) -> np.ndarray:
    out = image.copy()
    out[-1, -1, -1] ^= 1
    return out


@pytest.mark.parametrize(
    ("identity", "view0", "view1"),
    [
        ("made up 2", VIEW0, VIEW1),
        ("made up 1", VIEW1, VIEW0),
        ("made up 1", View(changed(IMAGES[0]), MASK), VIEW1),
        ("made up 1", VIEW0, View(changed(IMAGES[1]), None)),
        ("made up 1", View(IMAGES[0], None), VIEW1),
        ("made up 1", View(IMAGES[0], ~changed(~MASK[..., None])[..., 0]), VIEW1),
        ("made up 1", VIEW0, View(IMAGES[1], np.ones((48, 64), bool))),
        ("made up 1", View(IMAGES[0].reshape(64, 48, 3), MASK.reshape(64, 48)), VIEW1),
    ],
)
def test_another_question_gets_another_answer(tmp_path: Path, identity: str, view0: View, view1: View) -> None:
    predictor, method = Predictor(tmp_path), Method()
    first, _ = predictor(named(method), VIEW0, VIEW1)
    other, _ = predictor(named(method, identity), view0, view1)
    assert predictor.reused == 0
    assert not np.array_equal(first.keypoints0, other.keypoints0)
    same(predictor(named(method), VIEW0, VIEW1)[0], first)
    same(predictor(named(method, identity), view0, view1)[0], other)


def test_another_machine_gets_figures_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Predictor(tmp_path)
    predictor(named(), VIEW0, VIEW1)
    monkeypatch.setattr("os.cpu_count", lambda: 1234)
    predictor(named(), VIEW0, VIEW1)
    assert predictor.computed == 2


def test_the_name_in_the_table_does_not_matter(tmp_path: Path) -> None:
    predictor = Predictor(tmp_path)
    matches, _ = predictor(named(name="a"), VIEW0, VIEW1)
    same(predictor(named(name="b"), VIEW0, VIEW1)[0], matches)


def test_methods_of_unknown_identity_and_runs_without_folder_keep_nothing(tmp_path: Path) -> None:
    for predictor, identity in ((Predictor(tmp_path), None), (Predictor(), "made up 1")):
        method = Method()
        first, again = (predictor(named(method, identity), VIEW0, VIEW1)[0] for _ in range(2))
        assert not np.array_equal(first.keypoints0, again.keypoints0)
        assert (predictor.computed, predictor.reused) == (2, 0)
    assert not list(tmp_path.iterdir())


def test_fresh_makes_everything_anew_and_keeps_that(tmp_path: Path) -> None:
    method = Method()
    old, _ = Predictor(tmp_path)(named(method), VIEW0, VIEW1)
    new, _ = Predictor(tmp_path, fresh=True)(named(method), VIEW0, VIEW1)
    assert not np.array_equal(old.keypoints0, new.keypoints0)
    same(Predictor(tmp_path)(named(method), VIEW0, VIEW1)[0], new)


class Trap:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.trace,)


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "flipped bit":
        data[data.index(b"keypoints1.npy") + 250] ^= 4
    elif how == "pickle":
        np.savez(path, about=np.array(Trap(path.with_suffix(".run")), dtype=object))
        return
    elif how == "lengths":
        with np.load(path) as archive:
            np.savez(path, **{**archive, "similarity": archive["similarity"][:3]})
        return
    elif how == "types":
        with np.load(path) as archive:
            np.savez(path, **{**archive, "keypoints0": archive["keypoints0"].astype(np.float64)})
        return
    elif how == "other":
        Predictor(path.parent)(named(identity="made up 2"), VIEW0, VIEW1)
        (other,) = (file for file in path.parent.iterdir() if file != path)
        data = bytearray(other.read_bytes())
    elif how == "truncated":
        del data[len(data) // 2 :]
    elif how == "array":
        np.save(path.open("wb"), np.zeros(3))
        return
    else:
        data = bytearray(how.encode())
    path.write_bytes(data)


@pytest.mark.parametrize(
    "how", ["", "no archive", "truncated", "flipped bit", "pickle", "lengths", "types", "other", "array"]
)
def test_a_damaged_file_is_made_anew_with_a_warning(tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    method = Method()
    first, _ = Predictor(tmp_path)(named(method), VIEW0, VIEW1)
    (path,) = tmp_path.iterdir()
    damage(path, how)
    predictor = Predictor(tmp_path)
    with caplog.at_level(logging.WARNING):
        second, _ = predictor(named(method), VIEW0, VIEW1)
    assert "computed anew" in caplog.text
    assert not list(tmp_path.glob("*.run"))  # nothing of the file was executed
    assert path.name in caplog.text
    assert (predictor.computed, predictor.reused) == (1, 0)
    assert not np.array_equal(first.keypoints0, second.keypoints0)
    caplog.clear()
    same(Predictor(tmp_path)(named(method), VIEW0, VIEW1)[0], second)  # and it is whole again
    assert not caplog.text


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(file: object, **_: object) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Predictor(tmp_path)(named(), VIEW0, VIEW1)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_used_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match=r"file.*cannot be made.*name another"):
            Predictor(folder)
    predictor = Predictor(tmp_path / "cache")
    (tmp_path / "cache").rmdir()
    with pytest.raises(ConfigError, match="cannot be written"):
        predictor(named(), VIEW0, VIEW1)


def test_several_processes_may_share_a_folder(tmp_path: Path) -> None:
    answers: list[Matches] = []

    def ask() -> None:
        answers.extend(Predictor(tmp_path, fresh=True)(named(), VIEW0, VIEW1)[0] for _ in range(10))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 40
    (path,) = tmp_path.iterdir()
    assert len(predictions._load(path, path.stem)[0]) == 7


def test_one_call_for_each_method_and_size_is_not_timed(tmp_path: Path) -> None:
    small, large = View(IMAGES[0, :40], None), View(IMAGES[1], None)
    predictor, method, other = Predictor(), Method(), Method()
    calls = []
    for view0, view1 in ((small, small), (small, small), (large, large), (small, large), (large, large)):
        before = method.calls
        predictor(named(method), view0, view1)
        calls.append(method.calls - before)
    assert calls == [2, 1, 2, 2, 1]
    predictor(named(other, name="other"), small, small)
    assert other.calls == 2


def test_a_view_is_the_image_and_the_mask_without_its_rim() -> None:
    frame = Frame(IMAGES[0], 0.0, 0, mask=MASK)
    view = View.of(frame)
    assert view.image is frame.image
    np.testing.assert_array_equal(view.mask, without_rim(MASK))
    assert View.of(Frame(IMAGES[0], 0.0, 0)).mask is None
    assert view.size == (64, 48)


def test_a_view_is_stretched_with_its_mask() -> None:
    ys, xs = np.mgrid[:60, :80]
    disc = (xs - 39.5) ** 2 + (ys - 29.5) ** 2 < 20**2
    view = View(np.repeat((disc * 200).astype(np.uint8)[..., None], 3, axis=2), disc)
    for size in ((40, 60), (160, 90), (80, 60)):
        other = view.resized(size)
        assert other.size == size
        assert other.mask.shape == size[::-1]
        assert other.mask.mean() == pytest.approx(disc.mean(), rel=0.05)
        assert ((other.image[..., 0] > 100) == other.mask).mean() > 0.97
    assert view.resized((80, 60)) is view
    assert View(IMAGES[0], None).resized((20, 20)).mask is None
    np.testing.assert_array_equal(view.resized((40, 30)).mask, disc[::2, ::2])
    means = IMAGES[0].reshape(12, 4, 16, 4, 3).mean(axis=(1, 3))  # shrunk without aliasing
    assert np.abs(View(IMAGES[0], None).resized((16, 12)).image - means).max() <= 0.5
