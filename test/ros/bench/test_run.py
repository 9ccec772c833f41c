"""The node observed: real processes over DDS."""

from __future__ import annotations

import os

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

from endomatch_ros.bench.stream import Stream
from endomatch_ros.data.synthetic import SceneConfig, SyntheticEndoscope, SyntheticSequence
from endomatch_ros.ros.bench.run import Load, observe


def test_in_step_every_frame_but_the_first_is_answered(tmp_path):
    sequence = SyntheticSequence(SyntheticEndoscope(SceneConfig(seed=3, width=192, height=160)), 3)
    source = Stream("a scene", list(sequence), sequence).write(tmp_path)
    before = dict(os.environ)
    seen = observe(source, Load(4, beside=1), {"device": "cpu", "resolution": 96}, tmp_path)
    assert os.environ == before
    assert seen.received == 4
    assert len(seen.answers) == 3
    assert all(arrived > stamp for stamp, arrived in seen.answers)
    assert seen.diagnostics["answered"] == "3"
    assert "192 x 160 px" in seen.diagnostics["calibration"]
    assert float(seen.diagnostics["stage_geometry_p99_ms"]) > 0
    assert seen.before.cpu_s <= seen.after.cpu_s
    assert seen.after.rss_mib > 100
