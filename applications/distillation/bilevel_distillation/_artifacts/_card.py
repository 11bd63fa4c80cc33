"""The card of an exported set: what a reader and the hub need to know."""

import json
import re
from pathlib import PurePath
from typing import Any

import yaml

from ._citations import CITATIONS
from ._distilled import DistilledSet
from ._text import one_line

_CARD = """---
{header}---

# {title}

{n} synthetic {height} x {width} {colour} images that stand for a whole training set: a network
trained on them alone learns to tell {classes} classes apart.

![The images, as they look](preview.png)

| column | what | type |
| --- | --- | --- |
| `image` | the image to look at: clipped and rounded, **not** what to train on | PNG |
| `pixels` | the image as trained on, preprocessed | float32 [{height}, {width}, {channels}] |
| `soft_label` | the learned label, centred (near one-hot minus 1/{classes}) | float32 [{classes}] |
| `label` | the class that the image began as | class label |

## Train on it

{flip_sentence}
Train a network from scratch on `pixels` by squared error against `soft_label`; it predicts the
class with the largest output. Real images to predict are preprocessed like this first:

```python
import numpy as np
from datasets import load_dataset

FOLDER = "."  # where this card is

rows = load_dataset(FOLDER, split="train").with_format("numpy")[:]
images, labels = rows["pixels"], rows["soft_label"]
{flip_code}
with np.load(f"{{FOLDER}}/preprocess.npz") as file:
    stored = dict(file)


def preprocess(pictures):  # uint8 [n, {height}, {width}, {channels}] -> float32
    x = (pictures / np.float32(255) - stored["mean"]) / stored["std"]
{whiten_code}    return x
```

{preprocess_sentence}

In PyTorch, whose images have their channels first, with neither JAX nor the package that made the
set:

```py
import torch
from torch.utils.data import TensorDataset

order = lambda x: torch.tensor(x).movedim(-1, 1)  # of images, and of preprocess(pictures)
data = TensorDataset(order(images), torch.tensor(labels))
```

## How good it is

{judged}

## What it cost

{cost}

## Licence

The images were made from {source}: its terms hold for them as they do for the original, and the
software that made them adds none.

## Citation

{citation}

## Where it comes from

{provenance}
"""

FLIP_CODE = """images = np.concatenate([images, images[:, :, ::-1]])  # the mirror images
labels = np.concatenate([labels, labels])
"""
_WHITEN_CODE = """    x = (x.reshape(len(x), -1) @ stored["whitening"]).reshape(x.shape)
"""
_WHITEN_SPLIT_CODE = """    n, h, w, c = x.shape  # every {stride}th row and column is one image
    x = x.reshape(n, h // {stride}, {stride}, w // {stride}, {stride}, c)
    x = x.transpose(0, 2, 4, 1, 3, 5)
    x = (x.reshape(n * {stride}**2, -1) @ stored["whitening"]).reshape(x.shape)
    x = x.transpose(0, 3, 1, 4, 2, 5).reshape(n, h, w, c)
"""


def card(distilled: DistilledSet, rows: str, judged: str | None = None) -> str:
    """The text of README.md for a distilled set whose rows are in the file `rows`, front matter
    included; `judged` says how good it is.
    """
    n, height, width, channels = distilled.images.shape
    zca = distilled.preprocessor.whitening is not None
    source = distilled.provenance.get("dataset")
    name = one_line(PurePath(str(source)).name) if source else ""
    title = f"{name}, distilled" if name else "A distilled data set"
    return _CARD.format(
        header=_header(title, n, rows),
        title=_as_text(title),
        n=n,
        height=height,
        width=width,
        channels=channels,
        colour="gray" if channels == 1 else "colour",
        classes=len(distilled.class_names),
        flip_sentence=(
            "Each image is used together with its mirror image, under the same label."
            if distilled.flip
            else "The images are used as they are, without mirror images."
        ),
        flip_code=FLIP_CODE if distilled.flip else "",
        whiten_code=whiten_code(distilled.preprocessor.stride),
        preprocess_sentence=(
            "`preprocess.npz` holds the mean and deviation of each channel of the original "
            f"training images, with pixels from 0 to 1{', and the ZCA matrix' if zca else ''}."
        ),
        judged=judged or "It was not judged where it was written.",
        cost=_cost(distilled.provenance),
        source=_as_text(name) if name else "another data set",
        citation=_citation(distilled.provenance),
        provenance=_provenance(distilled),
    )


def whiten_code(stride: int | None) -> str:
    """Lines of `preprocess` that whiten `x` with what is `stored`; none without ZCA."""
    if stride is None or stride == 1:
        return "" if stride is None else _WHITEN_CODE
    return _WHITEN_SPLIT_CODE.format(stride=stride)


def _header(title: str, n: int, rows: str) -> str:
    size = "n<1K" if n < 1000 else "1K<n<10K" if n < 10_000 else "10K<n<100K"
    fields = {
        "pretty_name": title,
        "license": "other",
        "license_name": "that-of-the-original",
        "license_link": "README.md#licence",
        "task_categories": ["image-classification"],
        "tags": ["dataset-distillation", "synthetic"],
        "size_categories": [size],
        "configs": [
            {"config_name": "default", "data_files": [{"split": "train", "path": rows}]},
        ],
    }
    return yaml.safe_dump(fields, allow_unicode=True, sort_keys=False, width=float("inf"))


def _cost(provenance: dict[str, Any]) -> str:
    seconds, iterations = provenance.get("seconds"), provenance.get("iterations")
    if not isinstance(seconds, int | float):
        return "It is not known."
    took = f"{seconds:.0f} seconds" if seconds < 600 else f"{seconds / 3600:.1f} hours"
    many = f", {iterations} meta-iterations" if isinstance(iterations, int) else ""
    return f"{took}{many}, what it was begun from included."


def _citation(provenance: dict[str, Any]) -> str:
    paper = CITATIONS.get(str(provenance.get("method")))
    software = "the software, bilevel-distillation (the bilevel developers)"
    return f"{paper}; and {software}." if paper else f"Cite {software}."


def _provenance(distilled: DistilledSet) -> str:
    known: dict[str, Any] = distilled.provenance | {"log_temperature": distilled.log_temperature}
    lines = ["| what | value |", "| --- | --- |"]
    for key, value in known.items():
        shown = value if isinstance(value, str) else json.dumps(value)
        lines.append(f"| {_as_text(key)} | {_as_text(shown)} |")
    return "\n".join(lines)


def _as_text(text: object) -> str:
    """What Markdown, HTML and mathematics show as it is, on one line."""
    text = re.sub(r"([\\`*\[\]|$~])", r"\\\1", one_line(text))
    text = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
