"""Why frames are dropped, streams start again and keyframes are set: every cause, and what an operator reads about it.

A cause is one line here and one row of the tables in docs/troubleshooting.md; the counters take nothing else, and
``/diagnostics`` shows all of them. No ROS.
"""

from __future__ import annotations

from enum import Enum

from endomatch_ros.matching import refiners


class Explained(str, Enum):
    """A name with its explanation; as text it is the name.

    Members of two of these enums may be equal, since they are text: never mix them as keys of one dictionary.

    Attributes:
        meaning: a clause for the operator, without a full stop.
    """

    meaning: str

    def __new__(cls, name: str, meaning: str = "", *more: object) -> Explained:
        """Make a member. Without a meaning, as in ``Drop("disabled")``, the enum finds one by its name instead."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.meaning = meaning
        return member

    def __str__(self) -> str:
        return str.__str__(self)


class Drop(Explained):
    """Why a frame has no answer; counted as ``dropped_NAME``.

    Attributes:
        fault: something is broken that an operator should mend: ``/diagnostics`` warns.
    """

    fault: bool

    def __init__(self, name: str, meaning: str, fault: bool = False) -> None:
        self.fault = fault

    SUPERSEDED = "superseded", "a newer frame came while this one waited: the node is slower than the camera"
    UNPAIRED = "unpaired", "mode stereo: no frame of the other camera within sync_tolerance_s"
    BAD_ENCODING = "bad_encoding", "an encoding that is not supported", True
    BAD_IMAGE = "bad_image", "the message contradicts itself, a damaged JPEG, or mask or roi do not fit", True
    MATCHING_FAILED = "matching_failed", "an error of the matcher; the log has it", True
    NOT_ACTIVE = "not_active", "the lifecycle node is configured, but not active"
    DISABLED = "disabled", "~/enable was called with false"


class Reset(Explained):
    """Why a stream started again, the next frame without an answer and all tracks ended; ``reset_NAME``."""

    ACTIVATED = "activated", "the node was activated"
    SERVICE = "service", "~/reset was called, or ~/enable with another value than before"
    STAMP_BACKWARDS = "stamp_backwards", "a stamp before that of the last frame: a looped bag, a restarted clock"
    SIZE_CHANGED = "size_changed", "an image of another size than the last one"
    PARAMETERS_CHANGED = "parameters_changed", "a parameter of the matcher, the region or the reference was changed"
    MATCHING_FAILED = "matching_failed", "an error of the matcher, after which the stream is not to be trusted"


class Keyframe(Explained):
    """Why a keyframe was set; ``keyframe_NAME``. The rules find :data:`~endomatch_ros.matching.keyframes.Due`."""

    FIRST = "first", "the first frame after a restart of the stream"
    OVERLAP = "overlap", "the matches cover less of the view than keyframe_min_overlap of their best"
    INLIERS = "inliers", "a smaller share of inliers than keyframe_min_inlier_ratio"
    LOST = "lost", "keyframe_lost_frames in a row with fewer than min_matches matches"
    SERVICE = "service", "~/set_keyframe was called"


MATCH_DROPS = refiners.drop_causes()
"""The matcher's optional checks, whose dropped matches are counted as ``matches_dropped_NAME``, none at first."""
