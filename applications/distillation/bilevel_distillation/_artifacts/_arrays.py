"""Arrays in npz files that NumPy reads, with a checksum of each array."""

import hashlib
import json
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ._reading import guarded, opened
from ._writing import whole_file

_SUMS = "checksums"
_BLOCK = 2**20
_MOST_DEFLATED = 1040  # a byte of a deflated file holds at most so many


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], compress: bool = False) -> None:
    """Write an npz file whole; equal arrays make equal files."""
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    sums = {name: _sum(array) for name, array in arrays.items()}
    kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with whole_file(path) as file, zipfile.ZipFile(file, "w", kind) as archive:
        # The checksums come first, so that no list of members that ends too early is without them.
        for name, array in {_SUMS: np.array(json.dumps(sums)), **arrays}.items():
            member = zipfile.ZipInfo(f"{name}.npy")  # of 1980, so that files can be compared
            member.compress_type = kind
            with archive.open(member, "w", force_zip64=True) as part:
                np.lib.format.write_array(part, array, allow_pickle=False)


def read_arrays(
    path: Path,
    wanted: Callable[[str], bool] = lambda name: True,
    remedy: str = "restore or export it again",
    verdict: str = "is damaged",
) -> dict[str, np.ndarray]:
    """The arrays of an npz file whose names are wanted; of the others nothing is read.

    A file that holds checksums is held against them; one made elsewhere has none.

    Raises:
        OSError: the file is not there or cannot be read.
        Damaged: it is no npz file, or not what was written.
    """
    with guarded(path, remedy, verdict), _members(path) as (archive, members):
        sums = None
        if _SUMS in members:
            sums = json.loads(str(_read(archive, members[_SUMS])))
            missing = sums.keys() - members.keys()
            if missing:
                raise ValueError(f"its array {min(missing)!r} is missing")
        found = {}
        for name in members:
            if name == _SUMS or not wanted(name):
                continue
            found[name] = _read(archive, members[name])
            if sums is not None and sums.get(name) != _sum(found[name]):
                raise ValueError(f"the checksum of its array {name!r} does not match")
        return found


def names_in(path: Path) -> list[str]:
    """The names of all arrays of an npz file."""
    with guarded(path), _members(path) as (_, members):
        return [name for name in members if name != _SUMS]


@contextmanager
def _members(path: Path) -> Iterator[tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]]:
    with opened(path) as file, zipfile.ZipFile(file) as archive:
        parts = [one for one in archive.infolist() if one.filename.endswith(".npy")]
        members = {one.filename.removesuffix(".npy"): one for one in parts}
        if len(members) < len(parts) or not members:
            raise ValueError("it holds two arrays of one name" if members else "it holds no arrays")
        yield archive, members


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """An array; its size is checked before memory is taken for it."""
    if member.file_size > _MOST_DEFLATED * (member.compress_size + 1):
        raise ValueError(f"its part {member.filename!r} is larger than it can be")
    with archive.open(member) as part:
        version = np.lib.format.read_magic(part)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(part)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(part)
        else:
            raise ValueError(f"its part {member.filename!r} has an unknown format")
        if dtype.hasobject:
            raise ValueError(f"its part {member.filename!r} holds Python objects, not numbers")
        size = math.prod(shape) * dtype.itemsize
        if part.tell() + size != member.file_size:
            raise ValueError(f"its part {member.filename!r} is not as large as it says")
        array = np.empty(shape[::-1] if fortran else shape, dtype)
        memory = _bytes(array)
        at = 0
        # One read beyond the end: only that compares zip's own checksum.
        while block := part.read(_BLOCK):
            memory[at : at + len(block)] = np.frombuffer(block, np.uint8)
            at += len(block)
        if at != size:
            raise ValueError(f"its part {member.filename!r} ends too early")
    return array.T if fortran else array


def _sum(array: np.ndarray) -> str:
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape} ".encode())
    digest.update(_bytes(array).data)
    return digest.hexdigest()


def _bytes(array: np.ndarray) -> np.ndarray:
    """What the array holds, in the order of its rows."""
    if array.nbytes == 0:
        return np.empty(0, np.uint8)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
