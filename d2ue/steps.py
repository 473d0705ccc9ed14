"""One training step made cheap for a GPU: number formats, replicas, capture as a CUDA graph.

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

from d2ue.backbones import Autoencoder
from d2ue.config import TrainConfig
from d2ue.errors import InputError

#: Learners that train side by side at most: what is kept on the way takes 52 MB a learner on disk.
MOST_REPLICAS = 64
#: How much of a GPU's memory replicas may take: a captured graph has its memory for itself, beside
#: what the steps before it, run to warm up, leave cached.
FILL = 0.5


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


def replica_bytes(config: TrainConfig, senior_bytes: int = 0) -> int:
    """About how much memory one more replica takes while it trains, in bytes.

    Args:
        config: its settings.
        senior_bytes: what the features of its seniors take.

    Returns:
        Weights four times over (with their gradients and Adam's two moments), and twice what the
        forward pass keeps for the backward pass, which makes as much again on its way. Counted on
        a network without data, so on any machine alike.
    """
    c = config
    with torch.device("meta"):
        network = Autoencoder(c.backbone, 1, c.image_size, c.memory_slots, c.shrinkage)
        images = torch.empty(1, c.batch_size, 1, c.image_size, c.image_size)
    weights = {p.untyped_storage()._cdata: p.nbytes for p in network.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = network(images)  # held, so that no storage's name is given twice
    del output
    return 4 * sum(weights.values()) + 2 * sum(kept.values()) + senior_bytes


def fitting_replicas(memory: int, config: TrainConfig, senior_bytes: int = 0) -> int:
    """How many replicas `FILL` of a GPU's memory holds; 1 to `MOST_REPLICAS`.

    Args:
        memory: bytes that the GPU has, whether or not they are free: a training that was stopped
            must find the same groups again. Where they do not fit, they are halved.
        config: as for `replica_bytes`, which says what one takes.
        senior_bytes: as there.
    """
    most = int(FILL * memory / replica_bytes(config, senior_bytes))
    return max(1, min(MOST_REPLICAS, most))


def captured(
    step: Callable[[], None], changed: Callable[[], Mapping[str, Tensor]]
) -> Callable[[], None]:
    """`step` as one CUDA graph; `step` itself, with a warning, where it cannot be captured.

    Args:
        step: a training step that reads its input from, and leaves its result in, tensors that
            stay where they are; nothing in it waits for the host.
        changed: every tensor that a step changes, by name. Capturing runs some steps; what they
            changed is put back, and tensors that they made (Adam's moments) are set to zero.

    Raises:
        torch.OutOfMemoryError: if the GPU's memory does not hold the step.
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
    except torch.OutOfMemoryError:
        raise  # run operation by operation it would need about as much
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
