"""From image files in a column to one array of pixels."""

import io
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int, UInt8

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image
else:  # heavy imports wait until they are used
    Dataset = Image = Any


_log = logging.getLogger(__name__)

MOST_BROKEN = 0.1
"""Share of the images that may be left out."""


def decode_images(
    rows: Dataset, column: str, resolution: int | None, where: str
) -> tuple[UInt8[np.ndarray, "n height width 3"], Int[np.ndarray, " n"]]:
    """Decode an image column to pixels; gray pictures get three equal channels.

    The column's Arrow buffers are read directly: making a Python row for each image, as indexing
    the data set does, takes several times as long as decoding a small image.

    Args:
        rows: the data set; its column `column` has the `datasets.Image` feature.
        column: the image column's name.
        resolution: if given, the shorter side is resized to it and the middle square kept.
        where: the name of the split, for messages.

    Returns:
        The pixels, and the rows that they are of: images that cannot be decoded are left out, and
        a warning names them.

    Raises:
        ValueError: if more than a tenth of the images cannot be decoded, or sizes differ and
            `resolution` is None.
    """
    feature = rows.features[column]
    pixels: np.ndarray | None = None
    kept: list[int] = []
    broken: list[str] = []
    row = -1
    for table in rows.select_columns([column]).with_format("arrow").iter(batch_size=1000):
        for stored in table.column(column).to_pylist():  # pyright: ignore
            row += 1
            try:
                picture = _upright(_open(stored, feature))
                if resolution is not None:
                    picture = _resize(picture, resolution)
                image = np.asarray(picture)
            except (OSError, SyntaxError, ValueError) as error:
                broken.append(f"{_named(stored, row)} ({error})")
                continue
            if pixels is None:
                pixels = np.empty((len(rows), *image.shape[:2], 3), np.uint8)
            if image.shape[:2] != pixels.shape[1:3]:
                raise ValueError(
                    f"images of {where} differ in size (row {kept[0]} is {_size(pixels[0])}, row "
                    f"{row} is {_size(image)}); give resolution= to resize and crop them all to "
                    "one size."
                )
            pixels[len(kept)] = image if image.ndim == 3 else image[:, :, None]
            kept.append(row)
    if broken:
        _tell(broken, row + 1, where)
    if pixels is None:
        raise ValueError(f"{where} holds no images; choose another split.")
    return pixels[: len(kept)], np.asarray(kept)


def is_gray(images: UInt8[np.ndarray, "n height width 3"]) -> bool:
    """Whether the three channels are equal in every pixel of every image."""
    return all(
        bool((block == block[..., :1]).all())
        for block in (images[start : start + 256] for start in range(0, len(images), 256))
    )


def _tell(broken: list[str], total: int, where: str) -> None:
    """Of images that cannot be decoded: a warning, or an error where they are too many."""
    names = ", ".join(broken[:5]) + (f" and {len(broken) - 5} more" if len(broken) > 5 else "")
    found = f"{len(broken)} of {total} images of {where} cannot be decoded"
    if len(broken) > MOST_BROKEN * total:
        raise ValueError(f"{found}: {names}; repair or remove them.")
    _log.warning("%s and are left out: %s.", found, names)


def _named(stored: Any, row: int) -> str:
    path = stored["path"] if stored is not None else None
    return f"row {row}" if path is None else "/".join(Path(path).parts[-2:])


def _open(stored: Any, feature: Any) -> Image:
    import PIL.Image

    if stored is None:
        raise ValueError("it is missing")
    if stored["bytes"] is None:
        return feature.decode_example(stored)
    return PIL.Image.open(io.BytesIO(stored["bytes"]))


def _upright(picture: Image) -> Image:
    """Turned as the camera was held, in mode L or RGB."""
    import PIL.Image
    import PIL.ImageOps

    if picture.getexif().get(PIL.Image.ExifTags.Base.Orientation) is not None:
        picture = PIL.ImageOps.exif_transpose(picture)
    if picture.mode in ("L", "RGB"):
        return picture
    if picture.mode.startswith("I;16"):
        return PIL.Image.fromarray((np.asarray(picture) // 257).astype(np.uint8))
    if picture.mode in ("1", "LA"):
        return picture.convert("L")
    if picture.mode in ("I", "F"):
        raise ValueError(f"its pixels have more than 8 bits, mode {picture.mode}")
    # By way of RGBA, because Pillow warns of palettes with transparency.
    return picture.convert("RGBA").convert("RGB")


def _resize(picture: Image, resolution: int) -> Image:
    import PIL.Image

    width, height = picture.size
    scale = resolution / min(width, height)
    width, height = max(resolution, round(width * scale)), max(resolution, round(height * scale))
    if (width, height) != picture.size:
        picture = picture.resize((width, height), PIL.Image.Resampling.BICUBIC)
    left, top = (width - resolution) // 2, (height - resolution) // 2
    return picture.crop((left, top, left + resolution, top + resolution))


def _size(image: np.ndarray) -> str:
    return f"{image.shape[0]} x {image.shape[1]}"
