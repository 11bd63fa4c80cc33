"""Writing a distilled set for others: a `datasets` folder with a card, an npz file, or PNGs."""

import io
import os
import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np

from ..data import Preprocessor, quiet_datasets
from ._arrays import read_arrays, write_arrays
from ._card import card
from ._distilled import DistilledSet
from ._pictures import draw_images
from ._publish import check_files, publish, read_record
from ._reading import guarded, sha256_of
from ._writing import linked, write_whole

_PREPROCESS = "preprocess.npz"
_ROWS = re.compile(r"data/train-00000-of-00001(-[0-9a-f]{16})?\.parquet")
_LONGEST = 150


def export(
    distilled: DistilledSet, folder: str | os.PathLike[str], to: str, *, judged: str | None = None
) -> Path:
    """Write a distilled set into a folder, in one of three forms.

    The folder appears whole or not at all. An earlier export in its place is replaced.

    Args:
        distilled: what to write.
        folder: where to; made if it is not there.
        to: `hf`, `npz` or `png`, see `export_hf`, `export_npz` and `export_png`.
        judged: of `hf`: for its card, a sentence on how good the set is.

    Returns:
        The folder, or for `npz` the file in it.

    Raises:
        ValueError: if `to` is none of the three, or the folder holds files of another origin.
    """
    writers = {"npz": export_npz, "png": export_png}
    if to == "hf":
        return export_hf(distilled, folder, judged=judged)
    if to not in writers:
        raise ValueError(f"to is {to!r}; choose one of {', '.join(map(repr, ('hf', *writers)))}.")
    return writers[to](distilled, folder)


def export_hf(
    distilled: DistilledSet,
    folder: str | os.PathLike[str],
    *,
    preprocess: Path | None = None,
    judged: str | None = None,
) -> Path:
    """Write a folder that `datasets.load_dataset` reads, with a card.

    Its rows have `image` (a PNG to look at), `pixels` (float32 [height, width, channels], as
    trained on), `soft_label` (float32 [n_classes]) and `label` (the class that the image began
    as). `preprocess.npz` holds what it takes to preprocess test images, and the card says how.
    The file of the rows has part of its checksum in its name: `datasets` keeps what it has read
    under such names, and would give the rows of another folder of the same name for these.

    Args:
        distilled: what to write.
        folder: where to; made if it is not there.
        preprocess: a file that is already what `preprocess.npz` is to be, which then is a second
            name of it where the file system can do that, and takes no room.
        judged: for the card, a sentence on how good the set is.

    Returns:
        The folder.

    Raises:
        ValueError: if the folder holds files of another origin.
    """

    def write(new: Path) -> None:
        rows = _parquet(distilled)
        name = f"data/train-00000-of-00001-{sha256_of(rows)[:16]}.parquet"
        (new / name).parent.mkdir()
        write_whole(new / name, rows)
        if preprocess is None or not linked(preprocess, new / _PREPROCESS):
            write_arrays(new / _PREPROCESS, distilled.preprocessor.to_arrays())
        draw_images(distilled, new / "preview.png")
        write_whole(new / "README.md", card(distilled, name, judged))

    return publish(distilled, Path(folder), write)


def export_npz(distilled: DistilledSet, folder: str | os.PathLike[str]) -> Path:
    """Write `distilled.npz`, which `DistilledSet.load_npz` and NumPy read.

    Args:
        distilled: what to write.
        folder: where to; made if it is not there.

    Returns:
        The file.

    Raises:
        ValueError: if the folder holds files of another origin.
    """
    name = "distilled.npz"
    return publish(distilled, Path(folder), lambda new: distilled.save_npz(new / name)) / name


def export_png(distilled: DistilledSet, folder: str | os.PathLike[str]) -> Path:
    """Write one displayable PNG an image, named class_index, and a contact sheet.

    Args:
        distilled: what to write.
        folder: where to; made if it is not there.

    Returns:
        The folder.

    Raises:
        ValueError: if the folder holds files of another origin.
    """

    def write(new: Path) -> None:
        seen: dict[str, int] = {}
        for image, label in zip(distilled.display_images, distilled.classes, strict=True):
            name = _file_name(distilled.class_names[label]) or str(label)
            # Some file systems take names that differ by case or composition to be the same.
            key = unicodedata.normalize("NFC", name).casefold()
            index = seen[key] = seen.get(key, -1) + 1
            write_whole(new / f"{name}_{index:03d}.png", _png(image))
        draw_images(distilled, new / "contact_sheet.png")

    return publish(distilled, Path(folder), write)


def load_hf(folder: str | os.PathLike[str]) -> DistilledSet:
    """Read back what `export_hf` wrote, to the same bits.

    The Parquet file is read where it lies: nothing is copied into a cache.

    Args:
        folder: the exported folder.

    Raises:
        FileNotFoundError: if a part of the export is missing.
        ValueError: if a part is damaged.
    """
    folder = Path(folder)
    record = read_record(folder)
    rows = next((name for name in record["files"] if _ROWS.fullmatch(name)), None)
    if rows is None or not (folder / rows).is_file():
        raise FileNotFoundError(
            f"folder {str(folder)!r} has no {rows or 'Parquet file in data/'}; give a folder "
            "exported with to='hf'."
        )
    if not (folder / _PREPROCESS).is_file():
        raise FileNotFoundError(
            f"folder {str(folder)!r} has no {_PREPROCESS}; give a folder exported with to='hf'."
        )
    check_files(folder, record, (rows, _PREPROCESS))
    remedy = "export or copy it again"
    stored = read_arrays(folder / _PREPROCESS, remedy=remedy)
    with guarded(folder / _PREPROCESS, remedy):
        preprocessor = Preprocessor.from_arrays(stored)
    with guarded(folder / rows, remedy):
        columns, class_names = _read_parquet(folder / rows)
        images = columns["pixels"].reshape(-1, *preprocessor.image_shape)
        labels = columns["soft_label"].reshape(-1, len(class_names))
    with guarded(folder, remedy):
        return DistilledSet(
            images=images,
            labels=labels,
            classes=columns["label"].astype(np.int32),
            class_names=class_names,
            preprocessor=preprocessor,
            log_temperature=record["log_temperature"],
            flip=record["flip"],
            provenance=record["provenance"],
        )


def _parquet(distilled: DistilledSet) -> bytes:
    import datasets

    features = datasets.Features(
        {
            "image": datasets.Image(),
            "pixels": datasets.Array3D(distilled.images.shape[1:], "float32"),
            "soft_label": datasets.Sequence(
                datasets.Value("float32"), length=distilled.labels.shape[1]
            ),
            "label": datasets.ClassLabel(names=list(distilled.class_names)),
        }
    )
    rows = {
        "image": [{"bytes": _png(image), "path": None} for image in distilled.display_images],
        "pixels": list(distilled.images),
        "soft_label": list(distilled.labels),
        "label": distilled.classes.tolist(),
    }
    file = io.BytesIO()
    with quiet_datasets():
        datasets.Dataset.from_dict(rows, features=features).to_parquet(file)
    return file.getvalue()


def _read_parquet(path: Path) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The columns besides `image`, flat, and the class names."""
    import datasets
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        features: Any = datasets.Features.from_arrow_schema(file.schema_arrow)
        columns = {}
        for name in ("pixels", "soft_label", "label"):
            values = file.read([name]).column(0).combine_chunks()
            while hasattr(values, "storage") or hasattr(values, "flatten"):
                values = values.storage if hasattr(values, "storage") else values.flatten()
            columns[name] = values.to_numpy()
    return columns, tuple(features["label"].names)


def _file_name(name: str) -> str:
    """As much of a class name as a file name can hold."""
    name = re.sub(r"[^\w.-]+", "_", name).strip("._")
    return name.encode("utf-8")[:_LONGEST].decode("utf-8", "ignore")


def _png(image: np.ndarray) -> bytes:
    import PIL.Image

    file = io.BytesIO()
    PIL.Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "PNG")
    return file.getvalue()
