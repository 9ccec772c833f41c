"""What processes have used, against what the operating system tells in other ways."""

from __future__ import annotations

import os
import resource

import pytest

from endomatch_ros.processes import usage


def test_usage_is_that_of_the_process():
    own, by_id, counted = usage(), usage(os.getpid()), resource.getrusage(resource.RUSAGE_SELF)
    if own is None:
        pytest.skip("this machine has no /proc")
    assert own.cpu_s == pytest.approx(counted.ru_utime + counted.ru_stime, abs=0.1)
    assert by_id.cpu_s >= own.cpu_s
    assert 10 < own.rss_mib <= counted.ru_maxrss / 1024 + 1


def test_nothing_is_known_of_a_process_that_is_not_there():
    assert usage(2**22 + 1) is None
