"""f-AnoGAN: a generator of normal images, and an encoder that finds an image's code in it.

Schlegl et al.: f-AnoGAN: fast unsupervised anomaly detection with generative adversarial networks,
Medical Image Analysis 54, 2019.

A Wasserstein GAN with gradient penalty learns to draw normal images from noise. Then, both frozen,
an encoder learns to give normal images a code that the generator decodes to the same image, in
pixels and in the critic's features. An image scores these two residuals.

Facts by the released code (tSchlegl/f-AnoGAN, MIT). Its number of epochs is for a million patches;
those of "published" here are a medical benchmark's (MedIAnomaly, 3000 and 300 at 1000 images).
"small" has the layers of this project's autoencoder instead of residual blocks, and is another
network than the method's.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from d2ue.baselines.blocks import Job, PreResidual, batches, channels_last, flipped, seeded


@dataclass(frozen=True)
class Preset:
    """How it is trained: the released code's settings, or ours for a laptop."""

    image_size: int
    width: int  # channels of the first layer
    is_residual: bool
    epochs: int  # of both parts
    encoder_share: float  # the last ones, which train the encoder
    code: int = 128
    batch_size: int = 64


PRESETS = {
    "published": Preset(64, 64, True, 3300, 1 / 11),
    "small": Preset(64, 16, False, 750, 1 / 3),
}
#: Channels after each halving of 64 pixels, times the width.
_RESIDUAL, _PLAIN = (1, 2, 4, 8, 8), (1, 2, 4, 4)
#: Weight of the gradient penalty; critic steps for each of the generator; weight of the features.
PENALTY, CRITIC_STEPS, KAPPA = 10.0, 5, 1.0


def _batch_norm(channels: int, side: int = 0) -> nn.Module:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)  # TensorFlow's defaults


def _layer_norm(channels: int, side: int = 0) -> nn.Module:
    return nn.GroupNorm(1, channels)  # over (C, H, W), with a scale and an offset a channel


def _encode(preset: Preset, is_critic: bool) -> tuple[nn.Sequential, int]:
    """Layers from an image to a flat feature, and how many values it has."""
    norm = _layer_norm if is_critic else _batch_norm
    if preset.is_residual:
        widths = [preset.width * k for k in _RESIDUAL]
        layers: list[nn.Module] = [nn.Conv2d(1, widths[0], 3, padding=1)]
        for inputs, outputs in pairwise(widths):
            layers.append(PreResidual(inputs, outputs, "down", norm, 0))
    else:
        widths = [preset.width * k for k in _PLAIN]
        layers = []
        for inputs, outputs in pairwise([1, *widths]):
            layers += [nn.Conv2d(inputs, outputs, 4, 2, 1), norm(outputs), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Flatten()), widths[-1] * 16


def _decode(preset: Preset) -> nn.Sequential:
    """Layers from a code to an image in [-1, 1]."""
    if preset.is_residual:
        widths = [preset.width * k for k in reversed(_RESIDUAL)]
        layers: list[nn.Module] = [
            PreResidual(inputs, outputs, "up", _batch_norm, 0)
            for inputs, outputs in pairwise(widths)
        ]
        layers += [_batch_norm(widths[-1]), nn.ReLU(), nn.Conv2d(widths[-1], 1, 3, padding=1)]
    else:
        widths = [preset.width * k for k in reversed(_PLAIN)]
        layers = [_batch_norm(widths[0]), nn.ReLU()]
        for inputs, outputs in pairwise(widths):
            layers.append(nn.ConvTranspose2d(inputs, outputs, 4, 2, 1))
            layers += [_batch_norm(outputs), nn.ReLU()]
        layers.append(nn.ConvTranspose2d(widths[-1], 1, 4, 2, 1))
    first = [nn.Linear(preset.code, widths[0] * 16), nn.Unflatten(1, (widths[0], 4, 4))]
    return nn.Sequential(*first, *layers, nn.Tanh())


class FAnoGAN(nn.Module):
    """Generator, critic (features, then one value) and encoder, for images of 64 x 64."""

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.generator = _decode(preset)
        self.features, values = _encode(preset, is_critic=True)
        self.value = nn.Linear(values, 1)
        layers, values = _encode(preset, is_critic=False)
        self.encoder = nn.Sequential(*layers, nn.Linear(values, preset.code), nn.Tanh())
        for name, module in self.named_modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                # He's for 3 x 3 convolutions within, Glorot's for the rest.
                within = isinstance(module, nn.Conv2d) and ".conv" in name
                nn.init.xavier_uniform_(module.weight, 2**0.5 if within else 1.0)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        channels_last(self)

    def critic(self, x: Tensor) -> Tensor:
        """[B, 1, 64, 64] to [B], higher = more like a normal image."""
        return self.value(self.features(x))[:, 0]

    def residuals(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Squared differences of image and decoded code: pixels [B, 1, 64, 64], features [B, f]."""
        decoded = self.generator(self.encoder(x))
        return (x - decoded).square(), (self.features(x) - self.features(decoded)).square()


def critic_loss(model: FAnoGAN, x: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """The mean of D(fake) - D(x), and 10 times that of (|dD / dx| - 1)² at points between them.

    Args:
        model: whose critic.
        x: normal images, [B, 1, 64, 64].
        fake: drawn ones, likewise.
        share: [B, 1, 1, 1] in [0, 1], how far the point is from x.
    """
    between = (x + share * (fake - x)).detach().requires_grad_()
    (slope,) = torch.autograd.grad(model.critic(between).sum(), between, create_graph=True)
    penalty = (slope.flatten(1).norm(dim=1) - 1).square().mean()
    return model.critic(fake).mean() - model.critic(x).mean() + PENALTY * penalty


#: What is trained, from a preset: with weights of its own until it is.
NETWORK = FAnoGAN
#: Names of its scores; the first is the method's own.
SCORES = ("score", "image", "features")


def train(images: Tensor, preset: Preset, job: Job) -> FAnoGAN:
    """Train on normal images, first the GAN, then the encoder; the last epoch's networks.

    Other arguments and errors as of `d2ue.baselines.rdad.train`.
    """
    with seeded(job.seed) as draw:
        model = FAnoGAN(preset).to(job.device)
    critic = [*model.features.parameters(), *model.value.parameters()]
    adam = {
        name: torch.optim.Adam(weights, 1e-4, betas=(0.0, 0.9))
        for name, weights in (("critic", critic), ("generator", model.generator.parameters()))
    }
    # TensorFlow has its epsilon, 1e-10, inside the root.
    rms = torch.optim.RMSprop(model.encoder.parameters(), 5e-5, alpha=0.9, eps=1e-5)
    n_gan = preset.epochs - round(preset.encoder_share * preset.epochs)
    steps = len(images) // preset.batch_size

    def drawn() -> Tensor:
        z = torch.randn(preset.batch_size, preset.code, generator=draw)
        return model.generator(z.to(job.device))

    changing = {"model": model, "rms": rms, "draw": draw, **adam}
    for epoch in job.epochs(preset.epochs, **changing):
        is_gan = epoch < n_gan
        model.train().generator.train(is_gan)
        model.requires_grad_(is_gan).encoder.requires_grad_(not is_gan)
        for i, index in enumerate(batches(len(images), preset.batch_size, draw)):
            x = flipped(images[index], draw).to(job.device, torch.float32) / 127.5 - 1
            if not is_gan:
                pixels, features = model.residuals(x)
                rms.zero_grad()
                (pixels.mean() + KAPPA * features.mean()).backward()
                rms.step()
                continue
            share = torch.rand(len(x), 1, 1, 1, generator=draw).to(job.device)
            with torch.no_grad():
                fake = drawn()
            adam["critic"].zero_grad()
            critic_loss(model, x, fake, share).backward()
            adam["critic"].step()
            if (epoch * steps + i) % CRITIC_STEPS == CRITIC_STEPS - 1:
                adam["generator"].zero_grad()
                (-model.critic(drawn()).mean()).backward()
                adam["generator"].step()
    return model.eval().requires_grad_(False)


@torch.no_grad()
def score(model: FAnoGAN, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Scores of images, higher = more abnormal.

    Returns:
        By name float32 [n]: "score", image and feature term (the method's), and each alone,
        "image" and "features"; and the squared differences of pixels, float32 [n, H, W], 0 to 4.
    """
    device = next(model.parameters()).device
    terms, maps = [], []
    for x in images.split(64):
        pixels, features = model.residuals(x.to(device, torch.float32) / 127.5 - 1)
        terms.append(torch.stack([pixels.mean((1, 2, 3)), features.mean(1)]).cpu())
        maps.append(pixels[:, 0].cpu())
    image, feature = torch.cat(terms, 1)
    scores = {"score": image + KAPPA * feature, "image": image, "features": feature}
    return scores, torch.cat(maps)
