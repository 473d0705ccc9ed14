"""What several methods share: residual blocks, epochs that can be stopped, smoothing of maps."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2ue.errors import InputError

#: Least seconds between two states of a training.
STATE_INTERVAL = 60.0


@dataclass(frozen=True)
class Job:
    """One training, whatever the method.

    Attributes:
        seed: of initial weights, shuffles and whatever else is drawn.
        device: where.
        keep: file for the state of the training, which is taken up where it is there; None = none.
        report: called after every epoch with 1, and at the beginning with those of the state.
    """

    seed: int = 0
    device: str = "cpu"
    keep: Path | None = None
    report: Callable[[int], None] = lambda epochs: None

    def epochs(self, count: int, **parts: Any) -> Iterator[int]:
        """Numbers of the epochs still to do, from 0; a stopped training gives the same bits.

        Args:
            count: all epochs.
            parts: all that training changes: networks, optimisers, schedules, generators.
        """
        done = 0
        if self.keep is not None and self.keep.exists():
            state = None
            with contextlib.suppress(Exception):  # whatever a damaged file leads to: begun anew
                state = torch.load(self.keep, map_location="cpu", weights_only=True)
            if state is not None:
                done = state["epochs"]
                for name, part in parts.items():
                    is_generator = isinstance(part, torch.Generator)
                    (part.set_state if is_generator else part.load_state_dict)(state[name])
        if done:
            self.report(done)
        last = time.monotonic()
        for epoch in range(done, count):
            yield epoch
            self.report(1)
            if self.keep is not None and time.monotonic() - last >= STATE_INTERVAL:
                state = {
                    name: part.get_state()
                    if isinstance(part, torch.Generator)
                    else part.state_dict()
                    for name, part in parts.items()
                }
                self.keep.parent.mkdir(parents=True, exist_ok=True)
                beside = self.keep.with_name(f"{self.keep.name}.{os.getpid()}")
                torch.save({**state, "epochs": epoch + 1}, beside)
                os.replace(beside, self.keep)
                last = time.monotonic()


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


class PreResidual(nn.Module):
    """A residual block with norm and ReLU before its convolutions, as in Wasserstein GANs.

    Gulrajani et al., Improved training of Wasserstein GANs, 2017: nearest upsampling and mean
    pooling change the size; nothing follows the sum.

    Args:
        inputs, outputs: channels.
        step: "down" or "up".
        norm: makes a norm for so many channels at so many pixels a side.
        side: pixels a side of what comes in.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        step: str,
        norm: Callable[[int, int], nn.Module],
        side: int,
    ) -> None:
        super().__init__()
        up = step == "up"
        middle, later = (outputs, 2 * side) if up else (inputs, side)
        self.norm1, self.norm2 = norm(inputs, side), norm(middle, later)
        self.conv1 = conv(inputs, middle)
        self.conv2 = nn.Conv2d(middle, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1)
        self.grow = nn.Upsample(scale_factor=2) if up else nn.Identity()
        self.shrink = nn.Identity() if up else nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, outputs, 2 H, 2 W], or half as many pixels a side."""
        y = self.conv1(self.grow(F.relu(self.norm1(x))))
        y = self.shrink(self.conv2(F.relu(self.norm2(y))))
        return y + self.shortcut(self.shrink(self.grow(x)))


def channels_last(network: nn.Module) -> None:
    """Lay weights of convolutions out with channels last, which CPUs compute faster.

    Done where a network is made, so that one that is loaded computes the same bits.
    """
    for weight in network.parameters():
        if weight.dim() == 4:
            weight.data = weight.data.clone(memory_format=torch.channels_last)


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


def flipped(x: Tensor, generator: torch.Generator) -> Tensor:
    """Images [B, C, H, W], each mirrored left to right with probability a half."""
    which = torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5
    return torch.where(which, x.flip(-1), x)


def smooth(maps: Tensor) -> Tensor:
    """Maps [n, H, W] under a Gaussian of sigma 4 pixels of 256, in proportion at other sizes."""
    from scipy.ndimage import gaussian_filter

    sigma = 4 * maps.shape[-1] / 256
    return torch.from_numpy(np.stack([gaussian_filter(m, sigma) for m in maps.numpy()]))


def cosine_distance(a: Tensor, b: Tensor, dim: int = 1) -> Tensor:
    """1 - cos along a dimension: 0 for one direction, 2 for opposite ones."""
    return 1 - F.cosine_similarity(a, b, dim)
