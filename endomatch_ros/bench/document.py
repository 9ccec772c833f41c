"""docs/performance.md written anew from the figures of a benchmark.

python -m endomatch_ros.bench.document benchmarks/results/bench_cpu.json docs/performance.md

makes what stands between ``<!-- bench: TITLE -->`` and ``<!-- end -->``: the table of that title, or for ``conditions``
what was measured on what; and, beside the page, ``images/performance.png``. All other text was written by hand.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from endomatch_ros.bench.plot import write_plot
from endomatch_ros.bench.report import conditions, markdown
from endomatch_ros.bench.tables import tables
from endomatch_ros.errors import ConfigError

PICTURE = "images/performance.png"
_PLACE = re.compile(r"(<!-- bench: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def renewed(text: str, report: Mapping[str, Any]) -> str:
    """The page that the figures make of ``text``; raises :class:`ConfigError` for a table that they do not have."""
    made = {table.title: markdown(table) for table in tables(report)} | {"conditions": conditions(report) + "\n"}

    def fill(match: re.Match[str]) -> str:
        if match[2] not in made:
            raise ConfigError(f"the figures have no table {match[2]!r}; they have {', '.join(made)}")
        return f"{match[1]}\n{made[match[2]]}\n{match[3]}"

    return _PLACE.sub(fill, text)


def main(argv: Sequence[str] | None = None) -> int:
    """Renew a page: the benchmark's file, then the page."""
    source, page = map(Path, sys.argv[1:] if argv is None else argv)
    report = json.loads(source.read_text())
    page.write_text(renewed(page.read_text(), report))
    write_plot(page.parent / PICTURE, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
