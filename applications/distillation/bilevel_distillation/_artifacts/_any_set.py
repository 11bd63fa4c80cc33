"""A distilled set by the path of whatever holds it."""

from pathlib import Path

from ..data import Preprocessor
from ._distilled import DistilledSet
from ._export import load_hf
from ._folder import RunFolder


def read_distilled(path: Path, preprocessor: Preprocessor | None = None) -> DistilledSet:
    """The set of a run's folder, of an exported folder (hf or npz), or of an .npz file, made here
    or elsewhere.

    Args:
        path: of one of them.
        preprocessor: for an .npz that holds none.

    Raises:
        NoPreprocessor: an .npz that holds none, and none was given.
        ValueError: there is no set, the run is not finished, or a file is damaged.
        OSError: a file cannot be read.
    """
    folder = RunFolder(path)
    if folder.config.exists():
        if not folder.distilled.exists():
            raise ValueError(f"{str(path)!r} holds a run that is not finished: run it to its end.")
        return folder.read_distilled()
    if path.is_file():
        return DistilledSet.load_npz(path, preprocessor=preprocessor)
    if folder.distilled.exists():
        return DistilledSet.load_npz(folder.distilled, preprocessor=preprocessor)
    return load_hf(path)
