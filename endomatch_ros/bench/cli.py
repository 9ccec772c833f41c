"""The command line of ``endomatch bench``."""

from __future__ import annotations

import argparse
import importlib.util
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from endomatch_ros.data.sources import KINDS, add_source_arguments, source_options
from endomatch_ros.errors import ConfigError, check_range
from endomatch_ros.evaluation.options import add_model_options, add_setting_options

PARTS = ("matcher", "node", "scaling", "soak")
LEFT_OUT = ("mask", "rate")
"""Options of a source that mean nothing here; a setting of the matcher and the camera's rates are called so."""
_QUICK = {"size": "640x512", "frames": 8, "seconds": 3.0}
_FULL = {"size": "1280x1024", "frames": 30, "seconds": 10.0}
_EPILOG = f"""\
{textwrap.fill(f"SOURCE is {KINDS}.", 100)}

parts:
  matcher   StreamMatcher.push by stage, beside other methods on the same pairs, pair by pair in turn
  node      the node in a process of its own behind real DDS: latency by stage, drops, processor, memory
  scaling   over resolution, matches and cameras; with the accuracy where the source knows the truth
  soak      whether memory stays flat over --soak frames

examples:
  endomatch bench                                  all but the soak, a few minutes
  endomatch bench --quick                          a first impression
  endomatch bench --only matcher --peers klt sift xfeat --device cuda
  endomatch bench --only node --rates 30 60 --beside 2
  endomatch bench --only soak --soak 10000
  endomatch bench --data case_2.mp4 --frames 60 --resolution 320
"""


def main(argv: Sequence[str] | None = None) -> int:
    """``endomatch bench``; errors are left to the caller."""
    args = _parser().parse_args(argv)
    for name, value in (_QUICK if args.quick else _FULL).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    _check(args)
    args.only = _parts(args)
    args.options = source_options(args, LEFT_OUT)
    from endomatch_ros.bench.run import run_bench  # PyTorch takes seconds

    run_bench(args)
    return 0


def _check(args: argparse.Namespace) -> None:
    check_range("--frames", args.frames, 4, 100_000)
    check_range("--seconds", args.seconds, 0.5, 3600)
    check_range("--soak", args.soak, 0, 100_000_000)
    check_range("--beside", args.beside, 0, 1000)
    for rate in args.rates:
        check_range("--rates", rate, 0.5, 1000)
    if args.only and "soak" in args.only and not args.soak:
        raise ConfigError("--only soak: say how many frames, as --soak 10000")
    if args.output.exists() and not args.output.is_dir():
        raise ConfigError(f"--output {args.output} is a file; name a folder for bench.json, bench.md and bench.png")


def _parts(args: argparse.Namespace) -> list[str]:
    """What is measured. A machine without ROS measures the rest, unless the node is asked for by name."""
    parts = [part for part in args.only or PARTS if part != "soak" or args.soak]
    if "node" in parts and importlib.util.find_spec("rclpy") is None:
        lack = 'the node needs ROS 2: source an installation, or pip install "endomatch_ros[ros]"'
        if args.only:
            raise ConfigError(lack)
        print(f"left out: {lack}", file=sys.stderr)
        parts.remove("node")
    return parts


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="endomatch bench",
        description="Measure how fast the matcher and the node are, by stage. The figures are those of a machine and "
        "of what else runs there; ratios to other methods in the same run depend less on that.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--data", metavar="SOURCE", help="recording, see below (default: the synthetic endoscope, whose truth is known)"
    )
    add("--peers", nargs="*", default=["klt", "sift"], metavar="METHOD", help="as endomatch evaluate --methods "
        "(default: klt sift)")  # fmt: skip
    add(
        "--only",
        nargs="+",
        choices=PARTS,
        metavar="PART",
        help=f"{', '.join(PARTS)} (default: all, given --soak)",
    )
    add("--quick", action="store_true", help="fewer and smaller frames, a shorter stream")
    add("--frames", type=int, metavar="N", help=f"of the source (default: {_FULL['frames']}, quick {_QUICK['frames']})")
    add("--size", metavar="WxH", help=f"of the synthetic frames (default: {_FULL['size']}, quick {_QUICK['size']})")
    add("--rates", nargs="+", type=float, default=[30.0, 60.0], metavar="HZ", help="of the node's camera "
        "(default: 30 60)")  # fmt: skip
    add("--seconds", type=float, metavar="S", help="of the node's stream at each rate (default: "
        f"{_FULL['seconds']:g}, quick {_QUICK['seconds']:g})")  # fmt: skip
    add("--beside", type=int, default=0, metavar="N", help="the node also beside N busy processes (default: 0)")
    add("--soak", type=int, default=0, metavar="N", help="frames of the soak (default: 0, none)")
    add("--output", type=Path, default=Path("bench_output"), metavar="DIR", help="for bench.json, bench.md and "
        "bench.png (default: %(default)s)")  # fmt: skip
    model = parser.add_argument_group("networks")
    add_model_options(model)
    settings = parser.add_argument_group("settings of the matcher")
    add_setting_options(settings)
    add_source_arguments(parser, LEFT_OUT)
    return parser
