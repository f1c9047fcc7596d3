"""The files of a shared folder that has the last parts of large bodies. Each call blocks, perhaps for long.

A file is written once, under the name that a row gives it, and is complete and on the disk before that row counts. So
a reader on another machine needs no more than close-to-open consistency (NFS). A marker in the folder has the owner: a
folder that is not mounted, or that another queue uses, is not mistaken for the right one.

Nothing outside of the folder is touched: names have a fixed form, and no symbolic link is followed in it. The mode of
the files is that of the folder, without the rights of others; those that root makes belong to the owner of the folder.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

from zsmtp.errors import ContentUnavailable, QueueError
from zsmtp.queue.intake import check_room
from zsmtp.queue.limits import CHUNK

MARKER = "zsmtp-bodies"
"""The file in the folder that names its owner."""
_NAME = re.compile(r"[mx][0-9a-z]{1,20}-[0-9a-f]{16}")
_MARKER_OCTETS = 200
_HERE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # O_NONBLOCK: a FIFO in place of a file is not waited for
_NO_FILE = "is no regular file"
_DAMAGE = {
    errno.ENOENT: "is not there",
    errno.ELOOP: "is a symbolic link",
    errno.EISDIR: _NO_FILE,
    errno.ENXIO: _NO_FILE,  # a socket
}


def new_name(of: str) -> str:
    """A name for a file that no other has; ``of`` says what it is of: ``m`` and an id, or ``x`` and a transaction."""
    name = f"{of}-{secrets.token_hex(8)}"
    assert _NAME.fullmatch(name)
    return name


class BodyFolder(NamedTuple):
    """A shared folder. ``owner`` is the text of the marker of its queue.

    All methods raise ContentUnavailable if the folder is not there or is not that of the owner, or if it fails.
    """

    path: str
    owner: str

    def unavailable(self, why: str) -> ContentUnavailable:
        """The error for a folder that cannot be used."""
        return ContentUnavailable(f"the folder of large bodies, {self.path}, cannot be used on this machine: {why}")

    @contextmanager
    def trouble(self, doing: str) -> Iterator[None]:
        """Convert errors of the operating system."""
        try:
            yield
        except OSError as error:
            raise self.unavailable(f"{doing}: {os.strerror(error.errno or 0)}") from error

    @contextmanager
    def opened(self) -> Iterator[int]:
        """The descriptor of the folder, whose marker was checked."""
        descriptor = self.open()
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def open(self) -> int:
        """Open the folder and check its marker; the caller closes the descriptor."""
        descriptor = self._open_unmarked()
        try:
            self._check(self._marker(descriptor))
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _open_unmarked(self) -> int:
        with self.trouble("opening it"):
            return os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def _marker(self, folder: int) -> str:
        """The text of the marker, "" if there is none."""
        with self.trouble(f"reading {MARKER} in it"):
            try:
                descriptor = os.open(MARKER, os.O_RDONLY | _HERE, dir_fd=folder)
            except FileNotFoundError:
                return ""
            try:
                return os.read(descriptor, _MARKER_OCTETS).decode("utf-8", "replace").strip()
            finally:
                os.close(descriptor)

    def _check(self, marker: str) -> None:
        if marker == self.owner:
            return
        if not marker:
            raise self.unavailable(f"it has no file {MARKER}, so it is not mounted, or it is another folder; mount it")
        if marker.split()[0] != self.owner.split()[0]:
            raise self.unavailable("it belongs to another queue; each queue needs a folder of its own")
        raise self.unavailable(
            "it belongs to another copy of this database. If this one was restored or upgraded and replaces that one, "
            "run zsmtp queue migrate --bodies with this folder"
        )

    def claim(self, expected: Mapping[str, int]) -> None:
        """Write the marker, and try out that files can be written.

        ``expected`` are the sizes of the files that must be there; raises QueueError if they are not.
        """
        descriptor = self._open_unmarked()
        try:
            marker = self._marker(descriptor)
            if marker and marker.split()[0] != self.owner.split()[0]:
                self._check(marker)
            with self.trouble("looking for files in it"):
                sizes = _sizes(descriptor, expected)
            if missing := [name for name, size in expected.items() if sizes.get(name) != size]:
                raise QueueError(
                    f"{len(missing)} of {len(expected)} files that messages need are not in {self.path}, or not whole "
                    f"({missing[0]}): is it mounted? Copy them there first"
                )
            if marker != self.owner:
                self._mark(descriptor)
        finally:
            os.close(descriptor)
        tried = new_name("x0")
        body = NewBody(self, tried)
        try:
            body.finish()
        finally:
            body.close()
            self.remove([tried])

    def _mark(self, folder: int) -> None:
        with self.trouble(f"writing {MARKER} in it"):
            made = f"{MARKER}-{secrets.token_hex(8)}"
            descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _HERE, 0o644, dir_fd=folder)
            try:
                os.write(descriptor, f"{self.owner}\n".encode())
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.rename(made, MARKER, src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)

    def free(self) -> int:
        """The octets that are free for this user."""
        with self.opened() as folder, self.trouble("looking for its free space"):
            return _free(folder)

    def names(self) -> list[str]:
        """The names of all bodies in it; other files are left alone."""
        with self.opened() as folder, self.trouble("listing it"), os.scandir(folder) as entries:
            return [entry.name for entry in entries if _NAME.fullmatch(entry.name)]

    def sizes(self, names: Iterable[str]) -> dict[str, int]:
        """The sizes of the files among these, in octets; what is no file is left out."""
        with self.opened() as folder, self.trouble("looking for files in it"):
            return _sizes(folder, names)

    def remove(self, names: Iterable[str]) -> int:
        """Remove bodies, as far as they are there; returns how many were."""
        done = 0
        with self.opened() as folder, self.trouble("removing files from it"):
            for name in names:
                if _NAME.fullmatch(name):
                    with suppress(FileNotFoundError, IsADirectoryError):
                        os.unlink(name, dir_fd=folder)
                        done += 1
        return done


def _sizes(folder: int, names: Iterable[str]) -> dict[str, int]:
    found = {}
    for name in names:
        with suppress(FileNotFoundError):
            status = os.stat(name, dir_fd=folder, follow_symlinks=False) if _NAME.fullmatch(name) else None
            if status is not None and stat.S_ISREG(status.st_mode):
                found[name] = status.st_size
    return found


def _free(descriptor: int) -> int:
    found = os.fstatvfs(descriptor)
    return found.f_bavail * found.f_frsize


class NewBody:
    """A file that is being written, by one thread at a time; :meth:`finish` or :meth:`close` is the last call."""

    def __init__(self, folder: BodyFolder, name: str) -> None:
        self._file = self._directory = -1
        self.name = name
        self._folder = folder
        self._directory = folder.open()
        try:
            with folder.trouble("making a file in it"):
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _HERE
                self._file = os.open(name, flags, 0o600, dir_fd=self._directory)
                status = os.fstat(self._directory)
                os.fchmod(self._file, status.st_mode & 0o060 | 0o600)
                if os.geteuid() == 0:
                    os.fchown(self._file, status.st_uid, status.st_gid)
        except BaseException:
            self.close()
            raise

    def write(self, blocks: Sequence[bytes]) -> None:
        """Append octets. Raises QueueFull if they leave too little room for others."""
        folder = self._folder
        with folder.trouble("writing a file in it"):
            check_room(_free(self._directory), sum(map(len, blocks)), f"in {folder.path}")
            for block in blocks:
                rest = memoryview(block)
                while rest:
                    rest = rest[os.write(self._file, rest) :]

    def finish(self) -> None:
        """Have all of it on the disk, with its name, and close it."""
        with self._folder.trouble("writing a file in it"):
            os.fsync(self._file)
            file, self._file = self._file, -1
            os.close(file)  # NFS may report errors of writing only here
            os.fsync(self._directory)
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close it, complete or not."""
        for descriptor in (self._file, self._directory):
            if descriptor >= 0:
                with suppress(OSError):
                    os.close(descriptor)
        self._file = self._directory = -1


class OpenBody:
    """A file that is read from its beginning to its end.

    Raises QueueError if the file is damaged: it is not there, is no regular file, or has not ``size`` octets;
    ``message`` is the id for the text.
    """

    def __init__(self, folder: BodyFolder, name: str, size: int, message: int) -> None:
        self._file = -1
        self._folder = folder
        self._name = name
        self._size = size
        self._message = message
        self._offset = 0
        if not _NAME.fullmatch(name):
            raise self._damaged("has no name of a body")
        with folder.opened() as directory, folder.trouble(f"opening {name}"):
            try:
                self._file = os.open(name, os.O_RDONLY | _HERE, dir_fd=directory)
                status = os.fstat(self._file)
            except OSError as error:
                if (why := _DAMAGE.get(error.errno or 0)) is None:
                    raise
                raise self._damaged(why) from error
        if not stat.S_ISREG(status.st_mode) or status.st_size != size:
            self.close()
            is_file = stat.S_ISREG(status.st_mode)
            raise self._damaged(f"has {status.st_size} octets, not {size}" if is_file else _NO_FILE)

    def _damaged(self, why: str) -> QueueError:
        return QueueError(f"message {self._message} is damaged: {os.path.join(self._folder.path, self._name)} {why}")

    def read(self) -> bytes:
        """The next octets, a chunk at most; none at the end."""
        wanted = min(CHUNK, self._size - self._offset)
        parts = []
        with self._folder.trouble(f"reading {self._name}"):
            while wanted and (data := os.pread(self._file, wanted, self._offset)):
                parts.append(data)
                self._offset += len(data)
                wanted -= len(data)
        if wanted:
            raise self._damaged(f"ends at {self._offset} octets, not {self._size}")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close it."""
        file, self._file = self._file, -1
        if file >= 0:
            with suppress(OSError):
                os.close(file)
