"""Derivatives of the networks of any order, by every way that PyTorch has to them.

Input gradients are what the method is about, so people differentiate them further. The reference
is PyTorch's own operations in float64.
"""

import pytest
import torch
from torch.func import jacrev, vmap

from d2ue.backbones import Autoencoder
from d2ue.fast import cpu

SIZE = 16


def pair(backbone: str = "ae", replicas: int = 1) -> tuple[Autoencoder, Autoencoder]:
    """A network in float32, and the same in float64."""
    made = [
        Autoencoder(backbone, replicas, SIZE, generator=torch.Generator().manual_seed(3)).eval()
        for _ in range(2)
    ]
    return made[0], made[1].double()


def images(n: int = 2, replicas: int = 1) -> torch.Tensor:
    return (
        torch.rand(replicas, n, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(4)) * 2 - 1
    )


def penalty(network: Autoencoder, x: torch.Tensor) -> list[torch.Tensor]:
    """The gradient, by every weight, of the size of the gradient by the image."""
    x = x.clone().requires_grad_(True)
    loss = (network(x).mean - x).square().mean()
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    wanted = [p for name, p in network.named_parameters() if "output" in name or "narrow" in name]
    return list(torch.autograd.grad(gradient.square().sum(), wanted, allow_unused=True))


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("backbone", ["ae", "memae", "aeu"])
def test_gradient_of_a_gradient_penalty(backbone, replicas):
    single, double = pair(backbone, replicas)
    x = images(replicas=replicas)
    for ours, wanted in zip(penalty(single, x), penalty(double, x.double()), strict=True):
        if wanted is not None:
            scale = wanted.abs().max()
            assert (ours.double() - wanted).abs().max() <= 1e-3 * scale + 1e-12


def test_the_linear_kernel_passes_gradgradcheck(monkeypatch):
    """Its formulas in float64, which the processor's own product does not take."""
    monkeypatch.setattr(cpu, "_product", torch.nn.functional.linear)
    generator = torch.Generator().manual_seed(1)
    sizes = (2, 3, 4), (2, 5, 4), (2, 5)
    tensors = [torch.rand(s, generator=generator, dtype=torch.float64) for s in sizes]
    tensors = [t.requires_grad_() for t in tensors]
    plain = lambda x, w, b: torch.bmm(x, w.mT) + b.unsqueeze(1)  # noqa: E731
    torch.testing.assert_close(cpu.CpuLinear.apply(*tensors), plain(*tensors))
    assert torch.autograd.gradcheck(cpu.CpuLinear.apply, tensors)
    assert torch.autograd.gradgradcheck(cpu.CpuLinear.apply, tensors)


@pytest.mark.parametrize("backbone", ["ae", "memae", "aeu"])
def test_jacrev_and_vmap(backbone):
    single, double = pair(backbone)
    x = images(3)

    def error(network, image):  # [1, H, W] -> number
        return (network(image[None, None]).mean - image).abs().mean()

    ours = vmap(jacrev(lambda image: error(single, image)))(x[0])
    wanted = vmap(jacrev(lambda image: error(double, image)))(x[0].double())
    torch.testing.assert_close(ours.double(), wanted, rtol=1e-3, atol=1e-6)
    (autograd,) = torch.autograd.grad(
        (single(x.requires_grad_()).mean - x).abs().mean((2, 3, 4)).sum(), x
    )
    torch.testing.assert_close(ours, autograd[0], rtol=1e-3, atol=1e-6)


def test_forward_over_reverse():
    single, double = pair()
    x = images(1)

    def directional(network, x):
        gradient = jacrev(lambda y: (network(y).mean - y).square().sum())
        return torch.func.jvp(gradient, (x,), (torch.ones_like(x),))[1]

    ours, wanted = directional(single, x), directional(double, x.double())
    assert (ours.double() - wanted).abs().max() <= 1e-3 * wanted.abs().max()


@pytest.mark.parametrize("replicas", [1, 2])
def test_compiled(replicas):
    """torch.compile traces the network whole; `eager` needs no compiler on the machine."""
    single, double = pair("aeu", replicas)
    x = images(2, replicas).requires_grad_(True)
    compiled = torch.compile(single, backend="aot_eager", fullgraph=True)
    (ours,) = torch.autograd.grad(compiled(x).mean.square().sum(), x)
    y = x.detach().double().requires_grad_(True)
    (wanted,) = torch.autograd.grad(double(y).mean.square().sum(), y)
    torch.testing.assert_close(ours.double(), wanted, rtol=1e-3, atol=1e-5)
