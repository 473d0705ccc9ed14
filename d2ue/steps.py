"""One training step made cheap for a GPU: number formats, and capture as a CUDA graph.

A step of these small networks is some 200 kernels of microseconds each, and launching them one by
one takes a GPU's host longer than the GPU takes to run them. A CUDA graph launches all of them at
once. The CPU stays the reference: nothing here changes what is computed there.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from d2ue.errors import InputError


def check_precision(name: str, device: torch.device) -> None:
    """Refuse a number format that a device has not.

    Raises:
        InputError: if it has not.
    """
    if name == "tf32" and device.type != "cuda":
        raise InputError(f"precision tf32 is for CUDA GPUs; on {device.type} take float32 or bf16.")


@contextlib.contextmanager
def precision(name: str, device: torch.device) -> Iterator[None]:
    """Compute products in a number format, and leave torch's own settings as they were.

    Args:
        name: "float32": 24 significant bits, also on GPUs, where torch's default convolutions have
            less. "tf32": factors rounded to 11 bits, CUDA only. "bf16": factors rounded to 8 bits
            (autocast); weights, losses and Adam stay float32.
        device: where.

    Raises:
        InputError: as `check_precision` does.
    """
    check_precision(name, device)
    if device.type == "cuda":
        formats = torch.backends.cuda.matmul, torch.backends.cudnn
        before = [f.allow_tf32 for f in formats]
        for f in formats:
            f.allow_tf32 = name == "tf32"
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=name == "bf16"):
            yield
    finally:
        if device.type == "cuda":
            for f, allowed in zip(formats, before, strict=True):
                f.allow_tf32 = allowed


def captured(
    step: Callable[[], None], changed: Callable[[], Mapping[str, Tensor]]
) -> Callable[[], None]:
    """`step` as one CUDA graph; `step` itself, with a warning, where it cannot be captured.

    Args:
        step: a training step that reads its input from, and leaves its result in, tensors that
            stay where they are; nothing in it waits for the host.
        changed: every tensor that a step changes, by name. Capturing runs some steps; what they
            changed is put back, and tensors that they made (Adam's moments) are set to zero.
    """
    before = {name: tensor.clone() for name, tensor in changed().items()}
    try:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):  # lazily made handles and workspaces must be there before
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        launch: Callable[[], None] = graph.replay
    except RuntimeError as error:
        warnings.warn(
            f"The training step could not be captured as a CUDA graph ({error}); it is run "
            "operation by operation, which is slower and computes the same.",
            RuntimeWarning,
            stacklevel=2,
        )
        launch = step
    for name, tensor in changed().items():
        if name in before:
            tensor.data.copy_(before[name])
        else:
            tensor.data.zero_()
    return launch
