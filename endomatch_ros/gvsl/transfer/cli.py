"""The command line of ``endomatch pretrain transfer``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from endomatch_ros.errors import ConfigError

_TRANSFER = """\
Learn to segment from a few labelled volumes of the train part, starting from each of some checkpoints and from random
weights, and measure Dice on the test part's stored voxels. For one seed every checkpoint gets the same volumes, in the
same order. Prints mean ± standard deviation over the seeds and, in brackets, the mean difference to random weights,
± the standard deviation of the seeds' differences."""
_DEFAULTS: dict[str, dict[str, Any]] = {
    "probe": {"steps": 200, "learning_rate": 3e-2, "batch_size": 2},
    "finetune": {"steps": 100, "learning_rate": 2e-3, "batch_size": 1},
}


def add_parser(kinds: Any) -> None:
    """Add the sub-command ``transfer`` to sub-parsers."""
    parser = kinds.add_parser(
        "transfer",
        help="measure segmentation with few labels",
        description=_TRANSFER,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="DIR", help="folder with images/ and labels/")
    add(
        "--checkpoint",
        nargs="+",
        action="extend",
        required=True,
        metavar="NAME=FILE",
        help="preset or .safetensors file, `none` for random weights; NAME= is for the table",
    )
    add(
        "--mode", choices=tuple(_DEFAULTS), default="finetune", help="linear layer alone, or all (default: %(default)s)"
    )
    add("--shots", type=int, nargs="+", default=[2, 5, 10], metavar="N", help="labelled volumes (default: 2 5 10)")
    add("--seeds", type=int, default=5, help="repetitions (default: %(default)s)")
    for name, kind in (("steps", int), ("learning_rate", float), ("batch_size", int)):
        values = ", ".join(f"{defaults[name]:g} for {mode}" for mode, defaults in _DEFAULTS.items())
        add(f"--{name.replace('_', '-')}", type=kind, metavar="N", help=f"of the training (default: {values})")
    add("--augment", action=argparse.BooleanOptionalAction, default=True, help="in fine-tuning")
    add("--precision", default="32-true", help="32-true or bf16-mixed, in fine-tuning (default: %(default)s)")
    add("--part", choices=("validation", "test"), default="test", help="to measure on (default: %(default)s)")
    add("--split", default="auto", help="as for `endomatch pretrain volume` (default: %(default)s)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    add("--json", type=Path, metavar="OUT", help="file for the figures")


def run(args: argparse.Namespace) -> int:
    """``endomatch pretrain transfer``."""
    from endomatch_ros.gvsl.transfer.run import Run, TransferConfig, transfer
    from endomatch_ros.gvsl.transfer.segmentation import SegmentationConfig

    given = {name: getattr(args, name) for name in ("steps", "learning_rate", "batch_size")}
    values = _DEFAULTS[args.mode] | {name: value for name, value in given.items() if value is not None}
    training = SegmentationConfig(mode=args.mode, augment=args.augment, precision=args.precision, **values)
    config = TransferConfig(tuple(args.shots), args.seeds, training)

    def progress(run: Run) -> None:
        place = f"{run.initialisation}, {run.shots} volumes, seed {run.seed}"
        print(f"{place}: Dice {run.dice:.4f} ({run.seconds:.1f} s)", flush=True)

    report = transfer(args.data, names(args.checkpoint), config, args.part, args.split, args.device, progress)
    print(table(report))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=2) + "\n")
        print(f"wrote {args.json}")
    return 0


def names(given: Sequence[str]) -> dict[str, str]:
    """Checkpoints by name, of ``NAME=FILE`` or ``FILE``.

    Raises:
        ConfigError: a name twice, or no name or no file.
    """
    named: dict[str, str] = {}
    for text in given:
        name, _, source = text.partition("=") if "=" in text else (text, "", text)
        if not name or not source:
            raise ConfigError(f"--checkpoint {text!r}: write NAME=FILE, or NAME=none for random weights")
        if name in named:
            raise ConfigError(f"--checkpoint {name!r} is there twice: give each a name of its own, NAME=FILE")
        named[name] = source
    return named


def table(report: Mapping[str, Any]) -> str:
    """Initialisations by numbers of labelled volumes, as Markdown."""
    shots = report["shots"]
    cells = {(row["initialisation"], row["shots"]): _cell(row) for row in report["results"]}
    rows = [["", *(f"{n} volumes" for n in shots)]]
    rows += [[name, *(cells[name, n] for n in shots)] for name in report["checkpoints"]]
    rows.insert(1, ["---"] * (len(shots) + 1))
    head = f"Dice on {report['measured_subjects']} volumes ({report['part']}), {report['seeds']} seeds:"
    return "\n".join([head, "", *(f"| {' | '.join(row)} |" for row in rows)])


def _cell(row: Mapping[str, Any]) -> str:
    text = _pair(row["dice"], row["dice_std"], "")
    return f"{text} ({_pair(row['difference'], row['difference_std'], '+')})" if "difference" in row else text


def _pair(mean: float, spread: float | None, sign: str) -> str:
    return f"{mean:{sign}.3f}" + ("" if spread is None else f" ± {spread:.3f}")
