"""A bag of inputs and outputs: recorded over DDS, opened with rosbags, its images sent through the node again."""

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.serialization import deserialize_message
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import Image, PointCloud2
from support.ros import bench, wait_until

from endomatch_ros.data.clouds import unpack_cloud
from endomatch_ros.ros.demo.recorder import Recorder
from endomatch_ros.ros.messages.clouds import stamp_to_ns

TOPICS = {
    "/image_raw": Image,
    "/endomatch/correspondences": PointCloud2,
    "/endomatch/epipolar_error": DiagnosticArray,
}


def test_a_recorded_bag_gives_the_same_answers_again(tmp_path):
    with bench() as current:
        client = current.client
        with Recorder(tmp_path / "bag", TOPICS, context=current.context) as recorder:
            executor = SingleThreadedExecutor(context=current.context)
            executor.add_node(recorder)

            def recorded(topic, count):
                executor.spin_once(timeout_sec=0.02)
                return recorder.counts[topic] >= count

            wait_until(
                lambda: executor.spin_once(timeout_sec=0.02) or client.images.get_subscription_count() == 2, "it"
            )
            for index in range(4):
                done = current.stream.done
                client.send()
                wait_until(lambda n=done: current.stream.done > n, "the frame")
                wait_until(lambda n=index: recorded("/endomatch/epipolar_error", n), "the answer in the bag")
            wait_until(lambda: recorded("/image_raw", 4) and recorded("/endomatch/correspondences", 3), "all of it")
            executor.shutdown()
        with AnyReader([tmp_path / "bag"], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
            raw = {topic: [] for topic in TOPICS}
            clouds = []
            for connection, _, data in reader.messages():
                raw[connection.topic].append(bytes(data))
                if connection.topic == "/endomatch/correspondences":
                    clouds.append(unpack_cloud(reader.deserialize(data, connection.msgtype)))
        assert [len(messages) for messages in raw.values()] == [4, 3, 3]
        before, done = len(client.clouds), current.stream.done
        for index, data in enumerate(raw["/image_raw"], start=1):
            image = deserialize_message(data, Image)
            client.images.publish(image)
            wait_until(lambda n=done + index: current.stream.done >= n, "the frame")
        again = wait_until(lambda: client.clouds[before:] if len(client.clouds) >= before + 3 else None, "the answers")
        assert current.counts().resets["stamp_backwards"] == 1  # the bag begins before the last live frame
        for old, new in zip(clouds, again, strict=True):
            assert old.tobytes() == unpack_cloud(new).tobytes()  # NaN included
        assert stamp_to_ns(again[-1].header.stamp) == stamp_to_ns(image.header.stamp)
