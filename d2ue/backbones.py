"""The autoencoders of the paper (AE, MemAE, AEU), R independent ones in one module.

Layers at 64 x 64 (released configuration; `B` images, sizes without the replica axis):

| name | layer | output |
|---|---|---|
| en1, en2 | conv 4x4 stride 2 pad 1 without bias, BatchNorm, ReLU | 16x32x32, 32x16x16 |
| en3, en4 | the same | 64x8x8, 64x4x4 |
| z | Linear 1024-2048, BatchNorm, ReLU, Linear 2048-16 | 16 |
| (memory) | MemAE only: z is replaced by a mixture of 25 items | 16 |
| de4 | Linear 16-2048, BatchNorm, ReLU, Linear 2048-1024 | 64x4x4 |
| de3 ... de1 | transposed conv as above, BatchNorm, ReLU | 64x8x8, 32x16x16, 16x32x32 |
| output | transposed conv without bias, nothing after it | 1x64x64 (AEU: 2x64x64) |

Other image sizes add or drop stride-2 layers so that the grid before z stays 4 x 4.

**The replica axis.** Images are [R, B, 1, H, W]; every parameter and BatchNorm statistic has a
leading R. Replica r sees images[r] only and learns as if alone: replicas are groups of one
convolution, entries of one batched matrix product, channels of one BatchNorm. On a CPU, which gains
nothing from computing them together, they go one by one.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from d2ue.config import layer_names
from d2ue.errors import InputError
from d2ue.fast import cpu
from d2ue.fast.steps import precision

LATENT = 16
HIDDEN = 2048
WIDTHS = (16, 32, 64)  # deeper layers stay at the last width
Stream = torch.Generator | None  # None = torch's global one


class Reconstruction(NamedTuple):
    """What a forward pass gives."""

    mean: Tensor  # the reconstruction f(X), [R, B, 1, H, W], in the images' range [-1, 1]
    log_variance: Tensor | None  # AEU's second output s, same shape; None for AE and MemAE
    feature: Tensor | None  # the asked-for layer's output, [R, B, d]
    addressing: Tensor | None  # MemAE's shrunk weights over the memory, [R, B, slots]


class Autoencoder(nn.Module):
    """R autoencoders of one architecture.

    Args:
        backbone: "ae", "memae" or "aeu".
        replicas: R.
        image_size: pixels a side, a power of two >= 16.
        memory_slots: items in MemAE's memory.
        shrinkage: threshold below which MemAE's addressing weights become 0.
        generator: where initial weights are drawn from, one layer of all replicas after another;
            `stack` joins replicas of separate streams.
    """

    def __init__(
        self,
        backbone: str = "ae",
        replicas: int = 1,
        image_size: int = 64,
        memory_slots: int = 25,
        shrinkage: float = 0.0025,
        generator: Stream = None,
    ) -> None:
        super().__init__()
        self.settings = (backbone, image_size, memory_slots, shrinkage)
        self.backbone, self.replicas, self.image_size = backbone, replicas, image_size
        self.layers = layer_names(image_size)
        depth = len(self.layers) // 2
        self.grid = image_size >> depth
        widths = [WIDTHS[min(i, len(WIDTHS) - 1)] for i in range(depth)]
        flat = widths[-1] * self.grid**2

        def blocks(kind: type[_Conv], channels: list[int]) -> nn.ModuleList:
            pairs = pairwise(channels)
            return nn.ModuleList(_ConvBlock(kind, replicas, a, b, generator) for a, b in pairs)

        # Weights are drawn as layers are made, in PyTorch's order.
        self.encoder = blocks(_Conv, [1, *widths])
        self.to_latent = _Bottleneck(replicas, flat, LATENT, generator)
        remembers = backbone == "memae"
        self.memory = _Memory(replicas, memory_slots, shrinkage, generator) if remembers else None
        self.from_latent = _Bottleneck(replicas, LATENT, flat, generator)
        self.decoder = blocks(_ConvTranspose, widths[::-1])
        outputs = 2 if backbone == "aeu" else 1
        self.output = _ConvTranspose(replicas, widths[0], outputs, generator)

    def forward(self, images: Tensor, feature: str | None = None) -> Reconstruction:
        """Reconstruct, and hand out one layer's feature on the way.

        Args:
            images: [R, B, 1, H, W] in [-1, 1].
            feature: a name of `self.layers`, or None.

        Raises:
            InputError: if the images' shape is not the network's, or the layer is unknown.
        """
        r, size = self.replicas, self.image_size
        if images.ndim != 5 or images.shape[0] != r or images.shape[2:] != (1, size, size):
            raise InputError(
                f"This network takes images of shape ({r}, B, 1, {size}, {size}), "
                f"not {tuple(images.shape)}: resize them to {size} x {size}."
            )
        if feature is not None and feature not in self.layers:
            raise InputError(f"layer must be one of {', '.join(self.layers)}, not {feature!r}.")
        if r > 1 and cpu.applies(images):
            return self._one_by_one(images, feature)
        return self._together(images, feature)

    def _one_by_one(self, images: Tensor, feature: str | None) -> Reconstruction:
        """The forward pass of each replica alone, joined.

        On a CPU one alone fits the cache, and the gradient by the weights of a grouped convolution
        has no fast kernel on every processor: it was seen to take a hundred times as long.
        """
        alone = _skeleton(self.settings, threading.get_ident()).train(self.training)
        tensors = {name: v.split(1) for name, v in self.state_dict(keep_vars=True).items()}
        parts = []
        for i in range(self.replicas):
            state = {name: by_replica[i] for name, by_replica in tensors.items()}
            parts.append(functional_call(alone, state, (images[i : i + 1], feature)))
        joined = (None if part[0] is None else torch.cat(part) for part in zip(*parts, strict=True))
        return Reconstruction(*joined)  # type: ignore[arg-type]

    def _together(self, images: Tensor, feature: str | None) -> Reconstruction:
        """The forward pass of all replicas in the same operations."""
        r, size = self.replicas, self.image_size
        batch, depth = images.shape[1], len(self.encoder)
        kept: Tensor | None = None

        def keep(name: str, value: Tensor) -> None:
            nonlocal kept
            if name == feature:  # [B, R * C, h, w] or [R, B, d] -> [R, B, d]
                kept = _to_vectors(value, r) if value.ndim == 4 else value

        x = cpu.channels_last(images.transpose(0, 1).reshape(batch, r, size, size))
        for i, block in enumerate(self.encoder, 1):
            x = block(x)
            keep(f"en{i}", x)
        z = self.to_latent(_to_vectors(x, r))
        keep("z", z)
        addressing = None
        if self.memory is not None:
            z, addressing = self.memory(z)
        h = self.from_latent(z)
        keep(f"de{depth}", h)
        x = cpu.channels_last(h.transpose(0, 1).reshape(batch, -1, self.grid, self.grid))
        for i, block in zip(range(depth - 1, 0, -1), self.decoder, strict=True):
            x = block(x)
            keep(f"de{i}", x)
        out = self.output(x).reshape(batch, r, -1, size, size).transpose(0, 1)
        log_variance = out[:, :, 1:] if self.backbone == "aeu" else None
        return Reconstruction(out[:, :, :1], log_variance, kept, addressing)

    def replica(self, index: int) -> Autoencoder:
        """Replica `index` alone, as an R = 1 network with its own memory."""
        state = {k: v[index : index + 1].clone() for k, v in self.state_dict().items()}
        return _from_state(state, self)


def stack(networks: Sequence[Autoencoder]) -> Autoencoder:
    """Several networks of one architecture as the replicas of one, in order.

    Raises:
        InputError: if there is none, or the architectures differ.
    """
    if not networks or len({n.settings for n in networks}) > 1:
        raise InputError("Only networks of one architecture can be stacked, and at least one.")
    states = [n.state_dict() for n in networks]
    return _from_state({k: torch.cat([s[k] for s in states]) for k in states[0]}, networks[0])


def _without_data(settings: tuple[str, int, int, float], replicas: int = 1) -> Autoencoder:
    """A network of these `Autoencoder.settings` whose tensors have shapes and no values."""
    with torch.device("meta"):
        return Autoencoder(settings[0], replicas, *settings[1:])


@functools.cache
def _skeleton(settings: tuple[str, int, int, float], thread: int) -> Autoencoder:
    """An R = 1 network to be called with another's tensors; each thread has its own."""
    return _without_data(settings)


def _from_state(state: dict[str, Tensor], like: Autoencoder) -> Autoencoder:
    """A network that has these tensors for its own; none is copied, and no weights are drawn."""
    network = _without_data(like.settings, len(state["output.weight"]))
    network.load_state_dict(state, assign=True)
    return network.train(like.training)


def _to_vectors(x: Tensor, replicas: int) -> Tensor:
    """[B, R * C, h, w] -> [R, B, C * h * w], each image's values in the order of flatten()."""
    return x.reshape(len(x), replicas, -1).transpose(0, 1)


def _drawn(shape: tuple[int, ...], fan_in: int, generator: Stream) -> nn.Parameter:
    """PyTorch's default for weights and biases alike: uniform in +-1 / sqrt(fan_in)."""
    bound = 1 / math.sqrt(fan_in)
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound, generator=generator))


class _Conv(nn.Module):
    """Convolution 4x4, stride 2, padding 1, no bias: halves height and width."""

    def __init__(self, replicas: int, inputs: int, outputs: int, generator: Stream) -> None:
        super().__init__()
        self.weight = _drawn((replicas, outputs, inputs, 4, 4), 16 * inputs, generator)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.flatten(0, 1)
        if cpu.is_narrow(x, self.weight) and not torch.is_autocast_enabled("cpu"):
            return cpu.CpuConv.apply(x, weight)
        return F.conv2d(x, weight, stride=2, padding=1, groups=len(self.weight))


class _ConvTranspose(_Conv):
    """Transposed convolution 4x4, stride 2, padding 1, no bias: doubles height and width."""

    def __init__(self, replicas: int, inputs: int, outputs: int, generator: Stream) -> None:
        # PyTorch shapes the weights, and counts their fan-in, as those of the reverse convolution.
        super().__init__(replicas, outputs, inputs, generator)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.flatten(0, 1)
        if cpu.is_narrow(x, self.weight):
            return cpu.CpuConvTranspose.apply(x, weight)
        return F.conv_transpose2d(x, weight, stride=2, padding=1, groups=len(self.weight))


class _BatchNorm(nn.Module):
    """BatchNorm over R * C channels, as torch.nn.BatchNorm2d has it (eps 1e-5, momentum 0.1)."""

    def __init__(self, replicas: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(replicas, channels))
        self.bias = nn.Parameter(torch.zeros(replicas, channels))
        self.running_mean = nn.Buffer(torch.zeros(replicas, channels))
        self.running_var = nn.Buffer(torch.ones(replicas, channels))

    def forward(self, x: Tensor) -> Tensor:
        """`x` is [B, R * C, ...]."""
        statistics = self.running_mean.view(-1), self.running_var.view(-1)
        affine = self.weight.view(-1), self.bias.view(-1)
        return F.batch_norm(x, *statistics, *affine, self.training)


class _ConvBlock(nn.Module):
    """(Transposed) convolution, BatchNorm, ReLU."""

    def __init__(
        self, kind: type[_Conv], replicas: int, inputs: int, outputs: int, generator: Stream
    ) -> None:
        super().__init__()
        self.conv = kind(replicas, inputs, outputs, generator)
        self.norm = _BatchNorm(replicas, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


class _Linear(nn.Module):
    """R linear maps [R, B, inputs] -> [R, B, outputs], with bias."""

    def __init__(self, replicas: int, inputs: int, outputs: int, generator: Stream) -> None:
        super().__init__()
        self.weight = _drawn((replicas, outputs, inputs), inputs, generator)
        self.bias = _drawn((replicas, outputs), inputs, generator)

    def forward(self, x: Tensor) -> Tensor:
        tensors: tuple[Tensor, ...] = x, self.weight, self.bias
        if cpu.applies(x) and self.weight.dtype == torch.float32:  # no gradient by Wᵀ is copied
            if torch.is_autocast_enabled("cpu"):
                half = torch.get_autocast_dtype("cpu")
                tensors = tuple(tensor.to(half) for tensor in tensors)
            return cpu.CpuLinear.apply(*tensors)
        return torch.bmm(self.weight, x.mT).mT + self.bias.unsqueeze(1)


class _Bottleneck(nn.Module):
    """Linear to 2048, BatchNorm, ReLU, Linear."""

    def __init__(self, replicas: int, inputs: int, outputs: int, generator: Stream) -> None:
        super().__init__()
        self.widen = _Linear(replicas, inputs, HIDDEN, generator)
        self.norm = _BatchNorm(replicas, HIDDEN)
        self.narrow = _Linear(replicas, HIDDEN, outputs, generator)

    def forward(self, x: Tensor) -> Tensor:
        h = self.widen(x)  # [R, B, 2048]; BatchNorm wants [B, R * 2048]
        h = F.relu(self.norm(h.transpose(0, 1).flatten(1)))
        return self.narrow(h.unflatten(1, (len(x), HIDDEN)).transpose(0, 1))


class _Memory(nn.Module):
    """MemAE's memory (Gong et al., ICCV 2019): z becomes a sparse mixture of learned items."""

    def __init__(self, replicas: int, slots: int, shrinkage: float, generator: Stream) -> None:
        super().__init__()
        self.shrinkage = shrinkage
        self.items = _drawn((replicas, slots, LATENT), LATENT, generator)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mixture [R, B, 16] and addressing weights [R, B, slots], which sum to 1 an image."""
        weights = torch.softmax(z @ self.items.mT, -1)
        # Asked this way round, NaN stays NaN: a learner that diverged must not look sound.
        weights = torch.where(weights <= self.shrinkage, 0.0, weights)
        weights = F.normalize(weights, p=1, dim=-1)
        return weights @ self.items, weights


def forward(network: Autoencoder, x: Tensor, feature: str | None = None) -> Reconstruction:
    """Every replica's output for the same images [B, 1, H, W], without gradients."""
    with torch.no_grad(), precision("float32", x.device):
        return network(x.expand(network.replicas, *x.shape), feature)


def features_of(network: Autoencoder, batches: Iterator[Tensor], layer: str) -> Tensor:
    """Every replica's feature of every image, [R, n, d] on the CPU."""
    parts: list[Tensor] = []
    for x in batches:
        feature = forward(network, x, layer).feature
        assert feature is not None
        parts.append(feature.cpu())
    return torch.cat(parts, 1)


def as_tensor(images: np.ndarray | Tensor) -> Tensor:
    """Pixels as a tensor; shares memory where the array may be written to, else copies."""
    return images if isinstance(images, Tensor) else torch.from_numpy(np.require(images, None, "W"))


def to_unit_range(pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 0 ... 255 to [-1, 1], the published scaling."""
    return pixels.to(dtype).div_(127.5).sub_(1)
