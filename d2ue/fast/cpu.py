"""CPU kernels for the layers' shapes: the same results as PyTorch's own, in a fraction of the time.

They are used where `applies` says so: on a CPU, for values and for gradients of any order. Under
`torch.func` transforms and `torch.compile`, which look inside an operation, PyTorch's own are.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight


def applies(x: Tensor) -> bool:
    """Whether these kernels may compute on `x`: a CPU tensor that nothing traces or transforms."""
    return x.device.type == "cpu" and not (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()  # as autograd.Function itself asks
        or torch.autograd.forward_ad._current_level >= 0
    )


def channels_last(x: Tensor) -> Tensor:
    """`x` [B, C, h, w] in the layout in which CPU convolutions of these shapes are fastest.

    Elsewhere than where these kernels apply it stays as it is.
    """
    if not applies(x):
        return x
    x = x.contiguous(memory_format=torch.channels_last)
    if x.shape[1] == 1:
        # With one channel both layouts look alike, and everything after would take the other one.
        height, width = x.shape[-2:]
        x = x.as_strided(x.shape, (height * width, 1, width, 1))
    return x


def is_narrow(x: Tensor, weight: Tensor) -> bool:
    """Whether a (transposed) convolution between an image and features runs on a CPU.

    PyTorch's CPU kernels fill their vectors with channels. Where one side has only the image's one
    or two, the transposed direction costs as much as a convolution with sixteen: `spread` is five
    times faster.
    """
    return applies(x) and len(weight) == 1 and weight.shape[2] <= 2


def spread(x: Tensor, weight: Tensor) -> Tensor:
    """`F.conv_transpose2d(x, weight, stride=2, padding=1)` for few output channels.

    One matrix product gives what every pixel sends to each of the 4 x 4 places around it. Output
    row 2i gets tap 1 of row i and tap 3 of row i-1, row 2i+1 gets tap 2 of row i and tap 0 of row
    i+1; columns likewise.

    Args:
        x: [B, inputs, h, w].
        weight: [inputs, outputs, 4, 4].

    Returns:
        Shape [B, outputs, 2h, 2w].
    """
    batch, inputs, height, width = x.shape
    outputs = weight.shape[1]
    pixels = x.permute(0, 2, 3, 1).reshape(-1, inputs)
    taps = (weight.flatten(1).T @ pixels.T).view(outputs, 4, 4, batch, height, width)
    y = x.new_empty(batch, outputs, height, 2, width, 2)
    for row in (0, 1):
        rows = taps[:, 1 + row]
        if row == 0:
            rows[:, :, :, 1:] += taps[:, 3, :, :, :-1]
        else:
            rows[:, :, :, :-1] += taps[:, 0, :, :, 1:]
        y[..., row, :, 0] = _columns(rows[:, 1], rows[:, 3], 1).transpose(0, 1)
        y[..., row, :, 1] = _columns(rows[:, 2], rows[:, 0], -1).transpose(0, 1)
    return y.view(batch, outputs, 2 * height, 2 * width)


def _columns(near: Tensor, far: Tensor, step: int) -> Tensor:
    """`near`, with `far` added one column to the right (step 1) or left (step -1); in place."""
    if step == 1:
        near[..., 1:] += far[..., :-1]
    else:
        near[..., :-1] += far[..., 1:]
    return near


class CpuConv(torch.autograd.Function):
    """Convolution of an image: `backbones.Conv` whose gradient by the image is `spread`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        """Images [B, inputs, h, w] to features [B, outputs, h / 2, w / 2]."""
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, stride=2, padding=1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients by x and weight, as far as they are asked for."""
        x, weight = ctx.saved_tensors
        by_x = spread(gradient, weight) if ctx.needs_input_grad[0] else None
        by_weight = None
        if ctx.needs_input_grad[1]:
            by_weight = conv2d_weight(x, weight.shape, gradient, stride=2, padding=1)
        return by_x, by_weight


class CpuConvTranspose(torch.autograd.Function):
    """Transposed convolution to an image: `ConvTranspose` by `spread`; float32 in autocast."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        """Features [B, inputs, h, w] to images [B, outputs, 2h, 2w]."""
        ctx.save_for_backward(x, weight)
        return spread(x, weight)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients by x and weight, as far as they are asked for."""
        x, weight = ctx.saved_tensors
        gradient = channels_last(gradient)
        by_x = by_weight = None
        if ctx.needs_input_grad[0]:
            by_x = F.conv2d(gradient, weight, stride=2, padding=1)
        if ctx.needs_input_grad[1]:
            by_weight = conv2d_weight(gradient, weight.shape, x, stride=2, padding=1)
        return by_x, by_weight


def _find_product() -> Callable[..., Tensor]:
    """The product x Wᵀ + b that is fastest on this processor.

    Where there is AVX-512 that is oneDNN's, as torch.compile uses it: torch's own (MKL) keeps to
    AVX2 on some processors, and takes twice as long there. Elsewhere torch's own is the faster.
    """
    operator = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    wide = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    if not wide or operator is None or not torch.backends.mkldnn.is_available():
        return F.linear

    def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return operator(x, weight, bias, "none", [], "")

    try:  # the operator is not documented: it is used only if it computes what it should
        x, weight = torch.ones(2, 3), torch.arange(6.0).view(3, 2).T
        right = torch.equal(product(x, weight), x @ weight.T)
    except RuntimeError:
        return F.linear
    return product if right else F.linear


_product = _find_product()


class CpuLinear(torch.autograd.Function):
    """Every replica's x Wᵀ + b, one after another: a CPU gains nothing from batching them.

    Backward is made of the same product, so that it has derivatives of its own.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """X is [R, B, inputs], weight [R, outputs, inputs], bias [R, outputs] or None."""
        ctx.save_for_backward(x, weight)
        biases = [None] * len(x) if bias is None else bias
        return _join(_product(*replica) for replica in zip(x, weight, biases, strict=True))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients by x, weight and bias, as far as they are asked for."""
        x, weight = ctx.saved_tensors
        by_x = by_weight = by_bias = None
        if ctx.needs_input_grad[0]:
            by_x = CpuLinear.apply(gradient, weight.mT, None)
        if ctx.needs_input_grad[1]:
            by_weight = CpuLinear.apply(gradient.mT, x.mT, None)
        if ctx.needs_input_grad[2]:
            by_bias = gradient.sum(1)
        return by_x, by_weight, by_bias


def _join(parts: Iterable[Tensor]) -> Tensor:
    """Results of the replicas, stacked; one alone is not copied."""
    parts = list(parts)
    return parts[0].unsqueeze(0) if len(parts) == 1 else torch.stack(parts)


@functools.cache
def keep_freed_memory() -> None:
    """Have glibc reuse freed memory instead of giving it back to the system at every step.

    Gradients of 8 MB are freed and asked for again in each step; fetched anew from the system they
    cost a tenth of its time in page faults. Elsewhere than under glibc nothing is done.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD, at its largest
        mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD
