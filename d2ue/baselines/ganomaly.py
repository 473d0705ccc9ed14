"""GANomaly: three networks in a row, trained against a discriminator.

Akcay, Atapour-Abarghouei, Breckon: GANomaly: semi-supervised anomaly detection via adversarial
training, ACCV 2018.

A generator encodes an image, decodes it and encodes the result again; it is trained by L1
reconstruction, agreement of the two codes, and matching of a discriminator's features. An image
scores the distance of its two codes.

Facts by the released code (samet-akcay/ganomaly, MIT), which takes the mean square of the codes
where the paper has the L1 norm, and trains the discriminator to tell real from fake. That code
tests in training mode, so that a score depends on the batch. Here BatchNorm is in evaluation mode;
"per_image" is what training mode gives an image that is a batch of its own, as the authors advise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2ue.baselines.blocks import Job, batches, seeded


@dataclass(frozen=True)
class Preset:
    """How it is trained: the released code's settings, or ours for a laptop."""

    image_size: int
    width: int  # channels of the first layer, doubled at every halving of the image
    epochs: int
    code: int = 100
    batch_size: int = 64
    learning_rate: float = 2e-4  # Adam's, with betas 0.5 and 0.999; no schedule


#: Published: 15 epochs of about 43,000 images, which are 10,000 steps; 670 epochs of 1000 images.
PRESETS = {"published": Preset(64, 64, 670), "small": Preset(64, 16, 250)}


def _encoder(side: int, width: int, outputs: int) -> nn.Sequential:
    layers = [nn.Conv2d(1, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
    while side > 8:
        layers += [nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * width)]
        layers.append(nn.LeakyReLU(0.2))
        side, width = side // 2, 2 * width
    return nn.Sequential(*layers, nn.Conv2d(width, outputs, 4, bias=False))


def _decoder(side: int, width: int, inputs: int) -> nn.Sequential:
    widest = width * side // 8
    layers: list[nn.Module] = [nn.ConvTranspose2d(inputs, widest, 4, bias=False)]
    while widest > width:
        layers += [nn.BatchNorm2d(widest), nn.ReLU()]
        layers.append(nn.ConvTranspose2d(widest, widest // 2, 4, 2, 1, bias=False))
        widest //= 2
    last = nn.ConvTranspose2d(width, 1, 4, 2, 1, bias=False)
    return nn.Sequential(*layers, nn.BatchNorm2d(width), nn.ReLU(), last, nn.Tanh())


class Ganomaly(nn.Module):
    """Two encoders, a decoder and a discriminator."""

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        side, width = preset.image_size, preset.width
        self.encoder = _encoder(side, width, preset.code)
        self.decoder = _decoder(side, width, preset.code)
        self.second = _encoder(side, width, preset.code)
        self.discriminator = _encoder(side, width, 1)
        self.apply(_initial)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, 1, H, W] in [-1, 1] to its reconstruction and the two codes, [B, code, 1, 1]."""
        z = self.encoder(x)
        fake = self.decoder(z)
        return fake, z, self.second(fake)

    def judge(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The discriminator's logit [B], high for real, and its features before it."""
        features = self.discriminator[:-1](x)
        return self.discriminator[-1](features).flatten(), features


def _initial(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1, 0.02)
        nn.init.zeros_(module.bias)


def generator_loss(
    x: Tensor, fake: Tensor, z: Tensor, z2: Tensor, real: Tensor, faked: Tensor
) -> Tensor:
    """Features' mean square + 50 times L1 of the images + codes' mean square."""
    return F.mse_loss(faked, real) + 50 * F.l1_loss(fake, x) + F.mse_loss(z2, z)


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Half the cross-entropies of logits: ln 2 where it cannot tell."""
    at = F.binary_cross_entropy_with_logits
    return 0.5 * (at(real, torch.ones_like(real)) + at(fake, torch.zeros_like(fake)))


#: What is trained, from a preset: with weights of its own until it is.
NETWORK = Ganomaly
#: Names of its scores; the first is the method's own.
SCORES = ("score", "error", "per_image")


def train(images: Tensor, preset: Preset, job: Job) -> Ganomaly:
    """Train on normal images; the last epoch's network. It has no teacher.

    Other arguments and errors as of `d2ue.baselines.rdad.train`.
    """
    with seeded(job.seed) as generator:
        model = Ganomaly(preset).to(job.device).train()
        parts = (model.encoder, model.decoder, model.second)
        weights_of = [p for part in parts for p in part.parameters()]
        options = {"lr": preset.learning_rate, "betas": (0.5, 0.999)}
        adam_g = torch.optim.Adam(weights_of, **options)  # type: ignore[arg-type]
        adam_d = torch.optim.Adam(model.discriminator.parameters(), **options)  # type: ignore[arg-type]
        changing = {"model": model, "adam_g": adam_g, "adam_d": adam_d, "generator": generator}
        for _ in job.epochs(preset.epochs, **changing):
            for index in batches(len(images), preset.batch_size, generator):
                x = images[index].to(job.device, torch.float32) / 127.5 - 1
                fake, z, z2 = model(x)
                said_real, real = model.judge(x)
                said_fake, _ = model.judge(fake.detach())
                _, faked = model.judge(fake)
                adam_g.zero_grad()
                generator_loss(x, fake, z, z2, real.detach(), faked).backward(inputs=weights_of)
                adam_d.zero_grad()
                lost = discriminator_loss(said_real, said_fake)
                lost.backward()
                adam_g.step()
                adam_d.step()
                if lost < 1e-5:
                    model.discriminator.apply(_initial)
    return model.eval()


def _per_image(layers: nn.Sequential, x: Tensor) -> Tensor:
    """Layers with each image's own mean and variance in BatchNorm; nothing is remembered."""
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            x = F.instance_norm(x, weight=layer.weight, bias=layer.bias, eps=layer.eps)
        else:
            x = layer(x)
    return x


@torch.no_grad()
def score(model: Ganomaly, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Scores of images, higher = more abnormal.

    Returns:
        By name float32 [n]: "score", the mean square of the codes' difference (the method's),
        "error", the mean |x - x'|, and "per_image", as above; and |x - x'| as maps, float32
        [n, H, W], 0 to 2.
    """
    device = next(model.parameters()).device
    scores, alone, maps = [], [], []
    for pixels in images.split(64):
        x = pixels.to(device, torch.float32) / 127.5 - 1
        fake, z, z2 = model(x)
        scores.append((z - z2).square().mean((1, 2, 3)).cpu())
        maps.append((x - fake).abs()[:, 0].cpu())
        z = _per_image(model.encoder, x)
        z2 = _per_image(model.second, _per_image(model.decoder, z))
        alone.append((z - z2).square().mean((1, 2, 3)).cpu())
    whole = torch.cat(maps)
    named = {"score": torch.cat(scores), "error": whole.mean((1, 2)), "per_image": torch.cat(alone)}
    return named, whole
