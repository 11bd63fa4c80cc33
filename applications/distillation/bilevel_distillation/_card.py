"""The card of an exported set: what a reader and the hub need to know."""

import json
from pathlib import PurePath
from typing import Any

from ._distilled import DistilledSet

_CARD = """---
{header}
---

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


def card(distilled: DistilledSet) -> str:
    """The text of README.md for a distilled set, front matter included."""
    n, height, width, channels = distilled.images.shape
    zca = distilled.preprocessor.whitening is not None
    source = distilled.provenance.get("dataset")
    title = f"{PurePath(str(source)).name}, distilled" if source else "A distilled data set"
    return _CARD.format(
        header=_header(title, n),
        title=title,
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
        provenance=_provenance(distilled),
    )


def whiten_code(stride: int | None) -> str:
    """Lines of `preprocess` that whiten `x` with what is `stored`; none without ZCA."""
    if stride is None or stride == 1:
        return "" if stride is None else _WHITEN_CODE
    return _WHITEN_SPLIT_CODE.format(stride=stride)


def _header(title: str, n: int) -> str:
    size = "n<1K" if n < 1000 else "1K<n<10K" if n < 10_000 else "10K<n<100K"
    # JSON strings are YAML strings, whatever is in them.
    return "\n".join(
        [
            f"pretty_name: {json.dumps(title)}",
            "task_categories:\n- image-classification",
            "tags:\n- dataset-distillation\n- synthetic",
            f"size_categories:\n- {size}",
            "configs:\n- config_name: default\n  data_files:\n  - split: train\n"
            "    path: data/train-*.parquet",
        ]
    )


def _provenance(distilled: DistilledSet) -> str:
    known: dict[str, Any] = distilled.provenance | {"log_temperature": distilled.log_temperature}
    lines = ["| what | value |", "| --- | --- |"]
    for key, value in known.items():
        shown = value if isinstance(value, str) else json.dumps(value)
        lines.append(f"| {_cell(key)} | {_cell(shown)} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")
