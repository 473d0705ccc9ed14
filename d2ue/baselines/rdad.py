"""RDAD, reverse distillation.

Deng and Li: Anomaly detection via reverse distillation from one-class embedding, CVPR 2022.

A frozen teacher gives three feature maps of an image. A bottleneck fuses them into a small code; a
decoder, the teacher's mirror image, regenerates the three maps from it. Trained on normal images
alone, it regenerates what it knows: where the two differ in direction, there is the anomaly.

Facts by the released code (hq-deng/RD4AD, MIT), where it differs from the paper: the loss takes the
cosine of whole flattened maps, not place by place.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2ue.baselines import teachers
from d2ue.baselines.blocks import (
    Job,
    Residual,
    batches,
    conv,
    cosine_distance,
    kaiming,
    seeded,
    smooth,
)


@dataclass(frozen=True)
class Preset:
    """How it is trained: the released code's settings, or ours for a laptop."""

    image_size: int
    teacher: str
    epochs: int = 200
    batch_size: int = 16
    learning_rate: float = 5e-3  # Adam's, with betas 0.5 and 0.999; no schedule


PRESETS = {"published": Preset(256, "wide-resnet50"), "small": Preset(64, "lite0")}


def _reduce(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(conv(inputs, outputs, stride=2), nn.BatchNorm2d(outputs), nn.ReLU())


class ReverseDistillation(nn.Module):
    """Bottleneck and decoder behind a frozen teacher."""

    def __init__(self, preset: Preset, teacher: nn.Module | None = None) -> None:
        super().__init__()
        name = preset.teacher
        self.teacher = teacher or teachers.build(name)
        wide = name == "wide-resnet50"
        c1, c2, c3 = teachers.CHANNELS[name][:3]
        code = 2 * c3
        # All three at the scale of the deepest, side by side.
        self.first = nn.Sequential(_reduce(c1, c2), _reduce(c2, c3))
        self.second = _reduce(c2, c3)
        self.bottleneck = nn.Sequential(
            Residual(3 * c3, code, "down", wide),
            *(Residual(code, code, wide=wide) for _ in range(2 if wide else 1)),
        )
        self.stages, self.heads = nn.ModuleList(), nn.ModuleList()
        inputs = code
        for outputs, count in zip((c3, c2, c1), (3, 4, 6) if wide else (2, 2, 2), strict=True):
            rest = (Residual(outputs, outputs, wide=wide) for _ in range(count - 1))
            self.stages.append(nn.Sequential(Residual(inputs, outputs, "up", wide), *rest))
            # A ReLU cannot give the signed features of this teacher.
            self.heads.append(nn.Conv2d(outputs, outputs, 1) if name == "lite0" else nn.Identity())
            inputs = outputs
        for part in (self.first, self.second, self.bottleneck, self.stages, self.heads):
            kaiming(part)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """The teacher's three maps, [B, C, h, w] each, regenerated; in the same order."""
        f1, f2, f3 = features
        x = self.bottleneck(torch.cat([self.first(f1), self.second(f2), f3], 1))
        regenerated: list[Tensor] = []
        for stage, head in zip(self.stages, self.heads, strict=True):
            x = stage(x)
            regenerated.insert(0, head(x))
        return regenerated


def loss(teacher: list[Tensor], student: list[Tensor]) -> Tensor:
    """Sum over levels of the mean over images of 1 - cos of whole maps; 0 to 6 for three."""
    pairs = zip(teacher, student, strict=True)
    return torch.stack([cosine_distance(t.flatten(1), s.flatten(1)).mean() for t, s in pairs]).sum()


def anomaly_map(teacher: list[Tensor], student: list[Tensor], side: int) -> Tensor:
    """Sum over levels of 1 - cos at each place, at the images' size and smoothed: [n, H, W]."""
    total = torch.zeros(len(teacher[0]), side, side)
    for t, s in zip(teacher, student, strict=True):
        at_each = cosine_distance(t, s).unsqueeze(1)
        total += F.interpolate(at_each, size=side, mode="bilinear", align_corners=True)[:, 0]
    return smooth(total)


#: What is trained, from a preset: with weights of its own until it is.
NETWORK = ReverseDistillation
#: Names of its scores; the first is the method's own.
SCORES = ("score", "mean")


def train(images: Tensor, preset: Preset, job: Job) -> ReverseDistillation:
    """Train on normal images; the last epoch's network is taken.

    Args:
        images: uint8 [n, 1, H, W].
        preset: one of `PRESETS`, or changed.
        job: seed, device, where its state is kept, and who is told of epochs.

    Raises:
        InputError: if there is no teacher, or less than one batch of images.
    """
    teacher = teachers.load(preset.teacher).to(job.device)
    known = teachers.features(teacher, images, 3)  # no augmentation: computed once is exact
    with seeded(job.seed) as generator:
        model = ReverseDistillation(preset, teacher).to(job.device)
    trained = [p for p in model.parameters() if p.requires_grad]
    adam = torch.optim.Adam(trained, preset.learning_rate, betas=(0.5, 0.999))
    for _ in job.epochs(preset.epochs, model=model, adam=adam, generator=generator):
        model.train()
        teacher.eval()
        for index in batches(len(images), preset.batch_size, generator):
            target = [level[index].to(job.device) for level in known]
            adam.zero_grad()
            loss(target, model(target)).backward()
            adam.step()
    return model.eval()


@torch.no_grad()
def score(model: ReverseDistillation, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Scores of images, higher = more abnormal.

    Args:
        model: trained.
        images: uint8 [n, 1, H, W].

    Returns:
        By name float32 [n]: "score", the maximum of the map (the method's), and "mean"; and the
        maps, float32 [n, H, W], 0 to 6.
    """
    device = next(model.parameters()).device
    maps = []
    for x in images.split(64):
        target = teachers.features(model.teacher, x, 3)
        student = [f.cpu() for f in model([f.to(device) for f in target])]
        maps.append(anomaly_map(target, student, images.shape[-1]))
    whole = torch.cat(maps)
    return {"score": whole.amax((1, 2)), "mean": whole.mean((1, 2))}, whole
