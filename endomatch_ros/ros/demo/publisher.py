"""A camera made of frames (``python -m endomatch_ros.ros.publisher``): Image and CameraInfo as a driver sends them."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.task import Future
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from endomatch_ros.errors import DataError, EndomatchError
from endomatch_ros.ros.launching import dds
from endomatch_ros.ros.launching.lifetime import until_told
from endomatch_ros.ros.messages.calibration import to_camera_info
from endomatch_ros.ros.messages.clouds import ns_to_stamp, stamp_to_ns
from endomatch_ros.ros.messages.images import to_compressed_message, to_message

if TYPE_CHECKING:
    from endomatch_ros.data.frames import Frame

_BASELINE_M = 0.004  # about that of a stereo laparoscope
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


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


def frames_of(
    source: str, path: Path | None, seed: int, size: tuple[int, int], rate: float, baseline: float = 0.0
) -> Iterator[Frame]:
    """The frames of a source.

    Args:
        source: ``synthetic``, ``sfm`` or ``images``.
        path: folder of ``sfm`` or ``images``.
        seed: scene of ``synthetic``, which never ends.
        size: ``(width, height)`` of ``synthetic``.
        rate: frames per second, which gives the stamps of ``synthetic`` and ``images``.
        baseline: metres from the camera of ``synthetic`` to a second one on its right; 0: no second camera.

    Raises:
        DataError: the folder is missing, empty or damaged.
    """
    if source == "synthetic":
        from endomatch_ros.data.synthetic import SceneConfig, SyntheticEndoscope

        config = SceneConfig(seed=seed, width=size[0], height=size[1], stereo_baseline=baseline)
        scene = SyntheticEndoscope(config)
        return (scene.render(index / rate) for index in itertools.count())
    if path is None:
        raise DataError(f"source {source!r} needs the path of a folder")
    if source == "sfm":
        from endomatch_ros.data.readers.sfm import SfmSequence

        sequence = SfmSequence(path)
        return (sequence[index] for index in range(len(sequence)))
    return _pictures(path, rate)


def _pictures(folder: Path, rate: float) -> Iterator[Frame]:
    from endomatch_ros.data.frames import Frame

    paths = sorted(p for p in folder.glob("*") if p.suffix.lower() in PICTURES)
    if not paths:
        raise DataError(f"no pictures ({', '.join(PICTURES)}) in {folder}")

    def read(index: int, path: Path) -> Frame:
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if picture is None:
            raise DataError(f"{path} cannot be read as a picture")
        image = np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)
        return Frame(image=image, stamp=index / rate, index=index, mask=None, camera=None, pose=None, depth=None)

    return (read(index, path) for index, path in enumerate(paths))


def main(argv: list[str] | None = None) -> int:
    """Publish frames until the source ends; 0, or 2 after bad input."""
    argv = sys.argv[1:] if argv is None else argv
    end = argv.index("--ros-args") if "--ros-args" in argv else len(argv)
    args, ros_args = _parser().parse_args(argv[:end]), argv[end:]
    dds.prepare()
    try:
        baseline = _BASELINE_M if args.stereo else 0.0
        if args.stereo and args.source != "synthetic":
            raise DataError(f"source {args.source!r} has no second camera; --stereo goes with synthetic")
        frames = frames_of(args.source, args.path, args.seed, (args.width, args.height), args.rate, baseline)
        if args.count:
            frames = itertools.islice(frames, args.count)
        with until_told(ros_args) as stack:
            if args.preload:
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m endomatch_ros.ros.publisher",
        description=__doc__,
        epilog="ROS arguments go after --ros-args.",
    )
    add = parser.add_argument
    add("--source", choices=("synthetic", "sfm", "images"), default="synthetic", help="where frames come from")
    add("path", nargs="?", type=Path, help="folder of the sfm sequence or of the images")
    add("--rate", type=float, default=10.0, help="frames per second (default: %(default)s)")
    add("--count", type=int, default=0, help="frames to send; 0: all, for ever if synthetic")
    add("--answers", metavar="TOPIC", help="send the next frame when this epipolar_error topic has answered the last")
    add("--wait-for-subscriber", action="store_true", help="send nothing before somebody listens")
    add("--own-stamps", action="store_true", help="stamp with the frame's own time instead of now")
    add("--compressed", action="store_true", help="publish JPEG on image_raw/compressed")
    add("--preload", action="store_true", help="read or render all frames before the first is sent")
    add("--frame-id", default="endoscope_optical_frame", help="frame_id (default: %(default)s)")
    add("--stereo", action="store_true", help="two synthetic cameras 4 mm apart, on left/image_raw and right/image_raw")
    add("--seed", type=int, default=0, help="scene of the synthetic endoscope")
    add("--width", type=int, default=640, help="of the synthetic images (default: %(default)s)")
    add("--height", type=int, default=512, help="of the synthetic images (default: %(default)s)")
    return parser
