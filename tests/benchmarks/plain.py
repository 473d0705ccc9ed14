"""The plain recipe: how such ensembles are usually trained and scored in PyTorch.

An honest and idiomatic implementation without any of this project's ideas: `torch.nn` layers with
their defaults, a `DataLoader` that transforms one PIL image at a time, PyTorch's default Adam, one
learner at a time, every senior run forward at every step, and one image at a time scored with
autograd. The images are decoded once and stay in memory as PIL images, so that no disk is measured.

It is what the benchmarks measure against, and it computes the same thing: tests/test_plain.py holds
the two together. Nothing in `d2ue` uses it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

LATENT, HIDDEN = 16, 2048


class PlainImages(Dataset[Tensor]):
    """PIL images in memory; each is made a tensor in [-1, 1] whenever it is asked for."""

    def __init__(self, pictures: Sequence[Image.Image]) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Tensor:
        # What torchvision's ToTensor and Normalize(0.5, 0.5) do.
        pixels = torch.from_numpy(np.array(self.pictures[index], np.uint8, copy=True))
        return pixels.unsqueeze(0).contiguous().to(torch.float32).div(255).sub_(0.5).div_(0.5)


def pictures_of(images: np.ndarray) -> list[Image.Image]:
    """uint8 [n, 1, H, W] as grey PIL images."""
    return [Image.fromarray(image[0]) for image in images]


class PlainAutoencoder(nn.Module):
    """The AE of the paper at 64 x 64, layer by layer; returns (reconstruction, z)."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(*_down(1, 16), *_down(16, 32), *_down(32, 64), *_down(64, 64))
        self.to_latent = _bottleneck(64 * 4 * 4, LATENT)
        self.from_latent = _bottleneck(LATENT, 64 * 4 * 4)
        self.decoder = nn.Sequential(
            *_up(64, 64),
            *_up(64, 32),
            *_up(32, 16),
            nn.ConvTranspose2d(16, 1, 4, stride=2, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.to_latent(self.encoder(x).flatten(1))
        return self.decoder(self.from_latent(z).view(-1, 64, 4, 4)), z


def linear_cka(p: Tensor, q: Tensor) -> Tensor:
    """Linear CKA of two features [B, d] through their Gram matrices, as it is usually written."""
    p, q = p - p.mean(0), q - q.mean(0)
    k, m = p @ p.T, q @ q.T
    return (k * m).sum() / (torch.linalg.norm(k) * torch.linalg.norm(m))


def fit(
    pictures: Sequence[Image.Image],
    n_learners: int,
    epochs: int,
    *,
    batch_size: int = 64,
    repulsion_weight: float = 1.0,
    workers: int = 0,
    device: str = "cpu",
    seed: int = 0,
    seniors: Sequence[PlainAutoencoder] = (),
) -> list[PlainAutoencoder]:
    """Train learners one after another, from learner len(seniors) + 1 to n_learners.

    Returns:
        Seniors and new learners, in evaluation mode.
    """
    torch.manual_seed(seed)
    learners = list(seniors)
    loader = DataLoader(
        PlainImages(pictures),
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device != "cpu",
    )
    while len(learners) < n_learners:
        model = PlainAutoencoder().to(device)
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-4, betas=(0.5, 0.999))
        model.train()
        for _ in range(epochs):
            for x in loader:
                x = x.to(device, non_blocking=True)
                reconstruction, z = model(x)
                loss = (reconstruction - x).pow(2).mean()
                if learners:
                    with torch.no_grad():
                        others = [senior(x)[1] for senior in learners]
                    similar = sum(linear_cka(other, z) for other in others) / len(others)
                    loss = loss + repulsion_weight * similar
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        learners.append(model.eval())
    return learners


def score(
    learners: Sequence[PlainAutoencoder], pictures: Sequence[Image.Image], device: str = "cpu"
) -> np.ndarray:
    """Dual-space uncertainty (Eq. 6), one image and one learner at a time; float64 [n]."""
    scores = []
    for x in DataLoader(PlainImages(pictures), batch_size=1):
        products = []
        for model in learners:
            image = x.to(device).requires_grad_(True)
            reconstruction, _ = model(image)
            error = (reconstruction - image).abs()
            (gradient,) = torch.autograd.grad(error.mean(), image)
            products.append((gradient * error).detach())
        scores.append(torch.stack(products).std(0).mean().item())
    return np.array(scores)


def _down(inputs: int, outputs: int) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU(True)]


def _up(inputs: int, outputs: int) -> list[nn.Module]:
    conv = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU(True)]


def _bottleneck(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, HIDDEN),
        nn.BatchNorm1d(HIDDEN),
        nn.ReLU(True),
        nn.Linear(HIDDEN, outputs),
    )
