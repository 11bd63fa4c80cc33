"""Code that loads a distilled set, right for the set at hand."""

from .._artifacts import FLIP_CODE, DistilledSet, whiten_code

_NUMPY = """import numpy as np

with np.load("distilled.npz") as file:
    stored = {{name.removeprefix("preprocess_"): file[name] for name in file.files}}
images, labels = stored["images"], stored["labels"]
{beside}{flip}

def preprocess(pictures):  # uint8 [n, {shape}] to float32, as the images are
    x = (pictures / np.float32(255) - stored["mean"]) / stored["std"]
{whiten}    return x
"""

_BESIDE = """with np.load("preprocess.npz") as file:
    stored["whitening"] = file["whitening"]
"""

_DATASETS = """import numpy as np
from datasets import load_dataset

rows = load_dataset("./dataset", split="train").with_format("numpy")[:]
images, labels = rows["pixels"], rows["soft_label"]
{flip}"""

_PYTORCH = """import torch
from torch.utils.data import DataLoader, TensorDataset

# images and labels: from either of the above; [n, channels, height, width] is PyTorch's order
inputs = torch.tensor(images).permute(0, 3, 1, 2).contiguous()
loader = DataLoader(TensorDataset(inputs, torch.tensor(labels)), batch_size=256, shuffle=True)
for x, y in loader:  # once an epoch
    loss = 0.5 * (network(x) - y).square().sum(1).mean()
"""


def snippets(distilled: DistilledSet) -> list[tuple[str, str]]:
    """Title and code, each to be run in the run's folder: NumPy, `datasets`, PyTorch."""
    flip = FLIP_CODE if distilled.flip else ""
    numpy = _NUMPY.format(
        flip=flip,
        beside="" if distilled.preprocessor.whitening is None else _BESIDE,
        shape=", ".join(map(str, distilled.images.shape[1:])),
        whiten=whiten_code(distilled.preprocessor.stride),
    )
    return [
        ("NumPy", numpy),
        ("datasets", _DATASETS.format(flip=flip)),
        ("PyTorch", _PYTORCH),
    ]
