"""Eq. (1) and (4), and training: step by step, side by side, stopped and gone on with."""

import contextlib
import dataclasses
import hashlib
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn.functional import gaussian_nll_loss

from d2ue.backbones import Reconstruction
from d2ue.config import TrainConfig
from d2ue.ensemble import train_ensemble, train_ensembles, train_side_by_side
from d2ue.errors import D2UEError, DivergedError
from d2ue.learners import TRAINING_VERSION, learner_name, learner_settings
from d2ue.losses import reconstruction_loss, repulsion_loss, total_loss
from d2ue.similarity import linear_cka
from d2ue.store.learners import Store
from d2ue.training import LearnerTask, TrainState, initial_network, shuffle, train_learners

each_backbone = pytest.mark.parametrize("backbone", ("ae", "memae", "aeu"))
FLOAT64 = torch.float64
# Where a gradient is near Adam's epsilon (1e-8), a step carries its rounding divided by that
# epsilon and times the learning rate: a small one keeps float64's rounding under 1e-8.
GENTLE = 1e-4


def scaled(images: np.ndarray, dtype: torch.dtype = FLOAT64) -> torch.Tensor:
    """0 ... 255 to [-1, 1]."""
    return torch.as_tensor(images).to(dtype) / 127.5 - 1


def train_in_steps(configs, images, dtype=FLOAT64):
    """The learners of ensembles that train side by side: one network with R replicas a number."""
    networks, histories = [], []
    for number in range(1, configs[0].n_learners + 1):
        tasks = []
        for i, config in enumerate(configs):
            seniors = None
            if number > 1 and config.repels:
                x = scaled(images, dtype)[None]
                with torch.no_grad():
                    features = [n.replica(i)(x, config.layer).feature[0] for n in networks]
                seniors = torch.stack(features)
            tasks.append(LearnerTask(config, number, seniors))
        network, history = train_learners(tasks, images, dtype=dtype)
        networks.append(network)
        histories.append(history)
    return networks, histories


# --- the losses, by hand ---


def test_mean_squared_error_by_hand():
    """Two replicas of one image of two pixels: ((1 - 0)² + (0 - 2)²) / 2 and (0 + 9) / 2."""
    images = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).reshape(2, 1, 1, 1, 2)
    mean = torch.tensor([[0.0, 2.0], [1.0, 3.0]]).reshape(2, 1, 1, 1, 2)
    loss = reconstruction_loss("ae", Reconstruction(mean, None, None, None), images)
    assert loss.tolist() == [2.5, 4.5]


def test_entropy_of_the_addressing_by_hand():
    """Addressing (1/2, 1/2) and (1, 0): entropies ln 2 and 0, mean ln 2 / 2, times 0.1."""
    images = torch.zeros(1, 2, 1, 1, 1)
    addressing = torch.tensor([[[0.5, 0.5], [1.0, 0.0]]])
    output = Reconstruction(images, None, None, addressing)
    loss = reconstruction_loss("memae", output, images, entropy_weight=0.1)
    assert loss.item() == pytest.approx(0.1 * math.log(2) / 2, rel=1e-5)


def test_aeu_is_twice_the_gaussian_negative_log_likelihood():
    rng = torch.Generator().manual_seed(0)
    x, mean, s = torch.randn(3, 2, 4, 1, 5, 5, generator=rng, dtype=FLOAT64)
    loss = reconstruction_loss("aeu", Reconstruction(mean, s, None, None), x)
    for r in range(2):
        expected = 2 * gaussian_nll_loss(mean[r], x[r], s[r].exp(), eps=0)
        assert loss[r].item() == pytest.approx(expected.item(), rel=1e-12)


def test_repulsion_is_the_mean_over_seniors(literal_cka):
    """Eq. (1)."""
    features = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(0), dtype=FLOAT64)
    seniors, q = features[:3], features[3]
    expected = sum(literal_cka(p, q) for p in seniors) / 3
    assert repulsion_loss(seniors, q, linear_cka).item() == pytest.approx(expected.item())


def test_the_total_loss_by_hand():
    """Eq. (4): 2 + 0.5 · 3; Eq. (1) is 0 for the first learner."""
    assert total_loss(torch.tensor(2.0), torch.tensor(3.0), 0.5).item() == 3.5
    alone = repulsion_loss(torch.zeros(2, 0, 6, 3), torch.randn(2, 6, 3), linear_cka)
    assert alone.tolist() == [0, 0]


# --- the whole training ---


@pytest.mark.parametrize(
    ("backbone", "changes"),
    [
        ("ae", {"layer": "en1", "repulsion_weight": 0.3}),
        ("aeu", {"layer": "de1", "beta1": 0.8, "beta2": 0.9}),
        ("memae", {"layer": "de2", "entropy_weight": 0.5}),
    ],
)
def test_each_setting_acts_as_the_formulas_say(
    equal_tensors, literal_cka, tiny, draw_images, backbone, changes
):
    """Two steps in float64; whole trainings at the paper's settings are in test_plain."""
    config = tiny(backbone=backbone, batch_size=16, learning_rate=GENTLE, **changes)
    images = draw_images(16)
    expected = initial_network(LearnerTask(config, 2)).double().train()
    width = {"en1": 16 * 64, "de1": 16 * 64, "de2": 32 * 16}[config.layer]
    senior = torch.randn(16, width, generator=torch.Generator().manual_seed(0), dtype=FLOAT64)
    betas = config.beta1, config.beta2
    adam = torch.optim.Adam(expected.parameters(), config.lr, betas, foreach=False)
    for epoch in range(2):
        order = shuffle(16, (config.seed, 2), epoch)
        x = scaled(images)[order][None]
        output = expected(x, config.layer)
        l_orig = reconstruction_loss(backbone, output, x, config.entropy_weight)
        l_sim = literal_cka(senior[order], output.feature[0])
        adam.zero_grad()
        (l_orig.sum() + config.repulsion_weight * l_sim).backward()
        adam.step()
    task = LearnerTask(config, 2, senior[None])
    network, history = train_learners([task], images, dtype=FLOAT64)
    equal_tensors(network, expected, atol=1e-8)
    assert history[-1]["loss"][0] == pytest.approx(l_orig.item(), rel=1e-8)
    assert history[-1]["similarity"][0] == pytest.approx(l_sim.item(), rel=1e-8)


@each_backbone
def test_three_replicas_are_three_single_runs(equal_tensors, tiny, draw_images, backbone):
    """Seeds, similarities and lambdas mixed; weights and statistics of three learners."""
    settings = tiny(backbone=backbone, n_learners=3, batch_size=16, learning_rate=GENTLE)
    configs = [
        settings,
        settings.replace(seed=1, similarity="cosine", repulsion_weight=0.5),
        settings.replace(repulsion_weight=3.0),
    ]
    images = draw_images(36)
    together, history = train_in_steps(configs, images)
    for i, config in enumerate(configs):
        alone, own = train_in_steps([config], images)
        for stacked, single in zip(together, alone, strict=True):
            equal_tensors(stacked.replica(i), single, atol=1e-8)
        for many, one in zip(history, own, strict=True):
            for key in ("loss", "similarity"):
                values = [epoch[key][i] for epoch in many]
                np.testing.assert_allclose(values, [e[key][0] for e in one], rtol=0, atol=1e-9)


@each_backbone
def test_nan_in_one_replica_leaves_the_others_alone(equal_tensors, tiny, draw_images, backbone):
    images = draw_images(20)
    configs = [tiny(backbone=backbone, seed=seed) for seed in range(3)]
    features = torch.randn(3, 1, 20, 16, generator=torch.Generator().manual_seed(0))
    features[1] = float("nan")
    tasks = [LearnerTask(c, 2, f) for c, f in zip(configs, features, strict=True)]
    network, history = train_learners(tasks, images, dtype=FLOAT64)
    lost = network.replica(1).state_dict()
    assert any(not v.isfinite().all() for v in lost.values())
    assert not math.isfinite(history[-1]["loss"][1])
    for i in (0, 2):
        single, _ = train_learners([tasks[i]], images, dtype=FLOAT64)
        equal_tensors(network.replica(i), single, atol=1e-8)


def test_an_ensemble_is_its_steps(equal_tensors, tiny, draw_set):
    """train_ensemble (float32) is train_learners learner by learner, bit for bit."""
    config, data = tiny(n_learners=3), draw_set(20)
    ensemble = train_ensemble(config, data, progress=False, device="cpu")
    networks, histories = train_in_steps([config], data.images, torch.float32)
    assert len(ensemble) == 3 and ensemble.fingerprint == data.fingerprint
    for i, network in enumerate(networks):
        equal_tensors(ensemble.network.replica(i), network)
    for ours, steps in zip(ensemble.history, histories, strict=True):
        for one, other in zip(ours, steps, strict=True):
            assert one == {key: values[0] for key, values in other.items()}


def test_lambda_zero_is_no_repulsion_bit_for_bit(equal_tensors, tiny, draw_set):
    data = draw_set(20)
    zero, none, acting = (
        train_ensemble(tiny(**change), data, progress=False)
        for change in ({"repulsion_weight": 0.0}, {"similarity": "none"}, {})
    )
    equal_tensors(zero, none)
    assert not torch.equal(acting.network.output.weight[1], none.network.output.weight[1])


def test_first_learners_do_not_know_of_lambda_metric_or_layer(equal_tensors, tiny, draw_set):
    """Neither their weights nor, so that a store trains them once, their names."""
    data = draw_set(20)
    changes = ({}, {"repulsion_weight": 7.0}, {"layer": "de1"}, {"similarity": "none"})
    configs = [tiny(**change) for change in changes]
    assert len({learner_name(config, 1, data.fingerprint) for config in configs}) == 1
    first, *others = [train_ensemble(config, data, progress=False).first(1) for config in configs]
    for other in others:
        equal_tensors(first, other)


def test_an_ensemble_of_three_holds_that_of_two(equal_tensors, tiny, draw_set):
    data = draw_set(20)
    two = train_ensemble(tiny(n_learners=2), data, progress=False)
    three = train_ensemble(tiny(n_learners=3), data, progress=False)
    equal_tensors(three.first(2), two)
    assert three.first(2).config == two.config
    assert three.first(2).history == two.history


def test_the_last_partial_batch_is_dropped(equal_tensors, tiny, draw_images):
    """22 images in batches of 8: the six that stand last in the shuffle change nothing."""
    images, task = draw_images(22), LearnerTask(tiny(epochs=1), 1)
    order = shuffle(22, task.stream, 0)
    network, history = train_learners([task], images)
    changed = images.copy()
    changed[order[16:].numpy()] = 255 - changed[order[16:].numpy()]
    same, same_history = train_learners([task], changed)
    equal_tensors(network, same)
    assert history == same_history
    changed = images.copy()
    changed[order[15].item()] = 255 - changed[order[15].item()]
    other, _ = train_learners([task], changed)
    assert not torch.equal(network.output.weight, other.output.weight)


def test_exactly_one_batch_is_enough_and_one_image_less_is_not(tiny, draw_set, refused):
    config = tiny(epochs=1, n_learners=1)
    train_ensemble(config, draw_set(8), progress=False)
    with refused(7, 8, "batch"):
        train_ensemble(config, draw_set(7), progress=False)


def test_what_cannot_be_trained_is_refused(tiny, draw_set, refused):
    with refused(32, 16):
        train_ensemble(tiny(), draw_set(20, size=32), progress=False)
    with refused("Device", "'cuda:77'"):
        train_ensemble(tiny(), draw_set(20), device="cuda:77", progress=False)
    for change in ({"batch_size": 4}, {"precision": "bf16"}):
        with refused("share"):
            tasks = [LearnerTask(tiny(), 1), LearnerTask(tiny(**change), 1)]
            train_learners(tasks, draw_set(20).images)


@each_backbone
def test_a_hopeless_learning_rate_is_told_in_a_sentence(tiny, draw_set, backbone):
    config = tiny(backbone=backbone, learning_rate=1e20, epochs=3)
    with pytest.raises(DivergedError, match="learning rate") as caught:
        train_ensemble(config, draw_set(20), progress=False)
    text = str(caught.value)
    assert backbone in text and text.endswith(".") and "\n" not in text


def test_weights_that_are_lost_in_the_last_step_are_noticed(tiny, draw_set):
    """The loss is still finite then: it was computed before the step."""
    config = tiny(backbone="ae", n_learners=1, learning_rate=1e29, epochs=1, batch_size=20)
    with contextlib.suppress(DivergedError):
        ensemble = train_ensemble(config, draw_set(20), progress=False)
        outputs = ensemble.reconstruct(draw_set(4).images)
        assert outputs.isfinite().all(), "an ensemble that is lost was given out as trained"


def test_repulsion_makes_learners_less_alike(tiny, draw_set, literal_cka):
    data, alike = draw_set(32), {}
    for weight in (0.0, 1.0):
        config = tiny(batch_size=16, epochs=12, repulsion_weight=weight)
        features = train_ensemble(config, data, progress=False).features(data.images, "z")
        alike[weight] = float(literal_cka(*features.double()))
    assert alike[1.0] < alike[0.0] - 0.2


# --- randomness ---


def test_same_seed_same_bits_whatever_ran_before(equal_tensors, tiny, draw_set):
    data, config = draw_set(20), tiny(backbone="memae")
    one = train_ensemble(config, data, progress=False)
    torch.manual_seed(123), np.random.seed(5)
    torch.rand(7)
    equal_tensors(one, train_ensemble(config, data, progress=False))
    state = torch.get_rng_state()
    train_ensemble(config, data, progress=False)
    assert torch.equal(state, torch.get_rng_state())


def test_shuffles_are_permutations_of_their_own():
    keys = [((0, 1), 0), ((0, 1), 1), ((0, 2), 0), ((1, 1), 0)]
    drawn = [tuple(shuffle(50, *key).tolist()) for key in keys]
    assert all(sorted(order) == list(range(50)) for order in drawn) and len(set(drawn)) == 4
    assert torch.equal(shuffle(50, (0, 1), 1), shuffle(50, (0, 1), 1))


def test_initial_weights_depend_on_seed_and_number_alone(tiny):
    def start(number: int, **changes: object) -> torch.Tensor:
        return initial_network(LearnerTask(tiny(**changes), number)).output.weight

    assert torch.equal(start(2), start(2, repulsion_weight=9.0, similarity="cosine", epochs=77))
    assert not torch.equal(start(1), start(2))
    assert not torch.equal(start(1), start(1, seed=1))
    assert not torch.equal(start(2, seed=1), start(1, seed=2))


# --- going on ---


@each_backbone
def test_going_on_from_a_state_gives_the_same_bits(equal_tensors, tiny, draw_images, backbone):
    images = draw_images(20)
    seniors = torch.randn(2, 1, 20, 16, generator=torch.Generator().manual_seed(0))
    tasks = [LearnerTask(tiny(backbone=backbone, epochs=3, seed=i), 2, seniors[i]) for i in (0, 1)]
    states = []

    def keep(state: TrainState) -> None:
        tensors = {key: value.clone() for key, value in state.tensors.items()}
        states.append(TrainState(state.epoch, tensors, list(state.history)))

    network, history = train_learners(tasks, images, save=keep)
    assert [state.epoch for state in states] == [1, 2]
    for state in states:
        again, same_history = train_learners(tasks, images, state=state)
        equal_tensors(network, again)
        assert history == same_history


# --- many ensembles at once ---


def test_many_ensembles_are_the_single_ones(equal_tensors, tiny, draw_set):
    data = draw_set(20)
    configs = [
        tiny(n_learners=3),
        tiny(n_learners=2, repulsion_weight=0.0),
        tiny(n_learners=2, similarity="cosine", seed=1),
        tiny(n_learners=2, backbone="memae", layer="en2"),
        tiny(n_learners=1),
    ]
    singles = [train_ensemble(config, data, progress=False) for config in configs]
    # Side by side, float32 rounds otherwise, and where a gradient is all rounding Adam still steps
    # by lr, either way (0.0104 seen). In float64 both agree to 1e-8 (tested above).
    for replicas, tolerance in ((1, 0.0), (4, 2e-2)):
        together = train_ensembles(configs, data, replicas=replicas, progress=False)
        for config, ensemble, alone in zip(configs, together, singles, strict=True):
            assert ensemble.config == config and len(ensemble) == config.n_learners
            equal_tensors(ensemble, alone, atol=tolerance)
            for one, other in zip(ensemble.history, alone.history, strict=True):
                assert one[0]["loss"] == pytest.approx(other[0]["loss"], rel=1e-3)


@pytest.fixture
def small_memory(monkeypatch):
    """Sizes of the groups that trained, where memory does not hold more than two replicas.

    A CPU never raises a GPU's error; tests/test_steps.py does the same on a real one.
    """
    sizes: list[int] = []

    def train(tasks, *args, most=2, **options):
        network, history = train_learners(tasks, *args, **options)
        if len(tasks) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(len(tasks))
        return network, history

    monkeypatch.setattr("d2ue.learners.train_learners", train)
    train.sizes = sizes
    return train


def test_groups_too_large_for_the_memory_are_halved(
    equal_tensors, tiny, draw_set, small_memory, tmp_path
):
    data, store = draw_set(20), Store(tmp_path, state_interval=0)
    configs = [tiny(n_learners=1, seed=seed) for seed in range(5)]
    reported: list[int] = []
    halved = train_ensembles(
        configs, data, replicas=5, progress=False, store=store, report=reported.append
    )
    assert small_memory.sizes == [2, 1, 2]  # 5 -> 3 and 2; 3 -> 2 and 1
    assert sum(reported) == 5 * 2  # what was lost does not count
    assert not list((tmp_path / "states").iterdir())
    for config, ensemble in zip(configs, halved, strict=True):
        equal_tensors(ensemble, train_ensemble(config, data, progress=False), atol=2e-2)


def test_a_memory_that_holds_no_learner_is_said(tiny, draw_set, small_memory, monkeypatch):
    monkeypatch.setattr("d2ue.learners.train_learners", partial(small_memory, most=0))
    with pytest.raises(D2UEError, match="does not hold one learner at batches of 8"):
        train_ensemble(tiny(n_learners=1), draw_set(20), device="cpu", progress=False)


def test_what_ensembles_share_is_trained_once(tiny, draw_set, tmp_path):
    """Learner 1 is one for every lambda and metric; lambda 0 and "none" are one ensemble."""
    store, epochs = Store(tmp_path), []
    configs = [
        tiny(n_learners=3),
        tiny(n_learners=2),
        tiny(repulsion_weight=2.0),
        tiny(repulsion_weight=0.0),
        tiny(similarity="none"),
    ]
    for _ in range(2):
        train_ensembles(configs, draw_set(20), progress=False, store=store, report=epochs.append)
        # learner 1; learner 2 at lambda 1, 2 and 0; learner 3 at lambda 1
        assert sum(epochs) == 5 * 2


def test_learners_trained_alone_are_the_ensemble(equal_tensors, tiny, draw_set, refused, tmp_path):
    """As a cluster does it: each by itself, with its seniors from the store."""
    config, data, store = tiny(), draw_set(20), Store(tmp_path)
    with refused("before its senior"):
        train_side_by_side([(config, 2)], data, store=store)
    for number in (1, 2):
        train_side_by_side([(config, number)], data, store=store)
    (kept,) = train_ensembles([config], data, progress=False, store=store, report=pytest.fail)
    equal_tensors(kept, train_ensemble(config, data, progress=False))


def test_ensembles_share_no_weights(tiny, draw_set):
    one, two = train_ensembles([tiny(), tiny()], draw_set(20), progress=False)
    with torch.no_grad():
        one.network.output.weight.zero_()
    assert two.network.output.weight.any()


def test_one_ensemble_that_diverges_does_not_cost_the_others(tiny, draw_set, tmp_path):
    store, data = Store(tmp_path), draw_set(20)
    good, bad = tiny(), tiny(learning_rate=1e20, seed=6)
    with pytest.raises(DivergedError, match="seed 6"):
        train_ensembles([bad, good], data, progress=False, store=store)
    names = {learner_name(good, k, data.fingerprint) for k in (1, 2)}
    assert {folder.name for folder in (tmp_path / "learners").iterdir()} == names


# --- names ---

OTHER = {
    "backbone": "aeu", "n_learners": 5, "similarity": "cosine", "repulsion_weight": 0.5,
    "layer": "en1", "epochs": 3, "batch_size": 16, "learning_rate": 0.1, "beta1": 0.4,
    "beta2": 0.99, "image_size": 32, "seed": 1, "memory_slots": 7, "shrinkage": 0.01,
    "entropy_weight": 0.25, "precision": "bf16",
}  # fmt: skip
MEMORY = {"memory_slots", "shrinkage", "entropy_weight"}
REPULSION = {"similarity", "repulsion_weight", "layer"}
ALWAYS = OTHER.keys() - MEMORY - REPULSION - {"n_learners"}


@pytest.mark.parametrize(
    ("number", "base", "acting"),
    [
        (1, {}, ALWAYS),
        (2, {}, ALWAYS | REPULSION),
        (3, {"n_learners": 3}, ALWAYS | REPULSION),
        (1, {"backbone": "memae"}, ALWAYS | MEMORY),
        (2, {"backbone": "memae"}, ALWAYS | MEMORY | REPULSION),
        (2, {"repulsion_weight": 0.0}, ALWAYS | {"repulsion_weight"}),
        (2, {"similarity": "none"}, ALWAYS | {"similarity"}),
    ],
)
def test_a_name_changes_with_all_that_acts_and_with_nothing_else(tiny, number, base, acting):
    config = tiny(**base)
    name = learner_name(config, number, "data")
    assert OTHER.keys() == {f.name for f in dataclasses.fields(TrainConfig)}
    changed = {
        field
        for field, value in OTHER.items()
        if learner_name(config.replace(**{field: value}), number, "data") != name
    }
    assert changed == acting
    assert learner_name(config, number, "other data") != name


def test_names_hold_the_seniors_names(tiny):
    config = tiny(n_learners=3)
    settings = learner_settings(config, 3, "data")
    assert settings["seniors"] == [learner_name(config, k, "data") for k in (1, 2)]
    assert "seniors" not in learner_settings(config.replace(repulsion_weight=0.0), 3, "data")
    assert len({learner_name(config, k, "data") for k in (1, 2, 3)}) == 3


def test_equal_settings_have_equal_names(tiny):
    """The paper's learning rate is the same filled in or given; 1 is 1.0; lambda 0 is "none"."""
    for one, other in (
        (tiny(), tiny(learning_rate=5e-4)),
        (tiny(repulsion_weight=1), tiny(repulsion_weight=1.0)),
        (tiny(learning_rate=1), tiny(learning_rate=1.0)),
        (tiny(backbone="memae", shrinkage=0), tiny(backbone="memae", shrinkage=0.0)),
        (tiny(repulsion_weight=0.0), tiny(similarity="none")),
        (tiny(repulsion_weight=0.0, similarity="cosine", layer="en1"), tiny(similarity="none")),
    ):
        assert learner_name(one, 2, "data") == learner_name(other, 2, "data")


def test_names_are_stable(monkeypatch):
    """A name that changes without TRAINING_VERSION or a setting would orphan every kept learner."""
    written_out = (
        '{"backbone": "ae", "batch_size": 64, "beta1": 0.5, "beta2": 0.999, "data": "waves", '
        '"epochs": 250, "image_size": 64, "learning_rate": 0.0005, "number": 1, '
        '"precision": "float32", "seed": 0, "training_version": 1}'
    )
    name = learner_name(TrainConfig(backbone="ae"), 1, "waves")
    assert name == hashlib.sha256(written_out.encode()).hexdigest()[:16]
    repelled = learner_name(TrainConfig(backbone="ae"), 3, "waves")
    monkeypatch.setitem(TRAINING_VERSION, "float32", 2)
    assert learner_name(TrainConfig(backbone="ae"), 1, "waves") != name
    assert learner_name(TrainConfig(backbone="ae"), 3, "waves") != repelled
