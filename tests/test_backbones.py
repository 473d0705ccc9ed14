"""AE, MemAE and AEU against PyTorch's own layers, and the replica axis."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.func import functional_call

from d2ue import backbones
from d2ue.backbones import Autoencoder, stack
from d2ue.fast import cpu

BACKBONES = ("ae", "memae", "aeu")
each_backbone = pytest.mark.parametrize("backbone", BACKBONES)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def disturbed(backbone: str, replicas: int = 1, image_size: int = 16) -> Autoencoder:
    """A float64 network whose BatchNorms are not at their start (weights 1, biases 0, ...)."""
    network = Autoencoder(backbone, replicas, image_size, generator=seeded(3)).double()
    generator = seeded(4)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if "norm" in name:
                value += 0.5 * torch.rand(value.shape, generator=generator)
    return network


# --- against PyTorch's own layers ---


@each_backbone
@pytest.mark.parametrize("image_size", [16, 32, 64, 128])
def test_initial_weights_are_pytorchs_bit_for_bit(
    plain_learner, equal_tensors, backbone, image_size
):
    """The same stream, the same order of draws, the same fan-in of every kind of layer."""
    with torch.random.fork_rng():
        torch.manual_seed(11)
        plain = plain_learner(backbone, image_size)
    equal_tensors(Autoencoder(backbone, image_size=image_size, generator=seeded(11)), plain)


@each_backbone
@pytest.mark.parametrize("image_size", [16, 64])
def test_outputs_features_and_statistics_are_pytorchs(plain_learner, backbone, image_size):
    """Two steps in training mode (the statistics move), then evaluation mode, every stage."""
    network = disturbed(backbone, image_size=image_size)
    with torch.no_grad():
        plain = plain_learner(backbone, image_size).double().take(network)
    for step, training in enumerate((True, True, False)):
        network.train(training), plain.train(training)
        x = noise(6, 1, image_size, image_size, seed=step).double()
        stages = plain.run(x)
        features = {}
        for name in network.layers if step else ():
            # A forward pass in training mode moves the statistics: look at copies.
            copy = stack([network]) if training else network
            features[name] = copy(x[None], name).feature[0]
        ours = network(x[None])
        torch.testing.assert_close(ours.mean[0], stages["output"][:, :1], rtol=0, atol=1e-10)
        if backbone == "aeu":
            variance = stages["output"][:, 1:]
            torch.testing.assert_close(ours.log_variance[0], variance, rtol=0, atol=1e-10)
        if backbone == "memae":
            addressing = plain.memory.addressing
            torch.testing.assert_close(ours.addressing[0], addressing, rtol=0, atol=1e-10)
        for name, feature in features.items():
            torch.testing.assert_close(feature, stages[name].flatten(1), rtol=0, atol=1e-10)
        for mine, theirs in zip(network.state_dict().values(), plain.tensors(), strict=True):
            torch.testing.assert_close(mine[0], theirs, rtol=0, atol=1e-12)


@each_backbone
def test_nine_layers_and_their_widths(backbone):
    """The layer table, flattened."""
    network = Autoencoder(backbone, replicas=2).eval()
    widths = {
        "en1": 16 * 32 * 32, "en2": 32 * 16 * 16, "en3": 64 * 8 * 8, "en4": 64 * 4 * 4,
        "z": 16,
        "de4": 64 * 4 * 4, "de3": 64 * 8 * 8, "de2": 32 * 16 * 16, "de1": 16 * 32 * 32,
    }  # fmt: skip
    assert tuple(network.layers) == tuple(widths)
    for name, width in widths.items():
        output = network(noise(2, 3, 1, 64, 64), name)
        assert output.feature.shape == (2, 3, width)
        assert output.mean.shape == (2, 3, 1, 64, 64)
    assert (output.log_variance is not None) == (backbone == "aeu")
    assert (output.addressing is not None) == (backbone == "memae")
    assert network(noise(2, 3, 1, 64, 64)).feature is None


# --- MemAE's memory ---


@pytest.mark.parametrize(
    ("slots", "shrinkage"), [(25, 0.0025), (25, 0.04), (10, 0.0), (200, 0.0025)]
)
def test_addressing_is_the_published_one(slots, shrinkage):
    """relu(w - l) w / (|w - l| + eps), L1-normalised; sums to one; sparse."""
    network = Autoencoder("memae", 1, 16, slots, shrinkage, seeded(0)).double().eval()
    with torch.no_grad():
        network.memory.items *= 20  # peaked addressing, so that something is shrunk
        network.to_latent.narrow.weight *= 5
    output = network(noise(1, 30, 1, 16, 16).double(), "z")
    w = torch.softmax(output.feature[0] @ network.memory.items[0].T, 1)
    shrunk = torch.relu(w - shrinkage) * w / (torch.abs(w - shrinkage) + 1e-12)
    expected = shrunk / shrunk.sum(1, keepdim=True)
    torch.testing.assert_close(output.addressing[0], expected, rtol=1e-6, atol=1e-12)
    ones = torch.ones(30, dtype=torch.float64)
    torch.testing.assert_close(output.addressing[0].sum(1), ones, rtol=0, atol=1e-12)
    kept = output.addressing[0] > 0
    assert (output.addressing[0][kept] > shrinkage).all()  # normalising only enlarges
    if shrinkage:
        assert 0 < kept.sum() < kept.numel()
        assert (output.addressing[0][~kept] == 0).all()


def test_the_memory_does_not_hide_a_network_that_is_lost():
    """NaN > shrinkage is false: without care a broken encoder looks like an empty addressing."""
    network = disturbed("memae").eval()
    with torch.no_grad():
        network.to_latent.narrow.bias.fill_(float("nan"))
    assert network(noise(1, 5, 1, 16, 16).double()).mean.isnan().all()


# --- the replica axis ---


@each_backbone
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("way", ["_one_by_one", "_together"])  # a CPU's and a GPU's
def test_replicas_are_single_networks(backbone, training, way):
    """Outputs, gradients and BatchNorm statistics of R = 3 are those of three networks."""
    network = disturbed(backbone, replicas=3).train(training)
    singles = [network.replica(i) for i in range(3)]
    x = noise(3, 5, 1, 16, 16).double().requires_grad_(True)
    several = getattr(network, way)(x, "z")
    several.mean.square().sum().backward()
    state = network.state_dict(keep_vars=True)
    for i, single in enumerate(singles):
        assert single.training is training and single.replicas == 1
        own = x[i : i + 1].detach().requires_grad_(True)
        alone = single(own, "z")
        alone.mean.square().sum().backward()
        for ours, theirs in zip(several, alone, strict=True):
            assert (ours is None) == (theirs is None)
            if ours is not None:
                torch.testing.assert_close(ours[i], theirs[0], rtol=0, atol=1e-10)
        torch.testing.assert_close(x.grad[i], own.grad[0], rtol=0, atol=1e-9)
        for key, value in single.state_dict(keep_vars=True).items():
            torch.testing.assert_close(state[key][i], value[0], rtol=0, atol=1e-12)
            if value.requires_grad:
                torch.testing.assert_close(state[key].grad[i], value.grad[0], rtol=1e-8, atol=1e-9)


@each_backbone
def test_nan_in_one_replica_stays_there(backbone):
    network = disturbed(backbone, replicas=3).train()
    x = noise(3, 5, 1, 16, 16).double()
    x[1] = float("nan")
    output = network._together(x, "z")
    output.mean.sum().backward()
    assert output.mean[[0, 2]].isfinite().all() and output.mean[1].isnan().all()
    for name, value in network.state_dict().items():
        assert value[[0, 2]].isfinite().all(), name
    assert all(p.grad[[0, 2]].isfinite().all() for p in network.parameters())


@each_backbone
def test_stack_and_replica_undo_each_other(equal_tensors, backbone):
    one, two = disturbed(backbone, replicas=2), disturbed(backbone)
    both = stack([one, two])
    assert both.replicas == 3 and both.settings == one.settings
    assert both.output.weight.dtype == torch.float64
    equal_tensors(both.replica(1), one.replica(1))
    equal_tensors(both.replica(2), two)
    equal_tensors(stack([both.replica(i) for i in range(3)]), both)


def test_stacks_and_replicas_own_their_memory():
    network = disturbed("ae", replicas=2)
    kept = {key: value.clone() for key, value in network.state_dict().items()}
    for copy in (network.replica(1), stack([network])):
        with torch.no_grad():
            for value in copy.state_dict().values():
                value.zero_()
    assert all(torch.equal(value, kept[key]) for key, value in network.state_dict().items())


# --- refusals ---


def test_other_images_and_layers_are_refused(refused):
    network = Autoencoder("ae", image_size=16)
    for shape in ((1, 2, 1, 32, 32), (1, 2, 3, 16, 16), (2, 2, 1, 16, 16), (2, 1, 16, 16)):
        with refused("(1, B, 1, 16, 16)", shape):
            network(noise(*shape))
    with refused("en1, en2, z, de2, de1", "'en4'"):
        network(noise(1, 2, 1, 16, 16), "en4")


def test_only_networks_of_one_architecture_are_stacked(refused):
    with refused("at least one"):
        stack([])
    base = {"backbone": "memae", "image_size": 16}
    for change in ({"backbone": "aeu"}, {"image_size": 32}, {"memory_slots": 6}):
        with refused("one architecture"):
            stack([Autoencoder(**base), Autoencoder(**(base | change))])


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The layer's forward pass with these tensors for its own."""
    layer = backbones._Linear(len(x), x.shape[-1], bias.shape[-1], None)
    return functional_call(layer, {"weight": weight, "bias": bias}, x)


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("size", [(2, 2), (5, 3), (32, 32)])
def test_the_narrow_transposed_convolution_is_pytorchs(outputs, size):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, *size, generator=generator, dtype=torch.float64)
    weight = torch.randn(4, outputs, 4, 4, generator=generator, dtype=torch.float64)
    expected = torch.nn.functional.conv_transpose2d(x, weight, stride=2, padding=1)
    for layout in (torch.contiguous_format, torch.channels_last):
        got = cpu.spread(x.contiguous(memory_format=layout), weight)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["CpuConv", "CpuConvTranspose"])
@pytest.mark.parametrize("narrow", [1, 2])
def test_gradients_of_the_narrow_convolutions(kind, narrow):
    generator = torch.Generator().manual_seed(1)
    function = getattr(cpu, kind)
    channels, weight = {"CpuConv": (narrow, (3, narrow, 4, 4))}.get(kind, (3, (3, narrow, 4, 4)))
    x = torch.randn(2, channels, 4, 6, generator=generator, dtype=torch.float64)
    w = torch.randn(weight, generator=generator, dtype=torch.float64)
    torch.autograd.gradcheck(function.apply, (x.requires_grad_(), w.requires_grad_()))


@pytest.mark.parametrize("replicas", [1, 3])
def test_in_autocast_linear_layers_round_their_factors_and_nothing_else(replicas):
    """Value and gradients against float64 products of what bf16 leaves of each factor."""
    shapes = (replicas, 5, 24), (replicas, 40, 24), (replicas, 40)
    tensors = [noise(*shape, seed=i).requires_grad_() for i, shape in enumerate(shapes)]
    with torch.autocast("cpu", torch.bfloat16):
        out = linear(*tensors)
    assert out.dtype == torch.bfloat16
    x, weight, bias = (t.detach().bfloat16().double().requires_grad_() for t in tensors)
    plain = torch.einsum("rbi,roi->rbo", x, weight) + bias[:, None]
    g = noise(*out.shape, seed=9).bfloat16()
    found = torch.autograd.grad(out, tensors, g)
    wanted = torch.autograd.grad(plain, (x, weight, bias), g.double())
    for mine, theirs in zip((out, *found), (plain, *wanted), strict=True):
        # Rounded once, to 8 bits; sums of many terms lose as much of their largest.
        off = (mine - theirs).abs() - 2**-8 * theirs.abs()
        assert off.max() <= 2**-8 * theirs.abs().max()
    assert [t.dtype for t in found] == 3 * [torch.float32]


@pytest.mark.parametrize("outputs", [1, 2])
def test_in_autocast_the_convolution_to_an_image_stays_float32(outputs):
    layer = backbones._ConvTranspose(1, 4, outputs, seeded(0))
    found = []
    for autocast in (False, True):
        x = noise(3, 4, 8, 8).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = layer(x)
        gradients = torch.autograd.grad(out.square().sum(), (x, layer.weight))
        found.append((out, *gradients))
    for without, within in zip(*found, strict=True):
        assert torch.equal(without, within)


def test_threads_do_not_share_what_replicas_go_through():
    """Networks of one architecture, called at once from many threads, keep their weights."""
    networks = [Autoencoder("ae", 2, 16, generator=seeded(s)).eval() for s in range(4)]
    x = noise(2, 3, 1, 16, 16)
    with torch.no_grad():
        expected = [network(x).mean for network in networks]

    def run(i: int) -> bool:
        with torch.no_grad():
            return torch.equal(networks[i % 4](x).mean, expected[i % 4])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(run, range(80)))
