"""A folder that is being written: by one process at a time, and with one line where the disk says no."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from asapkit.types import Refused

log = logging.getLogger(__name__)
LOCK = ".lock"


@contextmanager
def writable(root: Path) -> Iterator[None]:
    """Raises: Refused, one line, in place of an OSError on the folder's own files."""
    try:
        yield
    except OSError as error:
        raise Refused(f"cannot write {root}: {error.strerror or error}; make room (or give write permission) and run again to go on") from error


@contextmanager
def one_writer(root: Path) -> Iterator[None]:
    """Makes the folder and keeps it for this process while the block runs; the lock of a killed process frees itself.

    Raises: Refused when another process writes it, or it cannot be made.
    """
    with writable(root):
        root.mkdir(parents=True, exist_ok=True)
        lock = (root / LOCK).open("w")
    with lock:
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock.fileno()).st_nlink == 0:  # taken from one who ended meanwhile; the next would lock another file
                raise BlockingIOError
        except BlockingIOError as error:
            raise Refused(f"another process is writing {root}; wait for it or stop it") from error
        except (ImportError, OSError):  # no such locks on this system or file system
            log.debug("no lock on %s", root)
        try:
            yield
        finally:
            with suppress(OSError):
                (root / LOCK).unlink()
