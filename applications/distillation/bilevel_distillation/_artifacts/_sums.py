"""Checksums of a folder's files in a file beside them, so that these stay plain."""

import json
import os
import re
from pathlib import Path

from filelock import FileLock

from ._reading import Damaged, damaged, guarded, parse_json, read_bytes, sha256_of
from ._writing import write_whole

_DIGEST = re.compile("[0-9a-f]{64}")


class Sums:
    """`checksums.json`: the SHA-256 of what a file of the folder holds, and of what it held before.

    A checksum is written before its file, so that one of the two fits at any moment. A file that is
    not listed, of the version before, is not checked.
    """

    def __init__(self, folder: Path):
        self.path = folder / "checksums.json"

    def write(self, path: Path, content: bytes) -> None:
        """Write a file of the folder whole, with its checksum."""
        with FileLock(self.path.with_name(".files.lock")):
            known, digest = self.read(), sha256_of(content)
            before = [one for one in known.get(path.name, []) if one != digest]
            self._write({**known, path.name: [digest, *before[:1]]})
            write_whole(path, content)

    def keep_first(self, path: Path) -> bool:
        """Note the checksum of a file that is written once; False if it has another one now."""
        with FileLock(self.path.with_name(".files.lock")):
            known, digest = self.read(), sha256_of(path)
            if path.name not in known:
                self._write({**known, path.name: [digest]})
            return digest in known.get(path.name, [digest])

    def _write(self, known: dict[str, list[str]]) -> None:
        write_whole(self.path, json.dumps(known, indent=2) + "\n")

    def checked(self, path: Path, remedy: str) -> bytes:
        """The content of a file of the folder.

        Raises:
            OSError: it cannot be read.
            Damaged: it is not what was written.
        """
        content = read_bytes(path)
        known = self.read().get(path.name)
        if known is not None and sha256_of(content) not in known:
            raise damaged(path, f"its checksum is not the one in {self.path.name}", remedy)
        return content

    def read(self) -> dict[str, list[str]]:
        if not os.path.lexists(self.path):
            return {}
        with guarded(self.path, "delete it, and files are read without checksums"):
            known = parse_json(read_bytes(self.path))
            for digests in known.values():
                if not all(_DIGEST.fullmatch(digest) for digest in digests) or not digests:
                    raise ValueError("it holds something else than checksums")
            return known


def differing(folder: Path, sums: dict[str, str]) -> str | None:
    """The first file of a folder that is missing or has another checksum.

    Raises:
        OSError: a file cannot be read.
    """
    for name, digest in sums.items():
        try:
            if sha256_of(folder / name) != digest:
                return name
        except (FileNotFoundError, Damaged):
            return name
    return None
