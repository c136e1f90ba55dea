"""Write a file so that it is there whole or not at all.

The bytes go to a file without a name (Linux) or with a temporary one in the target's folder, are flushed to
the disk, and take the target's name in one step. Whatever happens before that step, an exception, a full disk
or a killed process, the old file is untouched. Imports: standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import secrets
from collections.abc import Iterator
from typing import IO

from gn_onnx.errors import GnOnnxError


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[IO[bytes]]:
    """Open a binary file for writing that becomes `path` when the block ends without an exception.

    A symbolic link is written through. An existing file's permissions are kept.

    Raises:
        GnOnnxError: The folder is missing or read-only, the disk is full, or `path` is not a file.
    """
    target = check_target(path)
    temporary = target.with_name(f".{target.name[:200]}.{secrets.token_hex(4)}.tmp")
    named = False
    try:
        descriptor, named = _open(target, temporary)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fchmod(descriptor, _permissions(target))
            os.fsync(descriptor)
            if not named:
                # Any src_dir_fd makes Python call linkat, which follows the link in /proc; link would not.
                os.link(f"/proc/self/fd/{descriptor}", temporary, src_dir_fd=descriptor)
                named = True
        os.replace(temporary, target)
        named = False
        _sync_folder(target.parent)
    except OSError as error:
        raise GnOnnxError(f"{path}: cannot write: {error.strerror or error}; nothing was changed") from error
    finally:
        if named:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def check_target(path: pathlib.Path) -> pathlib.Path:
    """Where `path` leads, links followed: a file, or a name for one. Long work is better refused before than after it.

    Raises:
        GnOnnxError: It is a folder, a device, pipe or socket, or its folder is missing.
    """
    try:
        target = path.resolve()
        if target.is_dir():
            raise GnOnnxError(f"{path}: is a folder, cannot write a file there")
        if target.exists() and not target.is_file():
            # Taking its place would remove /dev/null for everybody.
            raise GnOnnxError(f"{path}: is a device, pipe or socket, cannot write a file there")
        if not target.parent.is_dir():
            raise GnOnnxError(f"{path}: cannot write: there is no folder {target.parent}; nothing was changed")
    except (OSError, ValueError, RuntimeError) as error:  # a loop of links, a NUL byte, a name that is too long
        reason = getattr(error, "strerror", None) or error
        raise GnOnnxError(f"{path}: cannot write: {reason}; nothing was changed") from error
    return target


def _open(target: pathlib.Path, temporary: pathlib.Path) -> tuple[int, bool]:
    """A writable file in the target's folder, and whether it has the temporary name."""
    unnamed = getattr(os, "O_TMPFILE", 0)
    if unnamed and os.path.exists("/proc/self/fd"):
        try:
            return os.open(target.parent, unnamed | os.O_WRONLY | os.O_CLOEXEC, 0o666), False
        except OSError as error:
            # What file systems without nameless files (overlay, network) answer; anything else is the user's.
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT):
                raise
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    return os.open(temporary, flags, 0o666), True


def _permissions(target: pathlib.Path) -> int:
    try:
        return target.stat().st_mode & 0o777
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask


def _sync_folder(folder: pathlib.Path) -> None:
    """Make the new name survive a power cut; file systems that cannot sync a folder are left alone."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
