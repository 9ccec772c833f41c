"""docs/performance.md is what the committed figures make of it."""

from __future__ import annotations

import json

import pytest
from conftest import ROOT

from endomatch_ros.bench import document
from endomatch_ros.errors import ConfigError

FIGURES, PAGE = ROOT / "benchmarks" / "results" / "bench_cpu.json", ROOT / "docs" / "performance.md"


def test_the_page_is_made_of_the_figures():
    command = f"python -m {document.__name__} benchmarks/results/bench_cpu.json docs/performance.md"
    assert PAGE.read_text().count(command) == 1
    assert PAGE.read_text() == document.renewed(PAGE.read_text(), json.loads(FIGURES.read_text())), f"run {command}"


def test_renewing_fills_what_is_marked_and_keeps_the_rest(tmp_path):
    (tmp_path / "images").mkdir()
    page = tmp_path / "page.md"
    page.write_text("Mine.\n<!-- bench: Soak -->\nold\n<!-- end -->\nMine, too.\n")
    assert document.main([str(FIGURES), str(page)]) == 0
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("Mine.", "Mine, too.")
    assert lines[3].startswith("| frames |")
    assert "old" not in lines
    assert (tmp_path / document.PICTURE).stat().st_size > 1000


def test_a_table_that_the_figures_lack_is_named():
    with pytest.raises(ConfigError, match=r"'Gone'.*Soak"):
        document.renewed("<!-- bench: Gone -->\n<!-- end -->", json.loads(FIGURES.read_text()))
