"""What the node counts about itself."""

import pytest

from endomatch_ros.ros.monitoring.causes import Drop, Keyframe, Reset
from endomatch_ros.ros.monitoring.statistics import Statistics


def test_statistics():
    statistics = Statistics()
    assert statistics.snapshot(0.0).age is None
    for index in range(11):
        statistics.arrived(0.1 * index)
    for latency in (0.01, 0.02, 0.03):
        statistics.published(latency, None, {})
    statistics.dropped(Drop.BAD_IMAGE, "why")
    for count in (3, 0, 4):
        statistics.left_out({"dense_consistency": count})
    snapshot = statistics.snapshot(1.0)
    assert snapshot.left_out == {"dense_consistency": 7}
    assert snapshot.rate == pytest.approx(10)
    assert snapshot.latency[0] == pytest.approx(20)
    assert snapshot.stamp_latency is None
    assert (snapshot.drops, snapshot.problem) == ({"bad_image": 1}, "why")
    assert statistics.snapshot(100.0).rate == 0
    assert statistics.snapshot(100.0).age == pytest.approx(99)


def test_causes_are_counted_each_by_itself_and_the_newest_is_known():
    statistics = Statistics()
    snapshot = statistics.snapshot(0.0)
    assert (snapshot.last_drop, snapshot.last_reset, snapshot.last_keyframe) == (None, None, None)
    for cause in (*Drop, Drop.SUPERSEDED):
        statistics.dropped(cause)
    for cause in (Reset.SERVICE, Reset.ACTIVATED, Reset.SERVICE):
        statistics.reset(cause)
    statistics.keyframe(Keyframe.SERVICE)
    snapshot = statistics.snapshot(0.0)
    assert snapshot.drops == dict.fromkeys(Drop, 1) | {Drop.SUPERSEDED: 2}
    assert snapshot.faults == 3
    assert snapshot.resets == {Reset.SERVICE: 2, Reset.ACTIVATED: 1}
    assert snapshot.keyframes == {Keyframe.SERVICE: 1}
    assert (snapshot.last_drop, snapshot.last_reset) == (Drop.SUPERSEDED, Reset.SERVICE)
