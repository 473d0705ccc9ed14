"""What several test files share: tiny images and ensembles, and the method in its slowest form.

The literal forms are written from the formulas and the layer table alone, in PyTorch's own
layers and without replicas; nothing here calls the code under test to know what is right.
"""

import contextlib
import os
from collections import OrderedDict
from datetime import timedelta

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from torch import nn

from d2ue.config import TrainConfig
from d2ue.datasets.types import ImageSet
from d2ue.ensemble import train_ensemble
from d2ue.errors import InputError

# Fuzz tests: few cases in a normal run, thousands with `--hypothesis-profile=fuzz` or D2UE_FUZZ=N.
settings.register_profile(
    "fuzz",
    max_examples=int(os.environ.get("D2UE_FUZZ") or 2000),
    deadline=timedelta(seconds=30),  # a case takes milliseconds; longer is a hang
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # small enough as they are
    print_blob=True,
)
if os.environ.get("D2UE_FUZZ"):
    settings.load_profile("fuzz")

SIZE = 16  # pixels a side: the smallest network there is, seven layers


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Networks this small are slower on more threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def draw_images():
    """Smooth random images that differ: uint8 [n, 1, size, size]."""

    def draw(n: int, size: int = SIZE, seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[:size, :size] / size
        a, b, c, d = rng.uniform(0.5, 3.0, (4, n, 1, 1))
        waves = np.sin(3 * a * x + c) * np.cos(3 * b * y + d) + 0.3 * rng.normal(
            size=(n, size, size)
        )
        return np.clip(127.5 + 100 * waves, 0, 255).astype(np.uint8)[:, None]

    return draw


@pytest.fixture(scope="session")
def draw_set(draw_images):
    """The same as an ImageSet of normal images."""

    def draw(n: int, size: int = SIZE, seed: int = 0) -> ImageSet:
        return ImageSet(draw_images(n, size, seed), tuple(f"image {i}" for i in range(n)))

    return draw


@pytest.fixture(scope="session")
def tiny():
    """Settings of a training that takes a fraction of a second; keywords change them."""

    def settings(**changes: object) -> TrainConfig:
        small = {
            "backbone": "ae",
            "image_size": SIZE,
            "batch_size": 8,
            "epochs": 2,
            "n_learners": 2,
        }
        return TrainConfig(**(small | changes))

    return settings


@pytest.fixture(scope="session")
def trained(tiny, draw_set):
    """Three short-trained learners of a backbone: weights and statistics have left their start."""
    made = {}

    def ensemble(backbone: str = "ae"):
        if backbone not in made:
            config = tiny(backbone=backbone, n_learners=3, epochs=3, learning_rate=3e-3)
            made[backbone] = train_ensemble(config, draw_set(20), progress=False)
        return made[backbone]

    return ensemble


@pytest.fixture(scope="session")
def refused():
    """A context whose body must raise an InputError of one sentence that says these words."""

    @contextlib.contextmanager
    def context(*words: object):
        with pytest.raises(InputError) as caught:
            yield
        text = str(caught.value)
        assert text.endswith(".") and "\n" not in text and len(text) < 600, text
        for word in words:
            assert str(word) in text, f"{word!r} is not in {text!r}"

    return context


@pytest.fixture(scope="session")
def literal_cka():
    """Eq. (2)-(3) letter by letter: tr(K H L H), with K = P Pᵀ, L = Q Qᵀ, H = I - 11ᵀ/B."""

    def cka(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        batch = len(p)
        h = torch.eye(batch, dtype=p.dtype) - torch.ones(batch, batch, dtype=p.dtype) / batch

        def hsic(k: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
            return torch.trace(k @ h @ other @ h) / (batch - 1) ** 2

        k, other = p @ p.T, q @ q.T
        return hsic(k, other) / torch.sqrt(hsic(k, k) * hsic(other, other))

    return cka


class PlainMemory(nn.Module):
    """MemAE's memory as published: hard shrinkage relu(w - l) w / (|w - l| + eps), then L1."""

    def __init__(self, slots: int, shrinkage: float) -> None:
        super().__init__()
        self.shrinkage = shrinkage
        self.items = nn.Parameter(torch.empty(slots, 16).uniform_(-1 / 4, 1 / 4))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        w = torch.softmax(z @ self.items.T, dim=1)
        beyond = w - self.shrinkage
        shrunk = torch.relu(beyond) * w / (torch.abs(beyond) + 1e-12)
        self.addressing = shrunk / shrunk.sum(1, keepdim=True)
        return self.addressing @ self.items


class PlainLearner(nn.Sequential):
    """One learner of the layer table in PyTorch's own layers; its stages are the named layers."""

    def __init__(self, backbone: str, image_size: int, slots: int = 25, shrinkage: float = 0.0025):
        halving = {"kernel_size": 4, "stride": 2, "padding": 1, "bias": False}
        widths = {16: (16, 32), 32: (16, 32, 64), 64: (16, 32, 64, 64), 128: (16, 32, 64, 64, 64)}
        c = widths[image_size]
        flat = c[-1] * 4 * 4
        stages = OrderedDict()
        for i, (a, b) in enumerate(zip((1, *c), c, strict=False), 1):
            stages[f"en{i}"] = nn.Sequential(
                nn.Conv2d(a, b, **halving), nn.BatchNorm2d(b), nn.ReLU()
            )
        stages["z"] = nn.Sequential(
            nn.Flatten(),
            nn.Linear(flat, 2048),
            nn.BatchNorm1d(2048),
            nn.ReLU(),
            nn.Linear(2048, 16),
        )
        if backbone == "memae":
            stages["memory"] = PlainMemory(slots, shrinkage)
        stages[f"de{len(c)}"] = nn.Sequential(
            nn.Linear(16, 2048), nn.BatchNorm1d(2048), nn.ReLU(), nn.Linear(2048, flat),
            nn.Unflatten(1, (c[-1], 4, 4)),
        )  # fmt: skip
        for i in range(len(c) - 1, 0, -1):
            stages[f"de{i}"] = nn.Sequential(
                nn.ConvTranspose2d(c[i], c[i - 1], **halving), nn.BatchNorm2d(c[i - 1]), nn.ReLU()
            )
        outputs = 2 if backbone == "aeu" else 1
        stages["output"] = nn.ConvTranspose2d(c[0], outputs, **halving)
        super().__init__(stages)

    def run(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Every stage's output by its name."""
        outputs = {}
        for name, stage in self.named_children():
            x = outputs[name] = stage(x)
        return outputs

    def tensors(self) -> list[torch.Tensor]:
        """Weights and running statistics in the order of the layers."""
        return [v for k, v in self.state_dict().items() if not k.endswith("num_batches_tracked")]

    def take(self, network: nn.Module, replica: int = 0) -> "PlainLearner":
        """This learner with the weights and statistics of one replica of `network`."""
        values = list(network.state_dict().values())
        for mine, theirs in zip(self.tensors(), values, strict=True):
            assert mine.shape == theirs.shape[1:]
            mine.copy_(theirs[replica])
        return self


@pytest.fixture(scope="session")
def plain_learner():
    """The class `PlainLearner`."""
    return PlainLearner


@pytest.fixture(scope="session")
def equal_tensors():
    """Asserts that two networks' tensors agree, within `atol` or (0) bit for bit."""

    def compare(one, other, atol: float = 0.0) -> None:
        pairs = zip(_tensors(one), _tensors(other), strict=True)
        for i, (a, b) in enumerate(pairs):
            torch.testing.assert_close(a, b, rtol=0, atol=atol, msg=lambda m, i=i: f"{i}: {m}")

    return compare


def _tensors(network) -> list[torch.Tensor]:
    if isinstance(network, PlainLearner):
        return [value[None] for value in network.tensors()]  # R = 1
    return list(getattr(network, "network", network).state_dict().values())
