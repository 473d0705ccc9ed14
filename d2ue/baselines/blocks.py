"""What several methods share: ResNet's residual block, batches, Gaussian smoothing of maps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2ue.errors import InputError


def conv(inputs: int, outputs: int, side: int = 3, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the size but for its stride."""
    return nn.Conv2d(inputs, outputs, side, stride, side // 2, bias=False)


def _step(inputs: int, outputs: int, step: str, side: int = 3) -> nn.Module:
    """A convolution that keeps the size ("same"), halves it ("down") or doubles it ("up")."""
    if step == "up":
        return nn.ConvTranspose2d(inputs, outputs, 2, 2, bias=False)
    return conv(inputs, outputs, side, 2 if step == "down" else 1)


class Residual(nn.Module):
    """ResNet's block, with torchvision's names: two convolutions, or three around a narrow one.

    He et al., Deep residual learning, CVPR 2016. `up` takes transposed convolutions 2 x 2 where
    `down` has stride 2, as reverse distillation does.

    Args:
        inputs, outputs: channels.
        step: "same", "down" or "up".
        wide: the bottleneck block of Wide-ResNet-50-2, whose middle has outputs / 2 channels.
    """

    def __init__(self, inputs: int, outputs: int, step: str = "same", wide: bool = False) -> None:
        super().__init__()
        self.wide = wide
        middle = outputs // 2 if wide else outputs
        if wide:
            self.conv1: nn.Module = conv(inputs, middle, 1)
            self.conv2: nn.Module = _step(middle, middle, step)
            self.conv3 = conv(middle, outputs, 1)
            self.bn3 = nn.BatchNorm2d(outputs)
        else:
            self.conv1 = _step(inputs, middle, step)
            self.conv2 = conv(middle, outputs)
        self.bn1, self.bn2 = nn.BatchNorm2d(middle), nn.BatchNorm2d(middle)
        self.downsample = nn.Sequential()
        if step != "same" or inputs != outputs:
            self.downsample.append(_step(inputs, outputs, step, side=1))
            self.downsample.append(nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, outputs, H', W'], after a ReLU."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.wide:
            y = self.bn3(self.conv3(F.relu(y)))
        return F.relu(y + self.downsample(x))


def kaiming(network: nn.Module) -> None:
    """Initial convolutions normal by fan-out; transposed ones keep PyTorch's (they are none)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[torch.Generator]:
    """Initial weights by a seed, the caller's own stream left alone; a generator of shuffles."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield torch.Generator().manual_seed(seed)


def batches(n: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """One epoch of shuffled positions; the last partial batch is dropped, for BatchNorm's sake.

    Raises:
        InputError: if there are fewer images than a batch.
    """
    if n < size:
        raise InputError(f"{n} training images do not fill a batch of {size}: give more.")
    yield from torch.randperm(n, generator=generator)[: n - n % size].split(size)


def smooth(maps: Tensor) -> Tensor:
    """Maps [n, H, W] under a Gaussian of sigma 4 pixels of 256, in proportion at other sizes."""
    from scipy.ndimage import gaussian_filter

    sigma = 4 * maps.shape[-1] / 256
    return torch.from_numpy(np.stack([gaussian_filter(m, sigma) for m in maps.numpy()]))


def cosine_distance(a: Tensor, b: Tensor, dim: int = 1) -> Tensor:
    """1 - cos along a dimension: 0 for one direction, 2 for opposite ones."""
    return 1 - F.cosine_similarity(a, b, dim)
