"""The readers of recordings. A new one is a module with a ``READER``, and its line here."""

from __future__ import annotations

from endomatch_ros.data.readers import bag, images, scared, sfm, synthetic, video
from endomatch_ros.data.readers.interface import Reader

READERS: dict[str, Reader] = {
    reader.name: reader
    for reader in (
        synthetic.READER,
        sfm.READER,
        scared.READER,
        images.READER,
        video.READER,
        bag.READER,
    )
}
"""Every reader by name; of two that are equally sure of their marks, the first one gets the source."""
