"""Messages from arrays and back: images, clouds, markers, calibrations, the verdict on a pair."""

from endomatch_ros.ros.messages.clouds import ns_to_stamp, pack_cloud, stamp_to_ns, unpack_cloud, unpack_values

__all__ = ["ns_to_stamp", "pack_cloud", "stamp_to_ns", "unpack_cloud", "unpack_values"]
