"""One process at a time."""

import errno
from pathlib import Path

from filelock import FileLock, Timeout

_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


def hold_lock(path: Path, sentence: str) -> FileLock | None:
    """Hold a lock until it is released, or this process ends, however it ends.

    Returns:
        The lock; None in a folder that nothing can be written to.

    Raises:
        ValueError: with the sentence, where another process holds it.
    """
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(sentence) from error
    except OSError as error:
        if error.errno in _READ_ONLY:
            return None
        raise OSError(
            f"{str(path)!r} cannot be locked ({error.strerror}): move it away."
        ) from error
    return lock
