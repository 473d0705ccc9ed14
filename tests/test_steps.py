"""Number formats of a training step, and its capture as a CUDA graph.

What runs on a GPU only is marked so. Two correct kernels round otherwise, and training enlarges
that beyond any tolerance in float32, so that whole trainings are compared in float64.
"""

import contextlib
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from d2ue.backbones import forward
from d2ue.config import TrainConfig
from d2ue.ensemble import train_ensemble, train_ensembles
from d2ue.fast.steps import _factors, captured, half_products, is_memory_error, precision
from d2ue.learners import MOST_REPLICAS, fitting_replicas, replica_bytes
from d2ue.losses import reconstruction_loss
from d2ue.similarity import SIMILARITIES, linear_cka
from d2ue.training import LearnerTask, _Objective, initial_network, train_learners

CPU = torch.device("cpu")
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU on this machine")


def weights(network) -> torch.Tensor:
    """All parameters and statistics, one after another."""
    return torch.cat([v.flatten().double().cpu() for v in network.state_dict().values()])


def test_tf32_is_refused_where_there_is_none(refused, draw_set):
    with refused("tf32 is for CUDA"), precision("tf32", CPU):
        pass
    config = TrainConfig(backbone="ae", precision="tf32", epochs=1, batch_size=8, image_size=16)
    with refused("tf32 is for CUDA"):
        train_ensemble(config, draw_set(8, 16), device="cpu", progress=False)


def test_bf16_rounds_products_and_float32_does_not():
    x = torch.tensor([[1 + 2.0**-12]])
    with torch.autocast("cpu", torch.bfloat16):  # a caller's does not reach in
        with precision("bf16", CPU):
            with half_products("bf16", CPU):
                rounded = x @ x
            outside = x @ x
        with precision("float32", CPU), half_products("float32", CPU):
            exact = x @ x
    assert torch.equal(outside, exact)
    assert rounded.dtype == torch.bfloat16 and rounded.item() == 1
    assert exact.item() == 1 + 2.0**-11  # the last bit of the square is beyond float32
    assert not torch.is_autocast_enabled("cpu")


def test_similarity_is_taken_in_float32_of_bf16s_features(draw_images):
    config = TrainConfig(backbone="ae", batch_size=16, image_size=16, precision="bf16")
    seniors = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0))
    task = LearnerTask(config, 3, seniors)
    network = initial_network(task).train()
    x = torch.as_tensor(draw_images(16, 16)).unsqueeze(0) / 127.5 - 1
    rows, index = torch.zeros(1, 1, dtype=torch.int64), torch.arange(16).unsqueeze(0)
    with precision("bf16", CPU):
        l_orig, l_sim = _Objective([task], CPU, torch.float32)(network, x, rows, index)
        with half_products("bf16", CPU):
            feature = network(x, "z").feature[0]
    assert l_orig.dtype == l_sim.dtype == torch.float32
    by_hand = torch.stack([linear_cka(senior, feature.float()) for senior in seniors]).mean()
    assert torch.allclose(l_sim[0], by_hand, rtol=1e-6)


def test_torchs_settings_are_left_as_they_were():
    places = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = [place.fp32_precision for place in places]
    for name in ("ieee", "tf32"):
        with pytest.raises(ZeroDivisionError), _factors(name):
            assert [place.fp32_precision for place in places] == [name, name]
            raise ZeroDivisionError
        assert [place.fp32_precision for place in places] == before


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (RuntimeError("GET was unable to find an engine to execute this computation"), False),
        (RuntimeError("expected scalar type Float but found Double"), False),
        (ValueError("out of memory"), False),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_full_memory_is_told_from_other_errors(error, is_one):
    assert is_memory_error(error) is is_one
    later = RuntimeError("CUDA error: operation failed due to a previous error during capture")
    later.__context__ = error
    assert is_memory_error(later) is is_one


def test_scores_are_float32_whatever_the_caller_chose():
    network = LearnerTask(TrainConfig(backbone="ae", image_size=16), 1)
    learner = initial_network(network).eval()
    x = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    plain = forward(learner, x).mean
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(forward(learner, x).mean, plain)


@pytest.mark.parametrize("backbone", ["ae", "memae", "aeu"])
def test_bf16_trains_as_float32_does_but_for_rounding(backbone, draw_images):
    images = draw_images(16, 16)
    base = TrainConfig(backbone=backbone, epochs=3, batch_size=8, image_size=16)
    losses = {}
    for name in ("float32", "bf16"):
        task = LearnerTask(base.replace(precision=name), 1)
        network, history = train_learners([task], images)
        losses[name] = np.array([epoch["loss"][0] for epoch in history])
        assert network.output.weight.dtype == torch.float32
    difference = np.abs(losses["bf16"] - losses["float32"]).max()
    assert difference < 0.02 * losses["float32"][0]  # bf16 has 8 bits
    assert not np.array_equal(losses["bf16"], losses["float32"])


class OnMeta(TorchDispatchMode):
    """Refuses every operation that a tensor with values takes part in."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)]
        assert all(t.is_meta for t in tensors), func
        return out


class HalfProducts(TorchFunctionMode):
    """Autocast to bf16 for the meta device, which has none of its own."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.bmm, F.conv2d, F.conv_transpose2d):
            args = [arg.bfloat16() if isinstance(arg, torch.Tensor) else arg for arg in args]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["float32", "bf16"])
@pytest.mark.parametrize("backbone", ["ae", "memae", "aeu"])
def test_no_step_looks_at_the_host(backbone, name, draw_images, monkeypatch):
    """On the meta device, where `.item()`, `float(...)` and `if tensor` raise; all similarities."""
    steps, looks = [], []

    @contextlib.contextmanager
    def watched(*_):
        steps.append(name)
        with OnMeta():
            yield

    def tolist(tensor):
        looks.append(tensor.is_meta)
        return torch.zeros(tensor.shape).numpy().tolist()

    half = HalfProducts if name == "bf16" else contextlib.nullcontext
    monkeypatch.setattr("d2ue.training.precision", watched)
    monkeypatch.setattr("d2ue.training.half_products", lambda *_: half())
    monkeypatch.setattr(torch.optim, "Adam", lambda weights, lr, **_: torch.optim.SGD(weights, lr))
    monkeypatch.setattr(torch.Tensor, "tolist", tolist)
    small = {"image_size": 16, "batch_size": 8, "epochs": 3, "precision": name}
    configs = [TrainConfig(backbone=backbone, similarity=s, **small) for s in SIMILARITIES]
    tasks = [LearnerTask(config, 3, torch.zeros(2, 20, 16)) for config in configs]
    train_learners(tasks, draw_images(20), device="meta")
    assert len(steps) == 3 * 2 and looks == 3 * [True]  # one look an epoch


@pytest.mark.parametrize("backbone", ["ae", "memae", "aeu"])
def test_what_a_replica_takes_is_enough_and_not_many_times_too_much(backbone, draw_images):
    """Against every allocation of one real step, gradients included, beside Adam's two moments."""
    config = TrainConfig(backbone=backbone, batch_size=32)
    network = initial_network(LearnerTask(config, 1)).train()
    weights = sum(p.nbytes for p in network.parameters())
    x = torch.as_tensor(draw_images(32, 64)).unsqueeze(0) / 127.5 - 1
    with torch.profiler.profile(profile_memory=True) as profile:
        reconstruction_loss(backbone, network(x), x).sum().backward()
    events = profile.profiler.kineto_results.events()
    held = np.cumsum([event.nbytes() for event in events if event.name() == "[memory]"])
    taken = held.max() + 3 * weights
    assert taken < replica_bytes(config) < 2 * taken


def test_replicas_fill_half_the_memory():
    config = TrainConfig(backbone="ae")
    one = replica_bytes(config)
    assert fitting_replicas(20 * one, config) == 10
    assert fitting_replicas(20 * one, config, senior_bytes=one) == 5
    assert fitting_replicas(one, config) == 1  # fewer cannot be tried
    assert fitting_replicas(10_000 * one, config) == MOST_REPLICAS


@on_gpu
def test_groups_that_do_not_fit_are_halved_on_a_gpu(draw_set):
    """Memory for some five replicas, and sixteen asked for."""
    configs = [
        TrainConfig(backbone="ae", n_learners=1, epochs=1, batch_size=16, seed=s) for s in range(16)
    ]
    data = draw_set(16, 64)
    plain = train_ensembles(configs, data, device="cuda", replicas=1, progress=False)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((5 * 2 * replica_bytes(configs[0])) / total)
    try:
        halved = train_ensembles(configs, data, device="cuda", replicas=16, progress=False)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    for one, other in zip(plain, halved, strict=True):
        assert (weights(one.network) - weights(other.network)).abs().max() < 2e-2


@on_gpu
@pytest.mark.parametrize("backbone", ["ae", "memae", "aeu"])
@pytest.mark.filterwarnings("error")  # such as the one that says it was not captured
def test_captured_steps_are_the_eager_ones(backbone, draw_images):
    images = draw_images(40, 64)
    tasks = []
    for seed in (1, 2, 3):
        config = TrainConfig(backbone=backbone, epochs=10, batch_size=16, seed=seed)
        seniors = torch.randn(1, 40, 16, generator=torch.Generator().manual_seed(seed))
        tasks.append(LearnerTask(config, 2, seniors))
    options = {"device": "cuda", "dtype": torch.float64}
    graph, its_history = train_learners(tasks, images, **options)
    eager, history = train_learners(tasks, images, capture=False, **options)
    assert (weights(graph) - weights(eager)).abs().max() < 1e-8  # after 20 steps
    for one, other in zip(its_history, history, strict=True):
        for key in one:
            assert one[key] == pytest.approx(other[key], rel=1e-8)


@on_gpu
def test_replicas_on_a_gpu_are_single_runs(draw_images):
    """One of them diverges, and the others do not notice."""
    images = draw_images(40, 64)
    config = TrainConfig(backbone="ae", epochs=10, batch_size=16)
    seniors = torch.randn(1, 40, 16, generator=torch.Generator().manual_seed(0))
    lambdas = (1.0, 0.1, 1e30, 10.0)
    tasks = [
        LearnerTask(config.replace(seed=s, repulsion_weight=weight), 2, seniors)
        for s, weight in enumerate(lambdas)
    ]
    options = {"device": "cuda", "dtype": torch.float64}
    together, _ = train_learners(tasks, images, **options)
    for i, task in enumerate(tasks):
        if lambdas[i] < 1e30:
            alone, _ = train_learners([task], images, **options)
            assert (weights(together.replica(i)) - weights(alone)).abs().max() < 1e-8


@on_gpu
@pytest.mark.parametrize("name", ["float32", "tf32"])
def test_gradients_too_are_of_the_number_format(name, draw_images, monkeypatch):
    seen: list[tuple[str, str]] = []

    class Look(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):
            return value.clone()

        @staticmethod
        def backward(ctx, gradient):
            places = torch.backends.cuda.matmul, torch.backends.cudnn.conv
            seen.append(tuple(place.fp32_precision for place in places))
            return gradient

    monkeypatch.setattr("d2ue.losses.total_loss", lambda a, b, weight: Look.apply(a + weight * b))
    config = TrainConfig(backbone="ae", epochs=1, batch_size=16, precision=name)
    train_learners([LearnerTask(config, 1)], draw_images(16, 64), device="cuda", capture=False)
    asked = "tf32" if name == "tf32" else "ieee"
    assert seen == [(asked, asked)]


@on_gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is no second GPU")
def test_a_second_gpu_is_trained_on_as_the_first(draw_images):
    tasks = [LearnerTask(TrainConfig(backbone="ae", epochs=2, batch_size=16), 1)]
    images, options = draw_images(32, 64), {"dtype": torch.float64}
    first, _ = train_learners(tasks, images, device="cuda:0", **options)
    second, _ = train_learners(tasks, images, device="cuda:1", **options)
    assert (weights(first) - weights(second)).abs().max() < 1e-8


def test_each_group_tries_to_be_captured_anew(monkeypatch):
    """A failed capture warns and runs as it is, but for a full memory; CUDA is a stand-in here."""

    def nothing(*_, **__):
        return contextlib.nullcontext()

    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name in ("stream", "device", "graph", "set_stream", "CUDAGraph"):
        monkeypatch.setattr(torch.cuda, name, nothing)
    for name in ("current_stream", "Stream"):
        monkeypatch.setattr(torch.cuda, name, lambda device: stream)
    total, runs = torch.zeros(1), []
    fails = ["not permitted", "unable to find an engine", "out of memory"]

    def step() -> None:
        total.add_(1)
        runs.append(1)
        if len(runs) % 4 == 0:  # three to warm up, then the capture
            raise RuntimeError(fails[len(runs) // 4 - 1])

    for words in fails[:2]:
        with pytest.warns(RuntimeWarning, match=words):
            assert captured(step, lambda: {"total": total}, CPU) is step
        assert total.item() == 0
    with pytest.raises(torch.OutOfMemoryError):
        captured(step, lambda: {"total": total}, CPU)


@on_gpu
def test_what_cannot_be_captured_runs_as_it_is_and_starts_where_it_was():
    """In a process of its own, since a failed capture may spoil the later ones."""
    code = """
import warnings, torch
from d2ue.fast.steps import captured
total = torch.zeros(1, device="cuda")
def step():
    total.add_(1)
    total.item()  # a look at the host, which no graph can hold
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    launch = captured(step, lambda: {"total": total}, total.device)
assert "could not be captured" in str(said[0].message), said
assert total.item() == 0 and torch.cuda.current_stream() == torch.cuda.default_stream()
launch()
assert total.item() == 1
assert captured(step, lambda: {"total": total}, total.device) is step
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@on_gpu
def test_capturing_leaves_no_trace():
    total, made = torch.zeros(1, device="cuda"), {}

    def step() -> None:
        total.add_(1)
        made.setdefault("moment", torch.zeros(1, device="cuda")).add_(2)

    launch = captured(step, lambda: {"total": total, **made}, total.device)
    assert launch is not step
    assert total.item() == 0 and made["moment"].item() == 0
    launch()
    launch()
    assert total.item() == 2 and made["moment"].item() == 4
