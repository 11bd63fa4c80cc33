"""Which files are pictures."""

from functools import cache
from pathlib import Path, PurePosixPath

_NEVER = ("BUFR", "EPS", "FPX", "GRIB", "HDF5", "MIC", "MPEG", "WMF")
"""What Pillow knows without being able to read it, or only by running another program."""

_SNIFFED = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "QOI")
"""What is looked for in files of other names: formats that begin with a mark of their own; the
usual ones first, because they are tried in this order.
"""

_UNREAD = frozenset(
    ".ai .arw .cr2 .cr3 .dcm .dng .emf .eps .exr .fpx .heic .heif .hif .jxl .jxr .mic .nef .nii "
    ".orf .ps .raf .raw .rw2 .svg .svgz .wmf".split()
)
"""Pictures that Pillow reads at most with a plugin."""

_NOTES = frozenset(
    ".cfg .css .csv .db .gitattributes .htm .html .ini .ipynb .js .json .jsonl .lnk .log .md .pdf "
    ".py .rst .sh .toml .tsv .txt .url .xml .yaml .yml".split()
)
"""Files that nobody takes for pictures."""

ARCHIVES = frozenset(".7z .bz2 .gz .rar .tar .tgz .xz .zip .zst".split())
TABLES = frozenset((".parquet", ".arrow"))


@cache
def formats() -> tuple[str, ...]:
    """The formats that pictures are read in."""
    import PIL.Image

    PIL.Image.init()
    return (*_SNIFFED, *sorted(set(PIL.Image.OPEN) - {*_SNIFFED, *_NEVER}))


@cache
def _endings() -> frozenset[str]:
    import PIL.Image

    known = PIL.Image.registered_extensions().items()
    return frozenset(ending for ending, kind in known if kind in formats()) | _UNREAD


def is_picture(path: str, root: Path) -> bool:
    """Whether a file is a picture, by its name, else by its first bytes; it may be a broken one or
    of a kind that cannot be read, which is found out when it is read.
    """
    if is_called_picture(path):
        return True
    ending = PurePosixPath(path).suffix.lower()
    if ending in _NOTES or ending in ARCHIVES or ending in TABLES:
        return False
    return _looks_like_one(root / path)


def is_called_picture(path: str) -> bool:
    """Whether a file's name is that of a picture; for what is not to be opened."""
    return PurePosixPath(path).suffix.lower() in _endings()


def is_note(path: str) -> bool:
    """Whether a file is text, or does not matter."""
    name = PurePosixPath(path)
    return name.suffix.lower() in _NOTES or (not name.suffix and name.name.isupper())


@cache
def _looks_like_one(path: Path) -> bool:
    import PIL.Image

    try:
        with PIL.Image.open(path, formats=_SNIFFED):
            return True
    except Exception:
        return False
