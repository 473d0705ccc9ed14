"""IGD, the interpolated Gaussian descriptor (its global model).

Chen, Tian, Pang, Carneiro: Deep one-class classification via interpolated Gaussian descriptor,
AAAI 2022.

A frozen teacher and one trained linear layer give an image's code. A bounded Gaussian distance
pulls the codes of normal images to a centre, and a decoder has to draw the image from its code. A
critic learns how much two codes were mixed; the others are trained so that it takes mixtures for
unmixed. The score is half reconstruction error, half Gaussian distance.

Facts by the released code (tianyu0207/IGD). There the decoder's BatchNorm is in evaluation mode all
the time, so that it is a scale and an offset of each channel; so it is here. One grey channel in
[-1, 1] is decoded where that code decodes three, and fewer scales are compared at fewer pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2ue.baselines import teachers
from d2ue.baselines.blocks import Job, PreResidual, batches, channels_last, seeded


@dataclass(frozen=True)
class Preset:
    """How it is trained: the released code's settings, or ours for a laptop."""

    image_size: int
    teacher: str
    width: int  # channels of the widest images in decoder and critic
    epochs: int
    batch_size: int = 16
    code: int = 128
    learning_rate: float = 1e-4  # Adam's, with betas 0 and 0.9; falls to 0


PRESETS = {
    "published": Preset(256, "resnet18", 64, 256),
    "small": Preset(64, "lite0", 16, 128),
}
#: Channels from the smallest image to the widest, times the width, by the image's side.
_WIDTHS = {64: (8, 4, 2, 1), 128: (8, 8, 4, 2, 1), 256: (8, 8, 4, 2, 1)}
#: MS-SSIM's weights of its scales, of which fewer are used at fewer pixels: so many, this window.
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_SCALES = {64: (4, 7), 128: (4, 11), 256: (5, 11)}
#: Between the lightest and the darkest pixel.
_RANGE = 2.0
#: Epochs between two looks at where the codes are; weight of the critic's term for the others.
_LOOK, _CRITIC_WEIGHT = 10, 0.1


def _batch_norm(channels: int, side: int) -> nn.Module:
    return nn.BatchNorm2d(channels)


def _layer_norm(channels: int, side: int) -> nn.Module:
    return nn.LayerNorm([channels, side, side])


class Interpolated(nn.Module):
    """Teacher, linear layer, decoder and critic; where the codes are and how far apart."""

    def __init__(self, preset: Preset, teacher: nn.Module | None = None) -> None:
        super().__init__()
        self.teacher = teacher or teachers.build(preset.teacher)
        self.linear = nn.Linear(teachers.CHANNELS[preset.teacher][-1], preset.code)
        widths = [preset.width * k for k in _WIDTHS[preset.image_size]]
        side = 4
        layers: list[nn.Module] = [
            nn.Linear(preset.code, widths[0] * 16),
            nn.Unflatten(1, (widths[0], 4, 4)),
        ]
        if preset.image_size == 256:
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(widths[0], widths[0], 3, padding=1)]
            side = 8
        for inputs, outputs in pairwise(widths):
            layers.append(PreResidual(inputs, outputs, "up", _batch_norm, side))
            side *= 2
        last = nn.Conv2d(widths[-1], 1, 5, padding=2)
        ending = [nn.BatchNorm2d(widths[-1]), nn.ReLU(), nn.Upsample(scale_factor=2), last]
        self.decoder = nn.Sequential(*layers, *ending)
        widths.reverse()
        layers, side = [nn.Conv2d(1, widths[0], 5, 2, 2)], preset.image_size // 2
        while side > 8:
            inputs, outputs = widths.pop(0), widths[0]
            layers.append(PreResidual(inputs, outputs, "down", _layer_norm, side))
            side //= 2
        layers.append(nn.Conv2d(widths[0], widths[-1], 3, 2, 1))
        self.critic = nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * 16, 1))
        self.centre: Tensor
        self.sigma: Tensor
        self.register_buffer("centre", torch.zeros(preset.code))
        self.register_buffer("sigma", torch.tensor(1.0))
        channels_last(self)

    def pooled(self, images: Tensor) -> Tensor:
        """The teacher's deepest feature, averaged over places, of uint8 [n, 1, H, W]: [n, C]."""
        parts = [teachers.features(self.teacher, x, 4)[-1].mean((2, 3)) for x in images.split(64)]
        return torch.cat(parts).to(self.centre.device)


def ms_ssim(x: Tensor, y: Tensor) -> Tensor:
    """Multi-scale structural similarity of [B, 1, H, H] in a range of 2: [B], 0 to 1, 1 = equal.

    Wang, Simoncelli, Bovik: Multiscale structural similarity for image quality assessment, 2003.
    """
    scales, window = _SCALES[x.shape[-1]]
    weights = x.new_tensor(_SCALE_WEIGHTS[:scales])
    weights = weights / weights.sum()
    at = torch.arange(window, device=x.device, dtype=x.dtype) - window // 2
    bell = torch.exp(-at.square() / (2 * 1.5**2))
    kernel = torch.outer(bell, bell)[None, None] / bell.sum().square()
    c1, c2 = (0.01 * _RANGE) ** 2, (0.03 * _RANGE) ** 2
    product = x.new_ones(len(x))
    for i in range(scales):
        mx, my = F.conv2d(x, kernel), F.conv2d(y, kernel)
        vx = F.conv2d(x * x, kernel) - mx * mx
        vy = F.conv2d(y * y, kernel) - my * my
        vxy = F.conv2d(x * y, kernel) - mx * my
        similar = (2 * vxy + c2) / (vx + vy + c2)
        if i == scales - 1:
            similar = similar * (2 * mx * my + c1) / (mx * mx + my * my + c1)
        product = product * similar.mean((1, 2, 3)).clamp_min(0) ** weights[i]
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return product


def reconstruction(x: Tensor, decoded: Tensor) -> Tensor:
    """0.85 (1 - MS-SSIM) + 0.15 of the mean difference's share of the range: [B], 0 to 1."""
    apart = (x - decoded).abs().mean((1, 2, 3)) / _RANGE
    return 0.85 * (1 - ms_ssim(x, decoded)) + 0.15 * apart


def gaussian(code: Tensor, centre: Tensor, sigma: Tensor) -> Tensor:
    """1 - exp(-|z - c|² / sigma): [B], 0 at the centre, below 1."""
    return 1 - torch.exp(-(code - centre).square().sum(1) / sigma)


def centre_of(codes: Tensor) -> Tensor:
    """Their mean, with coordinates nearer to 0 than 0.1 moved there, so that 0 is no solution."""
    mean = codes.mean(0)
    return torch.where(mean.abs() < 0.1, 0.1 * mean.sign(), mean)


def spread_of(codes: Tensor, centre: Tensor, batch_size: int) -> Tensor:
    """Mean over batches of the mean squared distance to the centre, each at least 1."""
    parts = codes.split(batch_size)
    return torch.stack(
        [(part - centre).square().sum(1).mean().clamp_min(1) for part in parts]
    ).mean()


#: What is trained, from a preset: with weights of its own until it is.
NETWORK = Interpolated
#: Names of its scores; the first is the method's own.
SCORES = ("score", "reconstruction", "gaussian")


def train(images: Tensor, preset: Preset, job: Job) -> Interpolated:
    """Train on normal images; arguments and errors as of `d2ue.baselines.rdad.train`."""
    teacher = teachers.load(preset.teacher).to(job.device)
    with seeded(job.seed) as draw:
        model = Interpolated(preset, teacher).to(job.device)
    # Flips are the only augmentation: the teacher's word on both is all that is ever asked.
    both = torch.stack([model.pooled(images), model.pooled(images.flip(-1))])
    own = [*model.linear.parameters(), *model.decoder.parameters()]
    adam = torch.optim.Adam(own, preset.learning_rate, betas=(0.0, 0.9), weight_decay=1e-6)
    adam_critic = torch.optim.Adam(
        model.critic.parameters(), preset.learning_rate, betas=(0.0, 0.9)
    )
    steps = max(1, preset.epochs * (len(images) // preset.batch_size))
    falls = [
        torch.optim.lr_scheduler.PolynomialLR(of, steps, power=0.9) for of in (adam, adam_critic)
    ]
    changing = {"model": model, "adam": adam, "critic": adam_critic, "draw": draw}
    changing |= {"fall": falls[0], "fall_critic": falls[1]}
    for epoch in job.epochs(preset.epochs, **changing):
        model.train()
        teacher.eval()
        model.decoder.eval()
        if epoch % _LOOK == 0:
            with torch.no_grad():
                codes = model.linear(both[0])
                new = centre_of(codes)
                of = new if epoch == 0 else model.centre  # the released code's order
                model.sigma.copy_(spread_of(codes, of, preset.batch_size))
                model.centre.copy_(new)
        for index in batches(len(images), preset.batch_size, draw):
            flips = (torch.rand(len(index), generator=draw) < 0.5).long()
            pixels = images[index]
            pixels = torch.where(flips.view(-1, 1, 1, 1) > 0, pixels.flip(-1), pixels)
            x = pixels.to(job.device, torch.float32) / 127.5 - 1
            z = model.linear(both[flips, index])
            share = (torch.rand(len(x), 1, generator=draw) / 2).to(job.device)
            mixed = share * z + (1 - share) * z.flip(0)
            decoded, between = model.decoder(torch.cat([z, mixed])).chunk(2)
            loss = reconstruction(x, decoded).mean()
            loss = loss + gaussian(z, model.centre, model.sigma).mean()
            loss = loss + _CRITIC_WEIGHT * model.critic(between).square().mean()
            adam.zero_grad()
            loss.backward(inputs=own)
            adam.step()
            with torch.no_grad():
                z = model.linear(both[flips, index])
                mixed = share * z + (1 - share) * z.flip(0)
                decoded, between = model.decoder(torch.cat([z, mixed])).chunk(2)
            said = model.critic(torch.cat([between, decoded + 0.2 * (x - decoded)]))[:, 0]
            of_mixed, of_unmixed = said.chunk(2)
            adam_critic.zero_grad()
            ((of_mixed - share[:, 0]).square().mean() + of_unmixed.square().mean()).backward()
            adam_critic.step()
            for fall in falls:
                fall.step()
    return model.eval().requires_grad_(False)


@torch.no_grad()
def score(model: Interpolated, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Scores of images, higher = more abnormal.

    Returns:
        By name float32 [n], 0 to 1: "score", the mean of "reconstruction" and "gaussian" (the
        method's), and these; and |x - x'| as maps, float32 [n, H, W].
    """
    terms, maps = [], []
    for pixels in images.split(64):
        x = pixels.to(model.centre.device, torch.float32) / 127.5 - 1
        z = model.linear(model.pooled(pixels))
        decoded = model.decoder(z)
        both = reconstruction(x, decoded), gaussian(z, model.centre, model.sigma)
        terms.append(torch.stack(both).cpu())
        maps.append((x - decoded).abs()[:, 0].cpu())
    rec, gac = torch.cat(terms, 1)
    return {"score": (rec + gac) / 2, "reconstruction": rec, "gaussian": gac}, torch.cat(maps)
