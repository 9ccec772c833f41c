"""Named settings of an evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest

from endomatch_ros.errors import ConfigError
from endomatch_ros.evaluation.protocols import PROTOCOLS


def test_protocols_can_be_run_as_they_are() -> None:
    assert set(PROTOCOLS) == {"default", "scared"}
    for protocol in PROTOCOLS.values():
        assert protocol.max_pairs > 0
        assert protocol.gaps == tuple(sorted(set(protocol.gaps)))
        assert min(protocol.gaps) >= 1
    assert 1 in PROTOCOLS["scared"].gaps
    assert "8.63 px" in PROTOCOLS["scared"].published


def test_a_protocol_refuses_data_that_it_is_not_made_for(tmp_path: Path) -> None:
    (tmp_path / "dataset_3" / "keyframe_2" / "data").mkdir(parents=True)
    (tmp_path / "dataset_3" / "keyframe_2" / "data" / "rgb.mp4").touch()
    folders = [str(tmp_path / part) for part in ("", "dataset_3", "dataset_3/keyframe_2")]
    PROTOCOLS["scared"].check(folders)
    for other in ("synthetic:3", str(tmp_path / "missing"), str(tmp_path / "dataset_3" / "keyframe_2" / "data")):
        with pytest.raises(ConfigError, match="is not SCARED"):
            PROTOCOLS["scared"].check([*folders, other])
        PROTOCOLS["default"].check([other])
