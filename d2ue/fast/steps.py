"""One training step made cheap for a GPU: number formats, replicas, capture as a CUDA graph.

A step of these small networks is some 200 kernels of microseconds each, and launching them one by
one takes a GPU's host longer than the GPU takes to run them. A CUDA graph launches all of them at
once. The CPU stays the reference: nothing here changes what is computed there.
"""

from __future__ import annotations

import contextlib
import gc
import warnings
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from d2ue.errors import InputError


def check_precision(name: str, device: torch.device) -> None:
    """Refuse a number format that a device has not.

    Raises:
        InputError: if it has not: tf32 outside CUDA, tf32 or bf16 on a GPU older than Ampere.
    """
    if name == "float32":
        return
    if name == "tf32" and device.type != "cuda":
        raise InputError(f"precision tf32 is for CUDA GPUs; on {device.type} take float32 or bf16.")
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        raise InputError(
            f"{torch.cuda.get_device_name(device)} has no {name}, which came with Ampere: take "
            "float32."
        )


@contextlib.contextmanager
def precision(name: str, device: torch.device) -> Iterator[None]:
    """Compute products as a number format says, and leave torch's own settings as they were.

    To be held around the backward pass too: on a GPU every product looks at the settings anew.
    A caller's autocast does not reach in; that of bf16 is `half_products`.

    Args:
        name: "float32": 24 significant bits, also on GPUs, where torch's default convolutions have
            less. "tf32": factors rounded to 11 bits, CUDA only. "bf16": float32 but for what runs
            in `half_products`.
        device: where.

    Raises:
        InputError: as `check_precision` does.
    """
    check_precision(name, device)
    with contextlib.ExitStack() as held:
        if device.type == "cuda":
            held.enter_context(_factors("tf32" if name == "tf32" else "ieee"))
            held.enter_context(torch.backends.cudnn.flags(deterministic=True, benchmark=False))
        held.enter_context(torch.autocast(device.type, enabled=False))
        yield


def half_products(name: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """For "bf16", round the factors of products to 8 bits (autocast); otherwise nothing.

    Only a network belongs in it: weights, features, losses and Adam stay float32.
    """
    # Without the cache: within a caller's autocast it would keep weights of steps before.
    enabled = name == "bf16"
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled, cache_enabled=False)


@contextlib.contextmanager
def _factors(format: str) -> Iterator[None]:
    """Round the factors of CUDA's products: "tf32", or "ieee" for not at all."""
    places = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = format
        yield
    finally:
        for place, one in zip(places, before, strict=True):
            place.fp32_precision = one


def captured(
    step: Callable[[], None], changed: Callable[[], Mapping[str, Tensor]], device: torch.device
) -> Callable[[], None]:
    """`step` as one CUDA graph; `step` itself, with a warning, where it cannot be captured.

    Args:
        step: a training step that reads its input from, and leaves its result in, tensors that
            stay where they are; nothing in it waits for the host.
        changed: every tensor that a step changes, by name. Capturing runs some steps; what they
            changed is put back, and tensors that they made (Adam's moments) are set to zero.
        device: the GPU that it computes on.

    Raises:
        torch.OutOfMemoryError: if the GPU's memory does not hold the step.
    """
    before = {name: tensor.clone() for name, tensor in changed().items()}
    current, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    try:
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(3):  # lazily made handles and workspaces must be there before
                step()
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # The stream is given because torch's own is made once, on the first device that asks.
        # "thread_local": other threads may use the GPU during the capture.
        graphed = torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local")
        with torch.cuda.device(device), graphed:
            step()
        launch: Callable[[], None] = graph.replay
    except RuntimeError as error:
        torch.cuda.set_stream(current)  # a failed capture leaves its own
        if is_memory_error(error):
            raise torch.OutOfMemoryError(str(error)) from error
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


def is_memory_error(error: BaseException | None) -> bool:
    """Whether a GPU's memory was too small, by this error or by what it came from.

    cuDNN and cuBLAS say it in their own words, in plain RuntimeErrors.
    """
    words = ("out of memory", "ALLOC_FAILED")
    while error is not None:
        said = isinstance(error, RuntimeError) and any(word in str(error) for word in words)
        if said or isinstance(error, torch.OutOfMemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


def free_memory(device: torch.device) -> None:
    """Give what torch caches of a GPU's memory back to it."""
    gc.collect()
    if device.type == "cuda":
        with contextlib.suppress(RuntimeError):  # refused after a failed capture
            torch.cuda.empty_cache()
