"""How a device is named, the same for every command and node."""

import subprocess
import sys

import pytest
import torch

from endomatch_ros.device import resolve_device
from endomatch_ros.errors import ConfigError


def test_auto_is_cuda_where_there_is_one(monkeypatch):
    for available, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda found=available: found)
        assert resolve_device("auto") == expected


def test_what_is_there_keeps_its_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [resolve_device(name) for name in ("cpu", "cuda", "cuda:1")] == ["cpu", "cuda", "cuda:1"]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("tpu0", "device 'tpu0' is unknown"),
        ("mps", "device 'mps' is not supported"),
        ("cuda:2", "'cuda:2' was asked for, but PyTorch sees 2"),
    ],
)
def test_what_is_not_there_is_refused_with_what_to_use(monkeypatch, name, problem):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match=rf"{problem}.*use auto"):
        resolve_device(name)


def test_the_module_itself_loads_no_torch():
    code = "import sys, endomatch_ros.device; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
