"""Where the real images are that the examples and benchmarks read."""

import os
from pathlib import Path


def data_folder(name: str) -> Path:
    """The folder of a data set, which need not be there: in the folder that the environment
    variable BILEVEL_DATA names, else in `shared/data` beside the repository.
    """
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("BILEVEL_DATA", beside)) / name
