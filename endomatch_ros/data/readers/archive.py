"""Files named by a number, in a folder or packed as ``.tar.gz``, read one at a time."""

from __future__ import annotations

import os
import re
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

from endomatch_ros.errors import DataError

_NUMBER = re.compile(r"(\d+)\D*$")


class NumberedFiles:
    """The files of a folder, or of the ``.tar.gz`` of the same name if there is no folder.

    An archive is indexed while it is read and never unpacked as a whole. Going on in it is cheap; going back means to
    decompress it from its beginning, so that a large one is better unpacked for access out of order. It is opened anew
    in each process, after pickling too.

    Args:
        folder: whether it or ``folder.tar.gz`` exists.
        suffix: of the files, in lower case, with its dot.

    Attributes:
        path: what is read.

    Raises:
        DataError: there is neither.
    """

    def __init__(self, folder: Path, suffix: str) -> None:
        self._suffix = suffix
        self._members: dict[int, tarfile.TarInfo | Path] = {}
        self._archive: tarfile.TarFile | None = None
        self._process = 0
        self._scanned = False
        self.path = folder if folder.is_dir() else folder.with_name(f"{folder.name}.tar.gz")
        if folder.is_dir():
            found = {number_of(path.name): path for path in folder.iterdir() if path.suffix.lower() == suffix}
            self._members = {number: path for number, path in found.items() if number is not None}
            self._scanned = True
        elif not self.path.is_file():
            raise DataError(f"there is neither a folder {folder} nor {self.path.name}; the recording is incomplete")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_archive": None}

    def read(self, number: int) -> tuple[str, bytes] | None:
        """Name and content of the file with a number; None if there is none.

        Raises:
            DataError: the file or the archive is damaged up to there.
        """
        try:
            member = self._find(number)
            if member is None:
                return None
            if isinstance(member, Path):
                return str(member), member.read_bytes()
            stream = self._open().extractfile(member)
            content = stream.read() if stream is not None else b""
        except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
            self._archive = None
            raise DataError(f"{self.path} is damaged at file {number}: {error}; copy it anew") from error
        if stream is None or len(content) != member.size:
            raise DataError(f"{self.path}: {member.name} is no complete file; copy the archive anew")
        return f"{self.path}: {member.name}", content

    def _open(self) -> tarfile.TarFile:
        if self._archive is None or self._process != os.getpid():
            self._archive = tarfile.open(self.path, "r:gz")  # noqa: SIM115  # open for as long as this object
            self._process = os.getpid()
            self._scanned = False
        return self._archive

    def _find(self, number: int) -> tarfile.TarInfo | Path | None:
        """The file with a number, after looking no further into the archive than needed."""
        if number in self._members:
            return self._members[number]
        while not self._scanned:
            archive = self._open()
            member = archive.next()
            if member is None:
                self._check_end(archive)
                self._scanned = True
                break
            known = number_of(member.name)
            if known is not None and member.isfile() and PurePosixPath(member.name).suffix.lower() == self._suffix:
                self._members[known] = member
                if known == number:
                    return member
        return None

    def _check_end(self, archive: tarfile.TarFile) -> None:
        """Raise if the archive ends at a damaged header, which tarfile takes for its end."""
        stream = archive.fileobj
        if stream is not None:
            stream.seek(archive.offset)
            if any(stream.read(tarfile.BLOCKSIZE)):
                raise tarfile.ReadError("a header is damaged")


def number_of(name: str) -> int | None:
    """The last number in a file's name: 12 for ``frame_data000012.json``."""
    match = _NUMBER.search(PurePosixPath(name).name)
    return int(match[1]) if match else None
