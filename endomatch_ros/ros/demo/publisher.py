"""A camera made of frames (``python -m endomatch_ros.ros.publisher``): Image and CameraInfo as a driver sends them."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.task import Future
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from endomatch_ros import openmp
from endomatch_ros.data.frames import to_and_fro
from endomatch_ros.data.readers.registry import READERS
from endomatch_ros.data.sources import KINDS, add_source_arguments, open_sequence, source_options
from endomatch_ros.errors import DataError, EndomatchError
from endomatch_ros.ros.launching import dds
from endomatch_ros.ros.launching.lifetime import until_told
from endomatch_ros.ros.messages.calibration import to_camera_info
from endomatch_ros.ros.messages.clouds import ns_to_stamp, stamp_to_ns
from endomatch_ros.ros.messages.images import to_compressed_message, to_message

if TYPE_CHECKING:
    from endomatch_ros.data.frames import Frame

_BASELINE_M = 0.004  # about that of a stereo laparoscope
_UNPAIRED = 300  # frames to pass over at the start of a stereo recording, where one camera may begin late
_OWN = ("rate", "stereo")  # options of a source that mean something else here


class FramePublisher(Node):
    """Publishes one frame after another on ``image_raw`` (or ``image_raw/compressed``) and ``camera_info``.

    Args:
        frames: taken one by one when due.
        rate: frames per second; with ``answers``, the pace only where no answer comes.
        answers: topic of the matcher's ``epipolar_error``; the next frame is sent as soon as the last one was answered.
        wait_for_subscriber: send nothing before somebody subscribes to the images.
        own_stamps: stamp with each frame's own time instead of now.
        compressed: publish JPEG on ``image_raw/compressed``.
        frame_id: the optical frame.
        stereo: publish frames and their stereo partners under ``left/`` and ``right/``.

    Attributes:
        sent: frames sent so far.
        done: future that is set one period after the last frame, or when that is answered.
    """

    def __init__(
        self,
        frames: Iterable[Frame],
        rate: float,
        answers: str | None = None,
        wait_for_subscriber: bool = False,
        own_stamps: bool = False,
        compressed: bool = False,
        frame_id: str = "endoscope_optical_frame",
        stereo: bool = False,
        **options: Any,
    ) -> None:
        super().__init__("endoscope", **options)
        self.sent = 0
        self.done: Future[None] = Future()
        self._frames = iter(frames)
        self._own_stamps, self._compressed, self._frame_id = own_stamps, compressed, frame_id
        self._waiting = wait_for_subscriber
        self._last_stamp = -1
        kind, topic = (CompressedImage, "image_raw/compressed") if compressed else (Image, "image_raw")
        self._cameras = ("left/", "right/") if stereo else ("",)
        qos = QoSProfile(depth=10)
        self._images = [self.create_publisher(kind, camera + topic, qos) for camera in self._cameras]
        self._infos = [self.create_publisher(CameraInfo, f"{camera}camera_info", qos) for camera in self._cameras]
        self._timer = self.create_timer(1 / rate, self._tick)
        if answers:
            self.create_subscription(DiagnosticArray, answers, self._on_answer, 10)

    @property
    def listeners(self) -> int:
        """How many subscribe to the images; of two cameras, to those of the one with fewer."""
        return min(images.get_subscription_count() for images in self._images)

    def _tick(self) -> None:
        if self._waiting and self.listeners == 0:
            return
        self._waiting = False
        frame = next(self._frames, None)
        if frame is None:
            self._timer.cancel()
            if not self.done.done():
                self.done.set_result(None)
            return
        if not self.context.ok():  # told to end while the frame was rendered
            return
        stamp = ns_to_stamp(round(frame.stamp * 1e9)) if self._own_stamps else self.get_clock().now().to_msg()
        self._last_stamp = stamp_to_ns(stamp)
        self._send(frame, stamp)

    def _send(self, frame: Frame, stamp: Time) -> None:
        pack = to_compressed_message if self._compressed else to_message
        views = [(frame.image, frame.camera, 0.0)]
        if len(self._cameras) > 1 and frame.partner is not None:
            views.append((frame.partner.image, frame.partner.camera, -float(frame.partner.pose[0, 3])))
        names = [f"{camera.rstrip('/')}_{self._frame_id}" if camera else self._frame_id for camera in self._cameras]
        for (image, camera, baseline), name, images, infos in zip(views, names, self._images, self._infos, strict=True):
            if camera is not None:
                infos.publish(to_camera_info(camera, stamp, name, baseline))
            images.publish(pack(image, stamp, name))
        self.sent += 1

    def _on_answer(self, message: DiagnosticArray) -> None:
        if stamp_to_ns(message.header.stamp) == self._last_stamp:
            self._timer.reset()
            self._tick()


def endless_scene(seed: int, size: tuple[int, int], rate: float, baseline: float) -> Iterator[Frame]:
    """Frames of a synthetic scene that never ends.

    Args:
        seed: of the scene.
        size: ``(width, height)``.
        rate: frames per second, which gives the stamps.
        baseline: metres from the camera to a second one on its right; 0: no second camera.
    """
    from endomatch_ros.data.synthetic import SceneConfig, SyntheticEndoscope

    config = SceneConfig(seed=seed, width=size[0], height=size[1], stereo_baseline=baseline)
    scene = SyntheticEndoscope(config)
    return (scene.render(index / rate) for index in itertools.count())


def with_partners(frames: Iterable[Frame]) -> Iterator[Frame]:
    """The frames that have a stereo partner; raises :class:`DataError` if none of the first ones has."""
    paired = False
    for number, frame in enumerate(frames, 1):
        if frame.partner is not None:
            paired = True
            yield frame
        elif number == _UNPAIRED and not paired:
            break
    if not paired:
        raise DataError("the source has no second camera: leave --stereo out, or name --partner-topic of a bag")


def main(argv: list[str] | None = None) -> int:
    """Publish frames until the source ends; 0, or 2 after bad input."""
    argv = sys.argv[1:] if argv is None else argv
    end = argv.index("--ros-args") if "--ros-args" in argv else len(argv)
    args, ros_args = _parser().parse_args(argv[:end]), argv[end:]
    dds.prepare()
    openmp.prepare()
    try:
        frames = _frames(args)
        if args.count:
            frames = itertools.islice(frames, args.count)
        with until_told(ros_args) as stack:
            if args.to_and_fro:
                frames = to_and_fro(list(frames), args.to_and_fro)
            elif args.preload:
                frames = iter(list(frames))
            wishes = (
                args.answers,
                args.wait_for_subscriber,
                args.own_stamps,
                args.compressed,
                args.frame_id,
                args.stereo,
            )
            node = FramePublisher(frames, args.rate, *wishes)
            stack.callback(node.destroy_node)
            executor = SingleThreadedExecutor()
            executor.add_node(node)
            executor.spin_until_future_complete(node.done)
            print(f"{node.sent} frames sent")
    except EndomatchError as error:
        print(f"publisher: error: {error}", file=sys.stderr)
        return 2
    return 0


def _frames(args: argparse.Namespace) -> Iterator[Frame]:
    source = args.source or ("synthetic" if args.path is None else "auto")
    if source == "synthetic" and args.path is None:
        if args.to_and_fro and not args.count:
            raise DataError("--to-and-fro: the synthetic scene never ends; say with --count how much of it to play")
        size = args.width, args.height
        return endless_scene(args.seed, size, args.rate, _BASELINE_M if args.stereo else 0.0)
    if args.path is None:
        raise DataError(f"source {source!r} needs the path of a recording")
    options = replace(source_options(args, _OWN), rate=args.rate if args.stamp_rate is None else args.stamp_rate)
    frames = open_sequence(args.path, options, args.frames, None if source == "auto" else source)
    if args.stereo:
        found = with_partners(frames)
        return itertools.chain([next(found)], found)  # the first one now, so that a wrong choice is an error at once
    return iter(frames)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m endomatch_ros.ros.publisher",
        description=__doc__,
        epilog="ROS arguments go after --ros-args.",
    )
    add = parser.add_argument
    kinds = ("auto", *READERS)
    add("--source", choices=kinds, help="kind of the recording (default: auto; without a path: synthetic, for ever)")
    add("path", nargs="?", metavar="SOURCE", help=f"recording: {KINDS}")
    add("--frames", default="", metavar="START:STOP", help="part of the recording: 0:20, or --frames=-50:")
    add("--rate", type=float, default=10.0, help="frames per second (default: %(default)s)")
    add("--stamp-rate", type=float, help="of own stamps, where a recording tells none (default: --rate)")
    add("--count", type=int, default=0, help="frames to send; 0: all")
    add(
        "--to-and-fro",
        type=int,
        default=0,
        metavar="N",
        help="read all frames, then play them back and forth, N in all",
    )
    add("--answers", metavar="TOPIC", help="send the next frame when this epipolar_error topic has answered the last")
    add("--wait-for-subscriber", action="store_true", help="send nothing before somebody listens")
    add("--own-stamps", action="store_true", help="stamp with the frame's own time instead of now")
    add("--compressed", action="store_true", help="publish JPEG on image_raw/compressed")
    add("--preload", action="store_true", help="read or render all frames before the first is sent")
    add("--frame-id", default="endoscope_optical_frame", help="frame_id (default: %(default)s)")
    add(
        "--stereo",
        action="store_true",
        help="frames and their partners, on left/image_raw and right/image_raw; synthetic: 4 mm apart",
    )
    add("--seed", type=int, default=0, help="scene of the synthetic endoscope")
    add("--width", type=int, default=640, help="of the synthetic images (default: %(default)s)")
    add("--height", type=int, default=512, help="of the synthetic images (default: %(default)s)")
    add_source_arguments(parser, _OWN)
    return parser
