"""The sidecar of the dVRK's recorder: stamps and stereo layout as its own tools read them, damage told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.videos import COUNT, stereo_picture, write_video

from endomatch_ros.data.readers.video import VideoFile
from endomatch_ros.errors import DataError


def dvrk_frame(number: int, **realtime: int | None) -> dict[str, object]:
    """As the recorder of dvrk_data 1.0.0 writes it."""
    clock: dict[str, int | None] = dict.fromkeys(
        f"{name}_ns" for name in ("mono_source", "left_source", "right_source", "stereo_output", "overlay_output")
    )
    gst = dict.fromkeys(("pts_ns", "dts_ns", "duration_ns", "running_time_ns", "stream_time_ns", "clock_time_ns"), 7)
    cpu = {"realtime": {**clock, **realtime}, "monotonic": {"recorder_reception_ns": 123 + number}}
    return {"frame_index": number, "gst": gst, "cpu": cpu}


def dvrk_sidecar(frames: list[dict[str, object]], side_by_side: str = "undefined") -> dict[str, object]:
    return {
        "type": "dvrk_data:video_sidecar@1.0.0",
        "video_file": "clip.mp4",
        "frames_recorded": len(frames),
        "side_by_side": side_by_side,
        "frames": frames,
    }


START = 1_790_000_000_000_000_000  # ns since 1970, in 2026


def write_sidecar(video: Path, content: object) -> None:
    video.with_suffix(".json").write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.mark.parametrize(
    ("clocks", "expected"),
    [
        ({"mono_source_ns": 40, "left_source_ns": 1, "recorder_reception_ns": 90}, 40),
        ({"left_source_ns": 20, "right_source_ns": 30, "recorder_reception_ns": 90}, 25),
        ({"right_source_ns": 30, "recorder_reception_ns": 90}, 30),
        ({"recorder_reception_ns": 90}, 90),
    ],
)
def test_stamps_are_those_of_the_dvrk_recorder(clocks: dict[str, int], expected: int, tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4")
    frames = [
        dvrk_frame(k, **{name: START + 10**6 * (41 * k + ms) for name, ms in clocks.items()}) for k in range(COUNT)
    ]
    write_sidecar(path, dvrk_sidecar(frames))
    video = VideoFile(path)
    for k in (0, 1, 50):
        assert video[k].stamp == pytest.approx(START / 1e9 + 0.041 * k + expected / 1e3, abs=1e-6)
    assert VideoFile(path, rate=10)[5].stamp == 0.5


def test_the_recorders_predecessor_is_read_too(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4")
    frames = [{"cpu_ts": START + 40_000_000 * k, "gst_ts": 40_000_000 * k} for k in range(COUNT)]
    write_sidecar(path, {"type": "dc::sidecar@1.0.0", "frames": frames})
    assert VideoFile(path)[3].stamp == pytest.approx(START / 1e9 + 0.12, abs=1e-6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{ not json", "no sidecar"),
        ("[1, 2]", "no sidecar"),
        ({"type": "dvrk_data:video_tags@1.0.0", "frames": []}, "video_tags"),
        ({"type": "dvrk_data:video_sidecar@1.0.0"}, "frames"),
        (dvrk_sidecar([{"frame_index": 0, "gst": {}}] * COUNT), "cpu"),
        (dvrk_sidecar([dvrk_frame(0, recorder_reception_ns=-5)] * COUNT), "-5"),
        (dvrk_sidecar([dvrk_frame(0, recorder_reception_ns=5)] * COUNT, "TB"), "TB"),
        (dvrk_sidecar([dvrk_frame(0, recorder_reception_ns=5)] * (COUNT - 1)), f"{COUNT} frames.* {COUNT - 1}"),
    ],
)
def test_a_sidecar_that_cannot_be_is_a_clear_error(content: object, message: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4")
    write_sidecar(path, content)
    with pytest.raises(DataError, match=rf"(?s)clip\.json.*{message}|{message}") as caught:
        VideoFile(path)
    assert "clip.json" in str(caught.value)
    assert "rename" in str(caught.value)


@pytest.mark.parametrize(("word", "layout"), [("LR", "left-right"), ("RL", "right-left")])
def test_the_recorder_tells_which_half_is_left(word: str, layout: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.avi", "MJPG", [stereo_picture(layout)] * 3)
    write_sidecar(path, dvrk_sidecar([dvrk_frame(k, recorder_reception_ns=START + k) for k in range(3)], word))
    frame = VideoFile(path)[2]
    assert frame.size == (64, 48)
    assert frame.image.mean() == pytest.approx(200, abs=3)
