"""From pictures in a column to one array of pixels."""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int, UInt8

from ._picture import Picture, picture_of
from ._room import in_gigabytes, memory_of_machine
from ._rows import Rows, Stored

_log = logging.getLogger(__name__)

MOST_BROKEN = 0.1
"""Share of the images that may be left out."""


@dataclass
class Decoded:
    """The pixels of a split.

    Attributes:
        where: its name, for messages.
        pixels: gray pictures have three equal channels; those in `deep` are still empty.
        kept: the row that each is of.
        deep: pictures of more than 8 bits, by their place among the pixels.
    """

    where: str
    pixels: UInt8[np.ndarray, "n height width 3"]
    kept: Int[np.ndarray, " n"]
    deep: dict[int, Float32[np.ndarray, "height width"]]


@dataclass
class _Remarks:
    """Names of pictures that the log is to tell of."""

    broken: list[str] = field(default_factory=list)
    clear: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    several: list[str] = field(default_factory=list)


def decode_images(
    rows: Rows,
    column: str,
    resolution: int | None,
    where: str,
    *,
    beside: int = 0,
    copies: int = 1,
) -> Decoded:
    """Decode an image column to pixels.

    Args:
        rows: the split; its column `column` holds pictures.
        column: the image column's name.
        resolution: if given, the shorter side is resized to it and the middle square kept.
        where: the name of the split, for messages.
        beside: how many pictures of this size are, or will be, in memory beside these.
        copies: of all of them.

    Returns:
        The pixels. Images that cannot be decoded are left out, and a warning names them.

    Raises:
        ValueError: if more than a tenth of the images cannot be decoded, sizes differ and
            `resolution` is None, or memory does not suffice.
    """
    count = len(rows) + beside
    if resolution is not None:
        why = f"resolution is {resolution}, and "
        _check_room(count, copies, (resolution, resolution), where, why)
    pixels: np.ndarray | None = None
    kept: list[int] = []
    deep: dict[int, np.ndarray] = {}
    remarks = _Remarks()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of what is said here or does not matter
        for row, stored in enumerate(rows.pictures(column)):
            try:
                with stored.open() as opened:
                    picture = picture_of(opened, resolution)
            except Exception as error:  # a damaged file can end in any of them
                reason = " ".join(str(error).split()) or type(error).__name__
                remarks.broken.append(f"{_name(stored, row)} ({reason})")
                continue
            image = picture.pixels
            if pixels is None:
                _check_room(count, copies, image.shape[:2], where)
                pixels = np.empty((len(rows), *image.shape[:2], 3), np.uint8)
            if image.shape[:2] != pixels.shape[1:3]:
                raise ValueError(
                    f"images of {where} differ in size (row {kept[0]} is {_size(pixels[0])}, row "
                    f"{row} is {_size(image)}); give resolution= to resize and crop them all to "
                    "one size."
                )
            if image.dtype == np.uint8:
                pixels[len(kept)] = image if image.ndim == 3 else image[:, :, None]
            else:
                deep[len(kept)] = image
            kept.append(row)
            if any(picture[1:]):
                _note(remarks, picture, _name(stored, row))
    _tell(remarks, len(rows), where)
    if pixels is None:
        raise ValueError(f"{where} holds no images; choose another split.")
    return Decoded(where, pixels[: len(kept)], np.asarray(kept), deep)


def bring_to_bytes(splits: Sequence[Decoded]) -> None:
    """Give pictures of more than 8 bits their pixels: the range of all of them becomes 0 to 255."""
    deep = [image for split in splits for image in split.deep.values()]
    if not deep:
        return
    # In float64, for the difference of two float32 may be no float32 any more.
    low = min(float(image.min()) for image in deep)
    high = max(float(image.max()) for image in deep)
    scale = 255 / (high - low) if high > low else 0.0
    for split in splits:
        for place, image in split.deep.items():
            values = (image.astype(np.float64) - low) * scale
            split.pixels[place] = np.rint(values).astype(np.uint8)[:, :, None]
    total = sum(len(split.pixels) for split in splits)
    mixed = f"; the other {total - len(deep)} have 8 bits, and stay as they are"
    _log.warning(
        "%d of %d pictures of %s have more than 8 bits: the range of their values, %g to %g, "
        "becomes 0 to 255%s.",
        len(deep),
        total,
        " and ".join(split.where for split in splits),
        low,
        high,
        mixed if total > len(deep) else "",
    )


def is_gray(images: UInt8[np.ndarray, "n height width 3"]) -> bool:
    """Whether the three channels are equal in every pixel of every image."""
    return all(
        bool((block == block[..., :1]).all())
        for block in (images[start : start + 256] for start in range(0, len(images), 256))
    )


def _name(stored: Stored, row: int) -> str:
    return f"row {row}" if stored.path is None else "/".join(Path(stored.path).parts[-2:])


def _note(remarks: _Remarks, picture: Picture, name: str) -> None:
    for happened, names in (
        (picture.was_clear, remarks.clear),
        (picture.was_cut, remarks.cut),
        (picture.had_more, remarks.several),
    ):
        if happened:
            names.append(name)


def _tell(remarks: _Remarks, total: int, where: str) -> None:
    """Warnings, or an error where too many pictures cannot be decoded."""
    for names, what in (
        (remarks.clear, "have transparent parts, which become white"),
        (remarks.cut, "have 16 bits a colour, of which the upper 8 are read"),
        (remarks.several, "have several frames, of which the first is used"),
    ):
        if names:
            _log.warning("%d of %d images of %s %s: %s.", len(names), total, where, what,
                         _some(names))  # fmt: skip
    if not remarks.broken:
        return
    found = f"{len(remarks.broken)} of {total} images of {where} cannot be decoded"
    if len(remarks.broken) > MOST_BROKEN * total:
        raise ValueError(f"{found}: {_some(remarks.broken)}; repair or remove them.")
    _log.warning("%s and are left out: %s.", found, _some(remarks.broken))


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _check_room(count: int, copies: int, size: tuple[int, ...], where: str, why: str = "") -> None:
    height, width = size
    needed, there = 3 * count * copies * height * width, memory_of_machine()
    if needed > there:
        raise ValueError(
            f"{why}{count} images of {height} x {width} pixels with {where} need "
            f"{in_gigabytes(needed)} of memory, of {in_gigabytes(there)} that there are; give a "
            "smaller resolution=, or fewer images."
        )


def _size(image: np.ndarray) -> str:
    return f"{image.shape[0]} x {image.shape[1]}"
