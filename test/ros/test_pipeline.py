"""Cameras that share a loaded matcher: each has its own settings, and a change starts its stream anew."""

import time

import numpy as np
import pytest
from sensor_msgs.msg import Image
from support.fakes import FakeMatcher
from support.ros import bench, texture

from endomatch_ros.errors import ConfigError
from endomatch_ros.matching import Matcher
from endomatch_ros.ros import parameters
from endomatch_ros.ros.messages.clouds import ns_to_stamp
from endomatch_ros.ros.messages.images import to_message
from endomatch_ros.ros.monitoring.statistics import Statistics
from endomatch_ros.ros.pipeline import Job, Pipeline


@pytest.fixture(scope="module")
def chosen():
    """Makes the node's settings with some parameters changed."""
    with bench() as running:
        yield lambda **changes: parameters.changed(running.node, "", changes)


def pipeline(loaded, settings):
    return Pipeline(loaded, settings, Statistics(), pytest.fail)


def job(settings, second, seed=0):
    message: Image = to_message(texture(seed=seed), ns_to_stamp(second * 10**9), "scope")
    return Job(message, None, time.monotonic(), settings)


def test_settings_of_two_cameras_cannot_leak(chosen):
    loaded = FakeMatcher()
    own = loaded.config
    left = chosen(resolution=320)
    right = chosen(max_keypoints=77, refinement="none")
    cameras = {name: pipeline(loaded, settings) for name, settings in (("left", left), ("right", right))}
    wanted = {"left": own.changed(resolution=320), "right": own.changed(max_keypoints=77, refinement="none")}
    for second in (1, 2):
        for name, settings in (("left", left), ("right", right)):
            cameras[name].open(job(settings, second))
            assert loaded.asked[-1].config == cameras[name].matcher.config == wanted[name]
    # A change of one is none of the other, nor of what a third would start from.
    cameras["left"].open(job(chosen(similarity_threshold=0.9), 3))
    cameras["right"].open(job(right, 3))
    assert [asked.config for asked in loaded.asked[-2:]] == [own.changed(similarity_threshold=0.9), wanted["right"]]
    assert loaded.config == own
    assert pipeline(loaded, chosen()).matcher.config == own


def test_what_is_validated_for_one_camera_changes_none(chosen):
    loaded = FakeMatcher()
    cameras = [pipeline(loaded, chosen()) for _ in range(2)]
    cameras[0].validate(chosen(max_keypoints=5))
    with pytest.raises(ConfigError, match="no head"):
        cameras[0].validate(chosen(refinement="dense"))
    assert [camera.matcher.config for camera in cameras] == [loaded.config] * 2


def test_changed_settings_start_the_stream_anew_with_names_of_its_own(chosen):
    """Once per change of what features were made with, on the real matcher; other settings change nothing."""
    loaded = Matcher.from_pretrained(device="cpu", resolution=160, mask="none")
    camera = pipeline(loaded, chosen())
    answers, seen = [], []
    same = {"ransac_threshold_px": 2.0}
    fewer = {**same, "max_keypoints": 40}
    for second, changes in enumerate(({}, {}, same, fewer, fewer, fewer, {**fewer, "roi": [0, 0, 99, 99]})):
        settings = chosen(**changes)
        frame = camera.open(job(settings, second))
        answers.append(camera.match(frame, *loaded.describe([frame.prepared])))
        seen.append(camera._statistics.snapshot(0).resets.get("parameters_changed", 0))
    assert [answer is None for answer in answers] == [True, False, False, True, False, False, True]
    assert seen == [0, 0, 0, 1, 1, 1, 2]
    before, after = (np.concatenate([a.matches.track_ids for a in answers[k : k + 2]]) for k in (1, 4))
    assert len(before) > len(after) > 0
    assert after.min() > before.max()
