"""Train on an exported distilled set with NumPy alone, and test it on real digits.

    bilevel-distill run --dataset digits --ipc 1 --out runs/digits
    bilevel-distill export runs/digits --to hf
    python examples/train_on_distilled.py runs/digits/dataset

Nothing here knows of JAX: an exported set is Parquet, an npz file and a card. The model is ridge
regression on random features: a wide hidden layer that is left as it was drawn, with the soft
labels as targets.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from datasets import load_dataset
from sklearn.datasets import load_digits


def load_distilled(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The images [n, height, width, channels] and soft labels [n, classes] to train on."""
    rows = load_dataset(str(folder), split="train").with_format("numpy")[:]
    return rows["pixels"], rows["soft_label"]


def preprocess(pictures: np.ndarray, folder: Path) -> np.ndarray:
    """uint8 pictures [n, height, width, channels], brought into the space of the distilled ones."""
    with np.load(folder / "preprocess.npz") as file:
        stored = dict(file)
    x = (pictures / np.float32(255) - stored["mean"]) / stored["std"]
    if "whitening" in stored:
        x = (x.reshape(len(x), -1) @ stored["whitening"]).reshape(x.shape)
    return x


class RandomFeatureModel:
    """Outputs = relu(x w) v with a random w; v by ridge regression, solved for n images at once."""

    def __init__(self, images: np.ndarray, soft_labels: np.ndarray, width=4096, ridge=1e-3):
        rng = np.random.default_rng(0)
        flat = images.reshape(len(images), -1)
        self.w = rng.normal(size=(flat.shape[1], width)) / np.sqrt(flat.shape[1])
        hidden = self.hidden(images)
        kernel = hidden @ hidden.T / width
        dual = np.linalg.solve(kernel + ridge * np.eye(len(images)), soft_labels)
        self.v = hidden.T @ dual / width

    def hidden(self, images: np.ndarray) -> np.ndarray:
        return np.maximum(images.reshape(len(images), -1) @ self.w, 0)

    def predict(self, images: np.ndarray) -> np.ndarray:
        return (self.hidden(images) @ self.v).argmax(axis=1)


def test_digits() -> tuple[np.ndarray, np.ndarray]:
    """The digits that were held out of the distillation: every third of each class."""
    digits: Any = load_digits()
    held = np.sort(
        np.concatenate([np.flatnonzero(digits.target == digit)[2::3] for digit in range(10)])
    )
    pictures = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    return pictures[held], digits.target[held]


def main() -> None:
    parser = argparse.ArgumentParser(description="Train on an exported set of distilled digits.")
    parser.add_argument("folder", type=Path, help="what `bilevel-distill export --to hf` wrote")
    folder = parser.parse_args().folder
    images, soft_labels = load_distilled(folder)
    pictures, labels = test_digits()
    if images.shape[1:] != pictures.shape[1:]:
        parser.error(f"{folder} holds images of shape {images.shape[1:]}, not distilled digits")
    model = RandomFeatureModel(images, soft_labels)
    accuracy = np.mean(model.predict(preprocess(pictures, folder)) == labels)
    print(
        f"trained on {len(images)} distilled images: {100 * accuracy:.1f} % of "
        f"{len(labels)} held-out digits are recognised"
    )


if __name__ == "__main__":
    main()
