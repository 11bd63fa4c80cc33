"""Train a network of one's own in PyTorch on an exported distilled set, and test it on real digits.

    bilevel-distill run --dataset digits --ipc 1 --out runs/digits
    python examples/train_in_pytorch.py runs/digits/dataset

JAX need not be installed, only torch, datasets and pillow: an exported set is Parquet, an npz file
and a card. Its accuracy depends on the soft labels, squared error, and Adam with a warm-up and a
cosine, as the card says.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]
from train_on_distilled import load_distilled, preprocess, test_digits


class Network(nn.Module):
    """Two convolutions with average pooling and a linear layer."""

    def __init__(self, side: int, channels: int, classes: int, width: int = 64):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2),
            nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(2 * width * (side // 4) ** 2, classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.normal_(layer.weight, std=1 / math.sqrt(layer.weight[0].numel()))
                nn.init.zeros_(layer.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images))


def train(images: torch.Tensor, labels: torch.Tensor, steps: int = 1000) -> Network:
    """Adam at 1e-4 on the squared error, with a linear warm-up and a cosine to 1 %."""
    network = Network(images.shape[2], images.shape[1], labels.shape[1])
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-4)
    warmup = steps // 2

    def rate(step: int) -> float:
        if step < warmup:
            return step / warmup
        return 0.01 + 0.99 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    for _ in range(steps):
        optimiser.zero_grad()
        loss = 0.5 * (network(images) - labels).square().sum(1).mean()
        loss.backward()
        optimiser.step()
        schedule.step()
    return network


def channels_first(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Train PyTorch networks on an exported set of digits."
    )
    parser.add_argument("folder", type=Path, help="what `bilevel-distill export --to hf` wrote")
    parser.add_argument("--networks", type=int, default=5)
    arguments = parser.parse_args()
    images, soft_labels = load_distilled(arguments.folder)
    pictures, labels = test_digits()
    if images.shape[1:] != pictures.shape[1:]:
        parser.error(f"{arguments.folder} holds images of shape {images.shape[1:]}, not digits")
    held_out = channels_first(preprocess(pictures, arguments.folder))
    accuracies = []
    for seed in range(arguments.networks):
        torch.manual_seed(seed)
        network = train(channels_first(images), torch.from_numpy(np.array(soft_labels)))
        with torch.no_grad():
            found = network(held_out).argmax(1).numpy()
        accuracies.append(100 * np.mean(found == labels))
    print(
        f"trained on {len(images)} distilled images: {np.mean(accuracies):.1f} ± "
        f"{np.std(accuracies):.1f} % of {len(labels)} held-out digits are recognised"
    )


if __name__ == "__main__":
    main()
