"""benchmarks/gpu.sh: a dry run without a GPU, and that no part can stop the others."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("gpu_script", ROOT / "benchmarks/gpu.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_parts_that_fail_hang_or_say_nothing_stop_nothing(script, tmp_path, monkeypatch):
    def python(text):
        return [sys.executable, "-c", text]

    monkeypatch.setattr(
        script,
        "parts",
        lambda args: {
            "broken": (60, python("raise ValueError('no such kernel')")),
            "hanging": (1, python("import subprocess; subprocess.run(['sleep', '600'])")),
            "silent": (60, python("")),
            "sound": (60, python(f"open({str(tmp_path / 'sound.json')!r}, 'w').write('[1]')")),
        },
    )
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--output", str(tmp_path), "--device", "cpu"])
    assert script.main() == 1
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert report["parts"] == {"sound": [1]}
    assert "no such kernel" in report["failed"].pop("broken")
    assert report["failed"] == {"hanging": "took longer than 1 s\n", "silent": "it left no figures"}
    assert set(report["seconds"]) == {"broken", "hanging", "silent", "sound", "all"}


def test_when_the_time_is_over_the_rest_is_left_out(script, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--output", str(tmp_path), "--device", "cpu", "--minutes", "0"])
    assert script.main() == 1
    failed = json.loads((tmp_path / "gpu.json").read_text())["failed"]
    assert failed == dict.fromkeys(script.MEASURES, "no time was left")


@pytest.mark.slow
def test_a_dry_run_on_a_cpu_leaves_all_figures(script, tmp_path):
    command = [str(ROOT / "benchmarks/gpu.sh"), "--device=cpu", "--quick", f"--output={tmp_path}", "--data=nowhere"]
    subprocess.run(command, check=True, env={**os.environ, "PYTHON": sys.executable})
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert report["failed"] == {}
    assert list(report["parts"]) == list(script.MEASURES)
    assert report["parts"]["embedded"]["engines"]["auto"]["milliseconds"]["p50"] > 0
    assert "random weights" in report["parts"]["dinov2-small"]["weights"]
    assert report["parts"]["accuracy"] == {"left_out": "there is no nowhere"}
