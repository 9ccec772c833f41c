"""The causes of drops, restarts and keyframes: text by name, each with a meaning, nothing else is counted."""

from typing import get_args

import pytest

from endomatch_ros.matching.keyframes import Due
from endomatch_ros.ros.monitoring.causes import Drop, Keyframe, Reset
from endomatch_ros.ros.monitoring.statistics import Statistics

ALL = [*Drop, *Reset, *Keyframe]


@pytest.mark.parametrize("cause", ALL, ids=repr)
def test_a_cause_is_its_name_wherever_it_becomes_text(cause):
    assert cause == str(cause) == f"{cause}" == cause.name.lower()
    assert type(cause)(str(cause)) is cause


@pytest.mark.parametrize("cause", ALL, ids=repr)
def test_a_meaning_is_a_clause_for_a_table_and_a_line_of_diagnostics(cause):
    assert len(cause.meaning) > 15
    assert not cause.meaning.endswith(".")
    assert not set("|`\n") & set(cause.meaning)


def test_faults_are_what_somebody_should_mend():
    assert [cause for cause in Drop if cause.fault] == [Drop.BAD_ENCODING, Drop.BAD_IMAGE, Drop.MATCHING_FAILED]


def test_all_that_the_rules_of_keyframes_find_is_a_cause():
    assert {"", *Keyframe} - {Keyframe.FIRST, Keyframe.SERVICE} == set(get_args(Due))


@pytest.mark.parametrize("count", [Statistics.dropped, Statistics.reset, Statistics.keyframe])
def test_what_is_no_cause_is_refused_and_not_counted(count):
    statistics = Statistics()
    with pytest.raises(ValueError, match="tired"):
        count(statistics, "tired")
    snapshot = statistics.snapshot(0.0)
    assert snapshot.drops == snapshot.resets == snapshot.keyframes == {}
