"""From one opened picture to its pixels."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image
else:  # heavy imports wait until they are used
    Image = Any

MOST_PIXELS = 89_478_485
"""Of one picture, as Pillow has it: a gigabyte at most is taken to read it."""

_MOST_STRETCHED = 8
"""How many times as long as wide a picture may be to be resized whole, which weighs pixels at the
edge of the square by those beyond it; of longer ones only the square is made.
"""

_MOVING = ("GIF", "PNG", "WEBP", "AVIF", "TIFF")


class Picture(NamedTuple):
    """A picture's pixels, and what was done to it.

    Attributes:
        pixels: uint8 [height, width] or [height, width, 3]; float32 [height, width] where the
            picture has more than 8 bits, with its own values.
        was_clear: parts of it were transparent.
        was_cut: it has 16 bits a colour, of which 8 were read.
        had_more: it has further frames.
    """

    pixels: np.ndarray
    was_clear: bool = False
    was_cut: bool = False
    had_more: bool = False


def picture_of(opened: Image, resolution: int | None) -> Picture:
    """Decode a picture: upright, gray or in colour, its middle square at a resolution if one is
    given.

    Raises:
        ValueError: it has too many pixels, or values that are no numbers.
        Exception: whatever Pillow raises of a damaged file.
    """
    width, height = opened.size
    if width * height > MOST_PIXELS:
        raise ValueError(f"{width} x {height} pixels are too many")
    more = opened.format in _MOVING and getattr(opened, "is_animated", False)
    was_cut = (
        opened.format in ("PNG", "TIFF")
        and opened.mode in ("RGB", "RGBA", "LA")
        and any(";16" in str(tile) for tile in getattr(opened, "tile", ()))
    )
    upright = _turned(opened)
    picture, was_clear = _plain(upright)
    if resolution is not None:
        picture = _resized(picture, resolution)
    pixels = np.asarray(picture)
    if pixels.dtype != np.uint8 and not np.isfinite(pixels).all():
        raise ValueError("its pixels hold NaN or infinity")
    return Picture(pixels, was_clear, was_cut, more)


def _turned(picture: Image) -> Image:
    """Turned as the camera was held."""
    import PIL.Image
    import PIL.ImageOps

    if picture.getexif().get(PIL.Image.ExifTags.Base.Orientation) is not None:
        return PIL.ImageOps.exif_transpose(picture)
    return picture


def _plain(picture: Image) -> tuple[Image, bool]:
    """In mode L, RGB or F, and whether parts were transparent: they become white."""
    import PIL.Image

    if picture.mode in ("L", "RGB") and "transparency" not in picture.info:
        return picture, False
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        if picture.mode.startswith("I;16"):  # of these modes Pillow resizes only some
            return PIL.Image.fromarray(np.asarray(picture).astype(np.float32)), False
        return picture.convert("F"), False
    if not picture.has_transparency_data:
        return picture.convert("L" if picture.mode == "1" else "RGB"), False
    alpha = picture.convert("RGBA")
    extrema: Any = alpha.getextrema()
    if extrema[3][0] == 255:
        return alpha.convert("RGB"), False
    white = PIL.Image.new("RGBA", alpha.size, "white")
    return PIL.Image.alpha_composite(white, alpha).convert("RGB"), True


def _resized(picture: Image, resolution: int) -> Image:
    """The middle square of the picture whose shorter side is resized."""
    import PIL.Image

    width, height = picture.size
    scale = resolution / min(width, height)
    wide, tall = max(resolution, round(width * scale)), max(resolution, round(height * scale))
    left, top = (wide - resolution) // 2, (tall - resolution) // 2
    if max(wide, tall) > _MOST_STRETCHED * resolution:
        x, y = width / wide, height / tall
        right, bottom = (left + resolution) * x, (top + resolution) * y
        box = left * x, top * y, min(right, width), min(bottom, height)
        return picture.resize((resolution, resolution), PIL.Image.Resampling.BICUBIC, box=box)
    if (wide, tall) != (width, height):
        picture = picture.resize((wide, tall), PIL.Image.Resampling.BICUBIC)
    return picture.crop((left, top, left + resolution, top + resolution))
