"""What ``/diagnostics`` says, on real DDS with a fake matcher."""

import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from support.ros import bench

from endomatch_ros.ros.monitoring.causes import MATCH_DROPS, Drop, Keyframe, Reset


@pytest.fixture
def running():
    with bench() as current:
        yield current


def test_every_cause_is_shown_before_and_after_it_occurs(running):
    statistics = running.node._statistics[""]
    keys = {
        **{f"dropped_{cause}": statistics.dropped for cause in Drop},
        **{f"reset_{cause}": statistics.reset for cause in Reset},
        **{f"keyframe_{cause}": statistics.keyframe for cause in Keyframe},
    }
    _, values = running.client.wait_diagnostics("processing", lambda *_: True, "a report")
    assert {key: values[key] for key in keys} == dict.fromkeys(keys, "0")
    assert {values[f"matches_dropped_{check}"] for check in MATCH_DROPS} == {"0"}
    assert values["last_drop"] == values["last_reset"] == values["last_keyframe"] == ""
    for cause in (*Drop, *Reset, *Keyframe):
        {Drop: statistics.dropped, Reset: statistics.reset, Keyframe: statistics.keyframe}[type(cause)](cause)
    statistics.left_out({"another_check": 3})
    _, values = running.client.wait_diagnostics("processing", lambda _, v: v["keyframe_service"] == "1", "the counts")
    assert {key: values[key] for key in keys} == dict.fromkeys(keys, "1")
    assert values["matches_dropped_another_check"] == "3"


def test_an_operator_reads_why_the_last_frame_was_dropped(running):
    running.matched()
    running.client.send(encoding="unheard_of")
    status, values = running.client.wait_diagnostics("processing", lambda _, v: v["last_drop"], "the drop")
    assert values["last_drop"] == "bad_encoding: an encoding that is not supported"
    assert values["last_reset"] == "activated: the node was activated"
    assert status.level == DiagnosticStatus.WARN


def test_a_drop_that_is_no_fault_is_no_warning(running):
    running.node._statistics[""].dropped(Drop.SUPERSEDED)
    status, _ = running.client.wait_diagnostics("processing", lambda _, v: v["dropped_superseded"] == "1", "the drop")
    assert status.level == DiagnosticStatus.OK
