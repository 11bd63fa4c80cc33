"""Writing a distilled set for others: a `datasets` folder with a card, an npz file, or PNGs."""

import io
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ._card import card
from ._distilled import DistilledSet
from ._pictures import draw_images
from .data import Preprocessor
from .data._quiet import quiet_datasets

_RECORD = "distilled.json"
_FORMAT = "bilevel-distillation 1"
_PARQUET = "data/train-00000-of-00001.parquet"


def export(distilled: DistilledSet, folder: str | os.PathLike[str], to: str) -> Path:
    """Write a distilled set into a folder, in one of three forms.

    The folder appears whole or not at all. An earlier export in its place is replaced.

    Args:
        distilled: what to write.
        folder: where to; made if it is not there.
        to: `hf`, `npz` or `png`, see `export_hf`, `export_npz` and `export_png`.

    Returns:
        The folder, or for `npz` the file in it.

    Raises:
        ValueError: if `to` is none of the three, or the folder holds files of another origin.
    """
    writers = {"hf": export_hf, "npz": export_npz, "png": export_png}
    if to not in writers:
        raise ValueError(f"to is {to!r}; choose one of {', '.join(map(repr, writers))}.")
    return writers[to](distilled, folder)


def export_hf(distilled: DistilledSet, folder: str | os.PathLike[str]) -> Path:
    """Write a folder that `datasets.load_dataset` reads, with a card.

    Its rows have `image` (a PNG to look at), `pixels` (float32 [height, width, channels], as
    trained on), `soft_label` (float32 [n_classes]) and `label` (the class that the image began
    as). `preprocess.npz` holds what it takes to preprocess test images, and the card says how.

    Args:
        distilled: what to write.
        folder: where to; made if it is not there.

    Returns:
        The folder.

    Raises:
        ValueError: if the folder holds files of another origin.
    """

    def write(new: Path) -> None:
        _write_parquet(distilled, new / _PARQUET)
        with open(new / "preprocess.npz", "wb") as file:
            arrays: dict[str, Any] = {**distilled.preprocessor.to_arrays()}
            np.savez(file, **arrays)
        draw_images(distilled, new / "preview.png")
        (new / "README.md").write_text(card(distilled), encoding="utf-8")

    return _publish(distilled, Path(folder), write)


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
    return _publish(distilled, Path(folder), lambda new: distilled.save_npz(new / name)) / name


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
            name = re.sub(r"[^\w.-]+", "_", distilled.class_names[label]).strip("._") or str(label)
            index = seen[name] = seen.get(name, -1) + 1
            (new / f"{name}_{index:03d}.png").write_bytes(_png(image))
        draw_images(distilled, new / "contact_sheet.png")

    return _publish(distilled, Path(folder), write)


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
    for part in (_RECORD, "preprocess.npz", _PARQUET):
        if not (folder / part).is_file():
            raise FileNotFoundError(
                f"folder {str(folder)!r} has no {part}; give a folder exported with to='hf'."
            )
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        with np.load(folder / "preprocess.npz", allow_pickle=False) as arrays:
            preprocessor = Preprocessor.from_arrays(dict(arrays))
        columns, class_names = _read_parquet(folder / _PARQUET)
        return DistilledSet(
            images=columns["pixels"].reshape(-1, *preprocessor.image_shape),
            labels=columns["soft_label"].reshape(-1, len(class_names)),
            classes=columns["label"].astype(np.int32),
            class_names=class_names,
            preprocessor=preprocessor,
            log_temperature=record["log_temperature"],
            flip=record["flip"],
            provenance=record["provenance"],
        )
    except Exception as error:
        raise ValueError(
            f"the export in {str(folder)!r} is damaged ({error}); export or copy it again."
        ) from error


def _write_parquet(distilled: DistilledSet, path: Path) -> None:
    import datasets

    path.parent.mkdir(parents=True)
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
    with quiet_datasets():
        datasets.Dataset.from_dict(rows, features=features).to_parquet(str(path))


def _read_parquet(path: Path) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The columns besides `image`, flat, and the class names."""
    import datasets
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(path)
    features: Any = datasets.Features.from_arrow_schema(file.schema_arrow)
    columns = {}
    for name in ("pixels", "soft_label", "label"):
        values = file.read([name]).column(0).combine_chunks()
        while hasattr(values, "storage") or hasattr(values, "flatten"):
            values = values.storage if hasattr(values, "storage") else values.flatten()
        columns[name] = values.to_numpy()
    return columns, tuple(features["label"].names)


def _png(image: np.ndarray) -> bytes:
    import PIL.Image

    file = io.BytesIO()
    PIL.Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "PNG")
    return file.getvalue()


def _publish(distilled: DistilledSet, folder: Path, write: Callable[[Path], object]) -> Path:
    """Let `write` fill a new folder, and put that in the place of `folder` when it is whole."""
    _check_replaceable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    mark = uuid.uuid4().hex[:8]
    new = folder.with_name(f".{folder.name}.{mark}.new")
    old = folder.with_name(f".{folder.name}.{mark}.old")
    new.mkdir()
    try:
        write(new)
        record = {
            "format": _FORMAT,
            "log_temperature": distilled.log_temperature,
            "flip": distilled.flip,
            "provenance": distilled.provenance,
            "files": sorted([*_files(new), _RECORD]),
        }
        (new / _RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        # A folder cannot take the place of a folder that holds something in one step.
        if folder.exists():
            os.replace(folder, old)
        try:
            os.replace(new, folder)
        except OSError:
            if old.exists():
                os.replace(old, folder)
            raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    return folder


def _check_replaceable(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"folder is {str(folder)!r}, a file; give a folder.")
    present = _files(folder)
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        own = set(record["files"]) if record["format"] == _FORMAT else set()
    except (OSError, ValueError, KeyError, TypeError):
        own = set()
    foreign = [name for name in present if name not in own]
    if foreign:
        raise ValueError(
            f"folder {str(folder)!r} holds {foreign[0]!r}, which no export wrote; give an empty or "
            "new folder, or move the file away."
        )


def _files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir())
