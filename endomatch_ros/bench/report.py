"""A benchmark for whoever reads it: in the terminal, and as ``bench.json``, ``bench.md`` and ``bench.png``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from endomatch_ros.bench.plot import write_plot
from endomatch_ros.bench.tables import LEFT, Table, tables
from endomatch_ros.evaluation.report import empty_table, markdown_table


def print_report(report: Mapping[str, Any], console: Console) -> None:
    """The tables, and what was measured on what."""
    if not console.is_terminal:
        console = Console(width=160, file=console.file)  # a file has no edge to wrap at
    for table in tables(report):
        shown = empty_table(table.title, table.headings, LEFT)
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)
    console.print(conditions(report), highlight=False)


def write_report(folder: Path, report: Mapping[str, Any]) -> list[Path]:
    """Write them into ``folder``, which is made if need be; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "bench.json", folder / "bench.md"]
    paths[0].write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    parts = [f"# Benchmark\n\n{conditions(report)}\n", *(f"## {t.title}\n\n{markdown(t)}" for t in tables(report))]
    paths[1].write_text("\n".join(parts))
    return [*paths, *write_plot(folder / "bench.png", report)]


def markdown(table: Table) -> str:
    """A table without its title."""
    return markdown_table(table.headings, table.rows, LEFT)


def conditions(report: Mapping[str, Any]) -> str:
    """What was measured, on what, as a sentence."""
    source, machine, model = report["source"], report["machine"], report["model"]
    width, height = source["size"]
    return (
        f"{source['frames']} frames of {source['name']}, {width}x{height}; model {model['name']} "
        f"({model['sha256'][:12]}); {machine['device']} ({machine['processor']}), torch {machine['torch']}, "
        f"OpenCV {machine['opencv']}; commit {machine['commit']}, {machine['date']}."
    )
