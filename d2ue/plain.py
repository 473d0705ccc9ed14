"""The whole paper in one file of plain PyTorch, to read, to copy and to change.

Gu, Lin, Cheng, Chen: Revisiting Deep Ensemble Uncertainty for Enhanced Medical Anomaly Detection,
MICCAI 2024 (arXiv 2409.17485), at the paper's settings and with no others. From top to bottom: the
autoencoders, what learners are trained with (Eq. 1-4), learner after learner, and the scores that
read their disagreement (Eq. 5-6).

    learners = train_ensemble("ae", images)          # images [n, 1, 64, 64] in [-1, 1], all normal
    scores = anomaly_scores(learners, new, "dual")   # [n], higher = more abnormal

The rest of `d2ue` computes the same faster and with more choices; the tests hold the two together
to 1e-8. Shapes: B images a batch, N learners, d values of a feature.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEARNING_RATE = {"ae": 5e-4, "memae": 5e-4, "aeu": 1e-3}
REPULSION_WEIGHT = 1.0  # lambda in Eq. (4)
ENTROPY_WEIGHT = 2e-4  # MemAE: of the addressing's entropy in its loss

# ---------- the autoencoders ----------


class Output(NamedTuple):
    """What a learner says of a batch of images."""

    mean: Tensor  # the reconstruction f(X), [B, 1, 64, 64]
    log_variance: Tensor | None  # AEU: s, [B, 1, 64, 64]
    z: Tensor  # the feature that is repelled, [B, 16]
    addressing: Tensor | None  # MemAE: weights over the memory's items, [B, 25]


def down(inputs: int, outputs: int) -> nn.Sequential:
    """Halve height and width."""
    conv = nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def up(inputs: int, outputs: int) -> nn.Sequential:
    """Double height and width."""
    conv = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def bottleneck(inputs: int, outputs: int) -> nn.Sequential:
    """Two linear layers by way of 2048 values."""
    wide = nn.Linear(inputs, 2048), nn.BatchNorm1d(2048), nn.ReLU()
    return nn.Sequential(*wide, nn.Linear(2048, outputs))


class Memory(nn.Module):
    """MemAE's memory (Gong et al., ICCV 2019): z becomes a sparse mixture of 25 learned items."""

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.Parameter(torch.empty(25, 16).uniform_(-1 / 4, 1 / 4))  # +-1 / sqrt(16)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The mixture [B, 16] and the weights [B, 25] it was mixed with."""
        weights = torch.softmax(z @ self.items.T, dim=1)  # [B, 25]
        weights = torch.where(weights > 0.0025, weights, 0.0)  # hard shrinkage
        weights = F.normalize(weights, p=1, dim=1)
        return weights @ self.items, weights


class Autoencoder(nn.Module):
    """AE, MemAE or AEU; AEU gives a mean and a log-variance for every pixel."""

    def __init__(self, backbone: str) -> None:
        super().__init__()
        self.backbone = backbone
        self.encoder = nn.Sequential(down(1, 16), down(16, 32), down(32, 64), down(64, 64))
        self.to_z = bottleneck(64 * 4 * 4, 16)
        self.memory = Memory() if backbone == "memae" else None
        self.from_z = bottleneck(16, 64 * 4 * 4)
        self.decoder = nn.Sequential(up(64, 64), up(64, 32), up(32, 16))
        channels = 2 if backbone == "aeu" else 1
        self.output = nn.ConvTranspose2d(16, channels, 4, stride=2, padding=1, bias=False)

    def forward(self, x: Tensor) -> Output:
        """Reconstruct images [B, 1, 64, 64] in [-1, 1]."""
        z = self.to_z(self.encoder(x).flatten(1))  # [B, 16]
        remembered, addressing = self.memory(z) if self.memory is not None else (z, None)
        y = self.output(self.decoder(self.from_z(remembered).view(-1, 64, 4, 4)))
        return Output(y[:, :1], y[:, 1:] if self.backbone == "aeu" else None, z, addressing)


# ---------- what is minimised ----------


def hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741 - the paper's symbols
    """How alike two Gram matrices [B, B] are; a number, >= 0."""
    b = len(k)
    h = torch.eye(b, dtype=k.dtype, device=k.device) - 1 / b  # H = I - 11^T / B
    # Eq. (3): HSIC(K, L) = tr(K H L H) / (B - 1)^2
    return torch.trace(k @ h @ l @ h) / (b - 1) ** 2


def linear_cka(p: Tensor, q: Tensor) -> Tensor:
    """Similarity of two features [B, d] in [0, 1], blind to their scale and rotation."""
    k, l = p @ p.T, q @ q.T  # noqa: E741 - Gram matrices: which images a learner finds alike
    # Eq. (2): CKA(P, Q) = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))
    return hsic(k, l) / torch.sqrt(hsic(k, k) * hsic(l, l))


def reconstruction_loss(x: Tensor, output: Output) -> Tensor:
    """L_orig of Eq. (4), a number."""
    error = (x - output.mean).square()
    if output.log_variance is not None:
        # AEU: mean exp(-s) (x - mu)^2 + mean s
        return (torch.exp(-output.log_variance) * error).mean() + output.log_variance.mean()
    if output.addressing is not None:
        # MemAE: mean (x - f)^2 + 2e-4 * mean entropy of the addressing w
        w = output.addressing
        return error.mean() - ENTROPY_WEIGHT * (w * torch.log(w + 1e-12)).sum(1).mean()
    # AE: mean (x - f)^2
    return error.mean()


def repulsion_loss(seniors: Sequence[Autoencoder], x: Tensor, q: Tensor) -> Tensor:
    """L_sim: the mean similarity of a learner's feature Q_n [B, 16] to each senior's; a number."""
    if not seniors:
        return q.new_zeros(())
    with torch.no_grad():
        features = [senior(x).z for senior in seniors]  # P_j
    # Eq. (1): L_sim = 1 / (n - 1) * sum_j CKA(P_j, Q_n)
    return torch.stack([linear_cka(p, q) for p in features]).mean()


# ---------- learner after learner ----------


def train_learner(
    learner: Autoencoder,
    seniors: Sequence[Autoencoder],
    images: Tensor,
    orders: Iterable[Tensor],
    batch_size: int = 64,
) -> Autoencoder:
    """Train one learner, pushed away from those before it.

    Args:
        learner: untrained; it is changed.
        seniors: trained, in evaluation mode.
        images: [n, 1, 64, 64] in [-1, 1], all normal.
        orders: for each epoch, the order in which its images come: int64 [n].
        batch_size: images a step; what is left over at the end of an epoch is dropped.

    Returns:
        The learner, in evaluation mode.
    """
    rate = LEARNING_RATE[learner.backbone]
    adam = torch.optim.Adam(learner.parameters(), lr=rate, betas=(0.5, 0.999))
    learner.train()
    for order in orders:
        for i in range(len(order) // batch_size):
            x = images[order[i * batch_size : (i + 1) * batch_size]]
            output = learner(x)
            # Eq. (4): L_total = L_orig + lambda * L_sim
            loss = reconstruction_loss(x, output)
            loss = loss + REPULSION_WEIGHT * repulsion_loss(seniors, x, output.z)
            adam.zero_grad()
            loss.backward()
            adam.step()
    return learner.eval()


def train_ensemble(
    backbone: str, images: Tensor, n_learners: int = 3, epochs: int = 250
) -> list[Autoencoder]:
    """Train learners one after another on normal images [n, 1, 64, 64] in [-1, 1]."""
    learners: list[Autoencoder] = []
    for _ in range(n_learners):
        orders = (torch.randperm(len(images)) for _ in range(epochs))
        learner = Autoencoder(backbone).to(images.device, images.dtype)
        learners.append(train_learner(learner, learners, images, orders))
    return learners


# ---------- where learners disagree ----------


def ensemble_map(learners: Sequence[Autoencoder], x: Tensor) -> Tensor:
    """Ens: the squared error of the mean reconstruction; x and the map are [B, 1, 64, 64]."""
    f, variance = reconstructions(learners, x)
    return (x - f.mean(0)).square() / variance


def output_map(learners: Sequence[Autoencoder], x: Tensor) -> Tensor:
    """Unc, output-space uncertainty; x and the map are [B, 1, 64, 64]."""
    f, variance = reconstructions(learners, x)
    # Eq. (5): Y = D(f_i(X)), D the standard deviation over the learners
    return torch.std(f, dim=0) / variance.sqrt()


def dual_map(learners: Sequence[Autoencoder], x: Tensor) -> Tensor:
    """DSU, dual-space uncertainty, the paper's D2UE; x and the map are [B, 1, 64, 64]."""
    products = []
    for learner in learners:
        x = x.detach().requires_grad_(True)
        output = learner(x)
        error = output.mean - x
        if output.log_variance is None:
            loss = error.abs().mean((1, 2, 3))  # AE, MemAE: mean |f(X) - X| of each image
        else:
            loss = (torch.exp(-output.log_variance) * error.square()).mean((1, 2, 3))
        (gradient,) = torch.autograd.grad(loss.sum(), x)  # images do not see each other
        products.append((gradient * error.abs()).detach())
    _, variance = reconstructions(learners, x)
    # Eq. (6): Y = D(grad_X L_i (*) |f_i(X) - X|)
    return torch.std(torch.stack(products), dim=0) / variance.sqrt()


def reconstructions(learners: Sequence[Autoencoder], x: Tensor) -> tuple[Tensor, Tensor]:
    """All f_i(X) [N, B, 1, 64, 64], and the variance by which AEU's maps are divided (else 1)."""
    with torch.no_grad():
        outputs = [learner(x) for learner in learners]
    f = torch.stack([output.mean for output in outputs])
    if learners[0].backbone != "aeu":
        return f, torch.ones((), dtype=f.dtype, device=f.device)
    return f, torch.stack([torch.exp(output.log_variance) for output in outputs]).mean(0)


MAPS = {"ensemble": ensemble_map, "output": output_map, "dual": dual_map}


def anomaly_scores(
    learners: Sequence[Autoencoder], images: Tensor, method: str, batch_size: int = 128
) -> Tensor:
    """A score an image, the mean of its map over pixels: [n], higher = more abnormal."""
    batches = images.split(batch_size)
    return torch.cat([MAPS[method](learners, x).mean((1, 2, 3)) for x in batches])
