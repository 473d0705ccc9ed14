"""DeSTSeg: a student that undoes damage in a teacher's features, and a network that finds it.

Zhang et al.: DeSTSeg: segmentation guided denoising student-teacher for anomaly detection, CVPR
2023.

Normal images get patches of texture where Perlin noise is high. A student sees the damaged image
and has to give the features that a frozen teacher has of the clean one. Then, both frozen, a
segmentation network learns from where the two agree which pixels were damaged; its output is the
anomaly map. The image score is the mean of its largest values.

Facts by the released code (apple/ml-destseg). Its textures are a set of photographs; ours are other
training images, turned, inverted and cut, which changes what is learnt. Dilations and the number of
largest values are in proportion to the image's side and area (there 256 pixels a side).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2ue.baselines import teachers
from d2ue.baselines.blocks import Job, Residual, batches, cosine_distance, kaiming, seeded


@dataclass(frozen=True)
class Preset:
    """How it is trained: the released code's settings, or ours for a laptop."""

    image_size: int
    teacher: str
    epochs: int  # of both parts
    student_share: float  # the first ones, which train the student
    batch_size: int = 32


#: Published: 1000 and 4000 steps of 32 images; small: 1000 and 1500 of 16. At 1000 images.
PRESETS = {
    "published": Preset(256, "resnet18", 161, 0.2),
    "small": Preset(64, "lite0", 40, 0.4, batch_size=16),
}
#: Share of the image's pixels whose mean is the score.
_LARGEST = 100 / 256**2


class Student(nn.Module):
    """A ResNet-18 and, back from its deepest feature, three maps like the teacher's."""

    def __init__(self, channels: tuple[int, ...], is_signed: bool) -> None:
        super().__init__()
        self.encoder = teachers.ResNet(wide=False)
        kaiming(self.encoder)
        for block in self.encoder.modules():
            if isinstance(block, Residual):
                nn.init.zeros_(block.bn2.weight)  # each block begins as its shortcut
        self.stages, self.heads = nn.ModuleList(), nn.ModuleList()
        inputs = 512
        for outputs in (512, *reversed(channels)):
            self.stages.append(nn.Sequential(Residual(inputs, outputs), Residual(outputs, outputs)))
            # A ReLU cannot give signed features.
            head = nn.Conv2d(outputs, outputs, 1) if is_signed else nn.Identity()
            self.heads.append(nn.Identity() if outputs == 512 else head)
            inputs = outputs
        for part in (self.stages, self.heads):
            kaiming(part)

    def forward(self, x: Tensor) -> list[Tensor]:
        """RGB 0 ... 255 to three maps, at 1/4, 1/8 and 1/16."""
        *shallow, x = self.encoder(x)
        x = self.stages[0](x)
        found: list[Tensor] = []
        for stage, head, like in zip(self.stages[1:], self.heads[1:], shallow[::-1], strict=True):
            x = stage(F.interpolate(x, size=like.shape[2:], mode="bilinear"))
            found.insert(0, head(x))
        return found


def _conv_norm(inputs: int, outputs: int, dilation: int = 1, side: int = 3) -> nn.Sequential:
    layer = nn.Conv2d(
        inputs, outputs, side, padding=side // 2 * dilation, dilation=dilation, bias=False
    )
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


class Segmentation(nn.Module):
    """Where teacher and student agree, [B, C, h, w], to logits of damage, [B, 1, h, w]."""

    def __init__(self, inputs: int, image_size: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Residual(inputs, 256), Residual(256, 256))
        self.whole = _conv_norm(256, 256, side=1)
        dilations = [max(1, round(d * image_size / 256)) for d in (6, 12, 18)]
        self.dilated = nn.ModuleList(_conv_norm(256, 256, d) for d in dilations)
        last = nn.Conv2d(256, 1, 1)
        self.head = nn.Sequential(_conv_norm(1024, 256), _conv_norm(256, 256), last)
        kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        """Blocks, then a pyramid of views: the whole image and three widths."""
        x = self.blocks(x)
        whole = self.whole(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
        return self.head(torch.cat([whole, *(layer(x) for layer in self.dilated)], 1))


class DeSTSeg(nn.Module):
    """Teacher, student and segmentation."""

    def __init__(self, preset: Preset, teacher: nn.Module | None = None) -> None:
        super().__init__()
        channels = teachers.CHANNELS[preset.teacher][:3]
        self.teacher = teacher or teachers.build(preset.teacher)
        self.student = Student(channels, is_signed=preset.teacher == "lite0")
        self.segmentation = Segmentation(sum(channels), preset.image_size)

    def both(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Grey 0 ... 255, [B, 1, H, W], to the teacher's three features and the student's."""
        rgb = x.expand(-1, 3, -1, -1)
        with torch.no_grad():
            known = self.teacher(rgb)[:3]
        return known, self.student(rgb)

    def found(self, known: list[Tensor], student: list[Tensor]) -> Tensor:
        """Logits of damage, [B, 1, H / 4, W / 4]."""
        side = known[0].shape[2:]
        agree = [
            F.interpolate(-F.normalize(t) * F.normalize(s), size=side, mode="bilinear")
            for t, s in zip(known, student, strict=True)
        ]
        return self.segmentation(torch.cat(agree, 1))


def student_loss(known: list[Tensor], student: list[Tensor]) -> Tensor:
    """Sum over levels of the mean over places of 1 - cos: [B], 0 to 6."""
    pairs = zip(known, student, strict=True)
    return torch.stack([cosine_distance(t, s).mean((1, 2)) for t, s in pairs]).sum(0)


def segmentation_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Focal loss (gamma 4) and L1 of the found shares, means over everything."""
    p = logits.sigmoid()
    right = torch.where(mask > 0.5, p, 1 - p)
    log_right = F.logsigmoid(torch.where(mask > 0.5, logits, -logits))
    return (-((1 - right) ** 4) * log_right).mean() + (p - mask).abs().mean()


def perlin(side: int, draw: torch.Generator) -> Tensor:
    """Perlin noise [side, side] on a grid of 1 to 32 cells a way, turned, about -1 to 1."""
    cells = [2 ** int(k) for k in torch.randint(0, 6, (2,), generator=draw)]
    angles = 2 * math.pi * torch.rand(cells[0] + 1, cells[1] + 1, generator=draw)
    slopes = torch.stack([angles.cos(), angles.sin()], -1)
    at = [torch.arange(side) * n / side for n in cells]
    (i, j), (y, x) = zip(*((a.long(), a - a.floor()) for a in at), strict=True)
    corners = []
    for di in (0, 1):
        for dj in (0, 1):
            slope = slopes[(i + di)[:, None], (j + dj)[None]]
            corners.append(slope[..., 0] * (y - di)[:, None] + slope[..., 1] * (x - dj)[None])
    fade_y, fade_x = (t**3 * (t * (6 * t - 15) + 10) for t in (y[:, None], x[None]))
    upper = torch.lerp(corners[0], corners[1], fade_x)
    noise = math.sqrt(2) * torch.lerp(upper, torch.lerp(corners[2], corners[3], fade_x), fade_y)
    turn = math.pi * (torch.rand((), generator=draw) - 0.5)
    c, s = turn.cos(), turn.sin()
    affine = torch.stack([torch.stack([c, -s, c * 0]), torch.stack([s, c, c * 0])])[None]
    grid = F.affine_grid(affine, [1, 1, side, side], align_corners=False)
    return F.grid_sample(noise[None, None], grid, align_corners=False)[0, 0]


def _texture(image: Tensor, draw: torch.Generator) -> Tensor:
    """A piece of a grey image [H, H], at its size: cut, turned, mirrored, often inverted."""
    side = image.shape[-1]
    cut = int(torch.randint(side // 2, side + 1, (), generator=draw))
    top, left = torch.randint(0, side - cut + 1, (2,), generator=draw).tolist()
    turns, mirrored, inverted = torch.randint(0, 4, (3,), generator=draw).tolist()
    piece = torch.rot90(image[top : top + cut, left : left + cut], turns)
    piece = piece.flip(1) if mirrored % 2 else piece
    piece = 255 - piece if inverted % 2 else piece
    return F.interpolate(piece[None, None], size=side, mode="bilinear")[0, 0]


def damage(x: Tensor, sources: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images with texture where Perlin noise is above 0.5.

    Args:
        x: [B, 1, H, H], 0 ... 255.
        sources: [n, 1, H, H], images to take textures from.
        draw: of noise, textures and how strong they are.

    Returns:
        The images, equal to `x` outside the masks, and the masks [B, 1, H, H], 0 or 1.
    """
    damaged, masks = [], []
    for image in x[:, 0]:
        mask = perlin(image.shape[-1], draw) > 0.5
        which = torch.randint(len(sources), (), generator=draw)
        texture = _texture(sources[which, 0].float(), draw)
        beta = 0.8 * torch.rand((), generator=draw)
        damaged.append(torch.where(mask, (1 - beta) * texture + beta * image, image))
        masks.append(mask.float())
    return torch.stack(damaged)[:, None], torch.stack(masks)[:, None]


#: What is trained, from a preset: with weights of its own until it is.
NETWORK = DeSTSeg
#: Names of its scores; the first is the method's own.
SCORES = ("score", "student")


def train(images: Tensor, preset: Preset, job: Job) -> DeSTSeg:
    """Train on normal images, first the student, then the segmentation; the last epoch's.

    Other arguments and errors as of `d2ue.baselines.rdad.train`.
    """
    teacher = teachers.load(preset.teacher).to(job.device)
    with seeded(job.seed) as draw:
        model = DeSTSeg(preset, teacher).to(job.device)
    sgd = torch.optim.SGD(model.student.parameters(), 0.4, 0.9, weight_decay=1e-4)
    head = [p for name, p in model.segmentation.named_parameters() if "blocks" not in name]
    slower = [
        {"params": list(model.segmentation.blocks.parameters()), "lr": 0.1},
        {"params": head, "lr": 0.01},
    ]
    sgd_segmentation = torch.optim.SGD(slower, momentum=0.9, weight_decay=1e-4)
    n_student = round(preset.student_share * preset.epochs)
    known = teachers.features(teacher, images, 3)  # of the clean images: once is exact
    changing = {"model": model, "sgd": sgd, "segmentation": sgd_segmentation, "draw": draw}
    for epoch in job.epochs(preset.epochs, **changing):
        is_student = epoch < n_student
        model.eval()
        (model.student if is_student else model.segmentation).train()
        for index in batches(len(images), preset.batch_size, draw):
            x, mask = damage(images[index].float(), images, draw)
            x, mask = x.to(job.device), mask.to(job.device)
            if is_student:
                target = [level[index].to(job.device) for level in known]
                student = model.student(x.expand(-1, 3, -1, -1))
                sgd.zero_grad()
                # The released code sums over 32 images; its rate belongs to that.
                (32 * student_loss(target, student).mean()).backward()
                sgd.step()
                continue
            with torch.no_grad():
                both = model.both(x)
            logits = model.found(*both)
            small = F.interpolate(mask, size=logits.shape[2:], mode="bilinear")
            sgd_segmentation.zero_grad()
            segmentation_loss(logits, (small > 0.5).float()).backward()
            sgd_segmentation.step()
    return model.eval().requires_grad_(False)


def mean_of_largest(maps: Tensor) -> Tensor:
    """Mean of the largest values of maps [n, H, W], 100 of 256 x 256 and in proportion: [n]."""
    count = max(1, round(_LARGEST * maps[0].numel()))
    return maps.flatten(1).topk(count).values.mean(1)


@torch.no_grad()
def score(model: DeSTSeg, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Scores of images, higher = more abnormal.

    Returns:
        By name float32 [n]: "score", of the segmentation (the method's), 0 to 1, and "student",
        of the product over levels of 1 - cos; and the segmentation's maps, float32 [n, H, W].
    """
    device = next(model.parameters()).device
    whole, student_maps = [], []
    for x in images.split(64):
        known, student = model.both(x.to(device, torch.float32))
        side = x.shape[2:]
        found = F.interpolate(model.found(known, student).sigmoid(), size=side, mode="bilinear")
        whole.append(found[:, 0].cpu())
        product = torch.ones(len(x), *side, device=device)
        for t, s in zip(known, student, strict=True):
            at_each = cosine_distance(t, s).unsqueeze(1)
            product *= F.interpolate(at_each, size=side, mode="bilinear")[:, 0]
        student_maps.append(product.cpu())
    maps = torch.cat(whole)
    scores = {"score": mean_of_largest(maps), "student": mean_of_largest(torch.cat(student_maps))}
    return scores, maps
