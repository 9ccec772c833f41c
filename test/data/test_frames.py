"""What is made of frames."""

from __future__ import annotations

import pytest

from endomatch_ros.data.frames import to_and_fro


@pytest.mark.parametrize(("frames", "count", "expected"), [(4, 8, "01232101"), (2, 5, "01010"), (3, 2, "01")])
def test_to_and_fro_never_shows_a_frame_twice_in_a_row(frames, count, expected):
    assert "".join(map(str, to_and_fro(list(range(frames)), count))) == expected
