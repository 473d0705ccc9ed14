"""Multi-ST, read as multiresolution knowledge distillation.

Salehi et al.: Multiresolution knowledge distillation for anomaly detection, CVPR 2021.

Which method the paper's Table 1 calls Multi-ST is our inference from its reference list.

A small network, the cloner, learns a frozen teacher's activations at four scales on normal images.
On anomalies the two disagree in direction and in value; the disagreement at the last three scales
is the score. Facts by the released code (rohban-lab/Knowledge_Distillation_AD), which weights the
value term where the paper weights the direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2ue.baselines import teachers
from d2ue.baselines.blocks import Job, batches, conv, cosine_distance, seeded, smooth


@dataclass(frozen=True)
class Preset:
    """How it is trained: the released code's settings, or ours for a laptop."""

    image_size: int
    teacher: str
    value_weight: float | None  # lambda; None = both terms alike on the untrained cloner
    epochs: int = 200
    batch_size: int = 64
    learning_rate: float = 1e-3  # Adam's; no schedule


#: Size and range of the pixels are the code's for retinal OCT, lambda and epochs for CIFAR-10,
#: which a medical benchmark kept too; the code has no settings for the paper's sets.
PRESETS = {"published": Preset(128, "vgg16", 0.01), "small": Preset(64, "lite0", None)}
#: Widths of the cloner's convolutions before the last of each of its five parts ("B" in the code).
_WIDTHS = ((16,), (16,), (16, 16), (16, 16), (16, 16))


class Cloner(nn.Module):
    """Convolutions 3 x 3 with BatchNorm and ReLU, and five max-pools; the teacher's shapes."""

    def __init__(self, channels: Sequence[int], signed: bool) -> None:
        super().__init__()
        self.parts = nn.ModuleList()
        inputs = 3
        for widths, outputs in zip(_WIDTHS, (16, *channels), strict=True):
            layers: list[nn.Module] = []
            for width in widths:
                layers += [conv(inputs, width), nn.BatchNorm2d(width), nn.ReLU()]
                inputs = width
            # Before a pool there is no BatchNorm; a ReLU cannot give signed features.
            layers += [conv(inputs, outputs), *([] if signed else [nn.ReLU()]), nn.MaxPool2d(2)]
            self.parts.append(nn.Sequential(*layers))
            inputs = outputs
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[B, 3, H, W] in [0, 1] to four features, at 1/4 to 1/32."""
        features = []
        for part in self.parts:
            x = part(x)
            features.append(x)
        return features[1:]


class MultiST(nn.Module):
    """A frozen teacher, its cloner, and the weight of the value term."""

    def __init__(self, preset: Preset, teacher: nn.Module | None = None) -> None:
        super().__init__()
        name = preset.teacher
        self.teacher = teacher or teachers.build(name)
        self.cloner = Cloner(teachers.CHANNELS[name], signed=name == "lite0")
        self.value_weight: Tensor
        self.register_buffer("value_weight", torch.tensor(1.0))


def _cloned(model: MultiST, pixels: Tensor) -> list[Tensor]:
    x = pixels.to(model.value_weight.device, torch.float32)
    return model.cloner(x.expand(-1, 3, -1, -1) / 255)


def direction(teacher: list[Tensor], student: list[Tensor]) -> Tensor:
    """Sum over levels of 1 - cos of whole features: [B], 0 to 2 a level."""
    pairs = zip(teacher, student, strict=True)
    return torch.stack([cosine_distance(t.flatten(1), s.flatten(1)) for t, s in pairs]).sum(0)


def value(teacher: list[Tensor], student: list[Tensor]) -> Tensor:
    """Sum over levels of the mean squared difference: [B]."""
    pairs = zip(teacher, student, strict=True)
    return torch.stack([(t - s).square().flatten(1).mean(1) for t, s in pairs]).sum(0)


#: What is trained, from a preset: with weights of its own until it is.
NETWORK = MultiST
#: Names of its scores; the first is the method's own.
SCORES = ("score", "direction")


def train(images: Tensor, preset: Preset, job: Job) -> MultiST:
    """Train on normal images; arguments and errors as of `d2ue.baselines.rdad.train`."""
    teacher = teachers.load(preset.teacher).to(job.device)
    known = teachers.features(teacher, images, 4)
    with seeded(job.seed) as generator:
        model = MultiST(preset, teacher).to(job.device)
    model.value_weight.fill_(_weight(model, images, known, preset))
    adam = torch.optim.Adam(model.cloner.parameters(), preset.learning_rate)
    for _ in job.epochs(preset.epochs, model=model, adam=adam, generator=generator):
        model.cloner.train()
        for index in batches(len(images), preset.batch_size, generator):
            target = [level[index].to(job.device) for level in known]
            student = _cloned(model, images[index])
            terms = direction(target, student) + model.value_weight * value(target, student)
            adam.zero_grad()
            terms.mean().backward()
            adam.step()
    return model.eval()


@torch.no_grad()
def _weight(model: MultiST, images: Tensor, known: list[Tensor], preset: Preset) -> float:
    if preset.value_weight is not None:
        return preset.value_weight
    first = slice(0, preset.batch_size)
    student = [f.cpu() for f in _cloned(model.eval(), images[first])]
    target = [level[first] for level in known]
    return float(direction(target, student).mean() / value(target, student).mean())


@torch.no_grad()
def score(model: MultiST, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Scores of images, higher = more abnormal.

    Returns:
        By name float32 [n]: "score", direction and weighted value at the last three levels (the
        method's), and "direction" alone; and maps, float32 [n, H, W]: 1 - cos at each place, summed
        over these levels and smoothed. The paper takes gradients for its maps instead.
    """
    scores, directions, maps = [], [], []
    side = images.shape[-1]
    for x in images.split(64):
        target = teachers.features(model.teacher, x, 4)[1:]
        student = [f.cpu() for f in _cloned(model, x)[1:]]
        directions.append(direction(target, student))
        scores.append(directions[-1] + model.value_weight.cpu() * value(target, student))
        total = torch.zeros(len(x), side, side)
        for t, s in zip(target, student, strict=True):
            at_each = cosine_distance(t, s).unsqueeze(1)
            total += F.interpolate(at_each, size=side, mode="bilinear", align_corners=True)[:, 0]
        maps.append(smooth(total))
    return {"score": torch.cat(scores), "direction": torch.cat(directions)}, torch.cat(maps)
