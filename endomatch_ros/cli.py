"""The command line: one command, ``endomatch``, with everything below it. Heavy imports wait until they are needed."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from endomatch_ros import __version__, openmp
from endomatch_ros.errors import ConfigError, EndomatchError
from endomatch_ros.evaluation.options import add_model_options, add_setting_options, load_matcher

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
_EXAMPLES = """\
examples:
  endomatch match a.png b.png --output overlay.png
  endomatch demo
  endomatch node --ros-args -r image_raw:=/camera/image_raw -p device:=cuda
  endomatch evaluate --data recordings/sinus --output results
  endomatch bench --quick
  endomatch train --data case_1.mp4 --output runs/mine

`endomatch COMMAND --help` tells more."""
_MATCH_EXAMPLES = """\
examples:
  endomatch match a.png b.png                        print the count, the timing and the inlier ratio
  endomatch match a.png b.png --output overlay.png   and draw the matches
  endomatch match a.png b.png --csv matches.csv --model dinov2-small --device cuda

The two pictures may differ in size. Inliers are those of a robust fundamental matrix (MAGSAC)."""
_NODE_EXAMPLES = """\
examples:
  endomatch node --ros-args -r image_raw:=/endoscope/image_raw -r camera_info:=/endoscope/camera_info
  endomatch node --ros-args -p model:=/data/model.safetensors -p device:=cuda

The same as `ros2 run endomatch_ros matcher_node`; everything after `node` goes to ROS."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``endomatch``.

    Args:
        argv: the arguments after the command's name; None: those of the process.

    Returns:
        Exit status: 0 for success, 2 for bad input (one line on stderr says what and how to mend it), 130 after Ctrl-C.
    """
    openmp.prepare()
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    if rest and not args.takes_rest:
        parser.error(f"unrecognised arguments: {' '.join(rest)}; see endomatch {args.command} --help")
    try:
        return int(args.run(args, rest))
    except EndomatchError as error:
        if args.debug:
            raise
        print(f"endomatch: error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) has enough; the interpreter must not complain about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="endomatch",
        description="Match the frames of an endoscope: as a ROS 2 node, on pictures, on recordings.",
        epilog=_EXAMPLES,
        formatter_class=raw,
    )
    parser.add_argument("--version", action="version", version=f"endomatch {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(
        name: str, run: Callable[[argparse.Namespace, list[str]], int], text: str, **options: Any
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, formatter_class=raw, **options)
        command.set_defaults(run=run, takes_rest=False)
        command.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        return command

    _add_match(add("match", _match, "match two pictures", epilog=_MATCH_EXAMPLES))
    usage = "endomatch node [--ros-args ...]"
    node = add("node", _hand_over, "run the ROS 2 node", epilog=_NODE_EXAMPLES, usage=usage)
    node.set_defaults(takes_rest=True, module="endomatch_ros.ros.node")
    info = add("info", _info, "show model, versions, devices and whether ROS is there")
    add_model_options(info)
    info.add_argument("--json", action="store_true", help="as JSON")
    for name, module, text in (
        ("demo", "endomatch_ros.ros.demo.run", "stream a synthetic endoscope through the node"),
        ("evaluate", "endomatch_ros.evaluation.cli", "measure matchers on a recording"),
        ("bench", "endomatch_ros.bench.cli", "measure how fast matcher and node are, by stage"),
        ("train", "endomatch_ros.training.cli", "train a matcher without labels"),
        ("pretrain", "endomatch_ros.gvsl.cli", "learn from unlabelled volumes or frames by registering them"),
        ("register", "endomatch_ros.gvsl.register", "register two volumes"),
    ):
        # These bring their own arguments and their own --help.
        add(name, _hand_over, text, add_help=False).set_defaults(takes_rest=True, module=module)
    return parser


def _add_match(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image0", type=Path, metavar="A", help="reference picture")
    parser.add_argument("image1", type=Path, metavar="B", help="current picture")
    parser.add_argument("--output", type=Path, metavar="FILE", help="overlay picture to write (.png, .jpg, ...)")
    parser.add_argument(
        "--layout",
        choices=("pair", "flow"),
        default="pair",
        help="pair: both pictures side by side; flow: motion drawn on B (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="matches and summary as JSON")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="matches as CSV, one per line")
    add_model_options(parser)
    add_setting_options(parser)


def _match(args: argparse.Namespace, _: list[str]) -> int:
    from endomatch_ros.data.readers.images import read_image
    from endomatch_ros.evaluation import pair

    pair.check_outputs(args.output, args.json, args.csv)
    images = read_image(args.image0), read_image(args.image1)
    result = pair.match_pair(load_matcher(args), *images)
    if args.output:
        pair.write_image(args.output, pair.draw(result, *images, layout=args.layout))
    if args.json:
        pair.write_json(args.json, result)
    if args.csv:
        pair.write_csv(args.csv, result)
    print(result.describe())
    for path in filter(None, (args.output, args.json, args.csv)):
        print(f"wrote {path}")
    return 0


def _hand_over(args: argparse.Namespace, rest: list[str]) -> int:
    try:
        run: Callable[[list[str]], int] = importlib.import_module(args.module).main
    except ImportError as error:
        if not args.module.startswith("endomatch_ros.ros."):
            raise
        raise ConfigError(
            f"`endomatch {args.command}` cannot start: {error}. It needs ROS 2 for {sys.executable}: source a ROS 2 "
            'installation of the same Python version, or install the wheels with pip install "endomatch_ros[ros]"'
        ) from error
    return run(rest)


def _info(args: argparse.Namespace, _: list[str]) -> int:
    import cv2
    import torch

    from endomatch_ros.matching import Matcher

    matcher = Matcher.from_pretrained(args.model, args.device, args.backbone_weights)
    names = ("torch", "timm", "numpy", "safetensors", "rosbags", "lightning", "kornia", "monai", "nibabel")
    facts: dict[str, Any] = {
        "endomatch_ros": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "platform": platform.platform(),
        # OpenCV comes under several distributions' names, and from Debian under none.
        "packages": {**{name: _version(name) for name in names}, "opencv": cv2.__version__},
        "cuda_devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "ros": _ros_facts(),
        "model": vars(matcher.info),
        "settings": vars(matcher.config),
    }
    print(json.dumps(facts, indent=2) if args.json else "\n".join(_lines(facts)))
    return 0


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _ros_facts() -> dict[str, str]:
    """Where rclpy and cv_bridge lie, without importing them."""
    facts = {"ROS_DISTRO": os.environ.get("ROS_DISTRO", "not set")}
    for name in ("rclpy", "cv_bridge"):
        spec = importlib.util.find_spec(name)
        facts[name] = str(spec.origin) if spec else "not found"
    return facts


def _lines(facts: dict[str, Any], indent: str = "") -> list[str]:
    """A nested dictionary as aligned lines of text."""
    lines = []
    width = max(map(len, facts))
    for name, value in facts.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}", *_lines(value, indent + "  ")]
        else:
            text = (", ".join(value) or "none") if isinstance(value, list) else value
            lines.append(f"{indent}{name:<{width}}  {text}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
