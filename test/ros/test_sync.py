"""Which waiting frames go together, and what is dropped for which cause."""

import pytest

from endomatch_ros.ros.monitoring.causes import Drop
from endomatch_ros.ros.sync import FrameBuffer

MS = 1_000_000


def buffer(strict=False, cameras=("left", "right"), tolerance=5 * MS, patience=0.02):
    return FrameBuffer(list(cameras), strict, tolerance, patience)


def test_one_camera_gives_the_newest_frame_at_once():
    frames = buffer(cameras=[""])
    assert frames.put("", "a", 0, 0.0) == []
    assert frames.put("", "b", 1, 0.0) == [("", Drop.SUPERSEDED)]
    assert frames.take(0.0) == ({"": "b"}, [])
    assert frames.take(9.0) == ({}, [])
    assert frames.due_in(0.0) is None


def test_frames_of_one_moment_go_together_whatever_their_order():
    frames = buffer()
    frames.put("right", "r", 3 * MS, 0.0)
    assert frames.take(0.0) == ({}, [])
    frames.put("left", "l", 0, 0.001)
    assert frames.take(0.001) == ({"left": "l", "right": "r"}, [])


def test_a_frame_waits_for_its_partner_only_so_long():
    frames = buffer()
    frames.put("left", "l", 0, 10.0)
    assert frames.due_in(10.005) == pytest.approx(0.015)
    assert frames.take(10.019) == ({}, [])
    assert frames.take(10.021) == ({"left": "l"}, [])


def test_with_pairs_only_a_frame_waits_for_ever():
    frames = buffer(strict=True)
    frames.put("left", "l", 0, 0.0)
    assert frames.due_in(1.0) is None
    assert frames.take(100.0) == ({}, [])


def test_a_partner_some_frames_late_is_still_found():
    frames = buffer(strict=True)
    for index in range(4):
        assert frames.put("left", index, 33 * index * MS, 0.0) == []
    assert frames.put("right", 1, 34 * MS, 0.0) == [("left", Drop.UNPAIRED)]  # left 0 comes before the newest pair
    assert frames.take(0.0) == ({"left": 1, "right": 1}, [])
    # Those after it still wait for theirs.
    assert frames.put("right", 3, 100 * MS, 0.0) == [("left", Drop.UNPAIRED)]
    assert frames.take(0.0) == ({"left": 3, "right": 3}, [])


def test_while_the_matcher_is_busy_the_newest_pair_wins_and_the_others_are_superseded():
    frames, dropped = buffer(strict=True), []
    for index in range(10):
        for camera in ("left", "right"):
            dropped += frames.put(camera, index, 33 * index * MS, 0.0)
    assert frames.take(0.0) == ({"left": 9, "right": 9}, [])
    assert dropped.count(("left", Drop.SUPERSEDED)) == dropped.count(("right", Drop.SUPERSEDED)) == 9
    assert len(dropped) == 18


def test_a_silent_partner_makes_unpaired_drops_and_tells_the_gap():
    frames, dropped = buffer(strict=True), []
    frames.put("right", "old", 0, 0.0)
    for index in range(1, 7):
        dropped += frames.put("left", index, 33 * index * MS, 0.0)
    assert dropped == [("left", Drop.UNPAIRED)] * 2
    assert frames.gap == 66 * MS  # of left 2, the last one dropped


def test_stamps_beyond_the_tolerance_are_no_pair():
    frames = buffer(strict=True)
    frames.put("left", "l", 0, 0.0)
    frames.put("right", "r", 5 * MS + 1, 0.0)
    assert frames.take(0.0) == ({}, [])
    frames.tolerance = 5 * MS + 1
    assert frames.take(0.0) == ({"left": "l", "right": "r"}, [])


def test_clear_names_the_cameras_of_what_is_forgotten():
    frames = buffer()
    frames.put("left", 1, 0, 0.0)
    frames.put("left", 2, 50 * MS, 0.0)
    frames.put("right", 1, 90 * MS, 0.0)
    assert frames.clear() == ["left", "left", "right"]
    assert frames.take(9.0) == ({}, [])
