"""Controls: hand values, independent implementations, and their way into records and tables."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from d2ue.datasets.types import Dataset, ImageSet
from d2ue.ensemble import train_ensemble
from d2ue.experiments import batch, controls, layouts
from d2ue.experiments import rows as tables
from d2ue.experiments.records import score_control
from d2ue.store.exchange import export, import_into, read_records
from d2ue.store.learners import Store
from d2ue.store.results import CONTROLS, DataKey, get_record, put_record, record_name
from d2ue.uncertainty import image_scores


def grey(*rows):
    """One image of these rows: uint8 [1, 1, H, W]."""
    return np.array(rows, np.uint8)[None, None]


DOT = grey([0, 0, 0, 0], [0, 8, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0])


def test_intensity_and_sharpness_by_hand():
    assert controls.mean_intensity(DOT).tolist() == [0.5]  # 8 / 16
    # inner pixels of the dot: 4 · 8, two neighbours of 8, one of 0
    assert controls.sharpness(DOT).tolist() == [(32 + 8 + 8) / 4]
    ramp = np.tile(np.arange(0, 80, 10, dtype=np.uint8), (1, 1, 8, 1))
    assert controls.sharpness(ramp).tolist() == [0]


def test_sharpness_is_scipys_laplacian(draw_images):
    images = draw_images(5)
    inner = [ndimage.laplace(x.astype(float))[1:-1, 1:-1] for x in images[:, 0]]
    np.testing.assert_allclose(controls.sharpness(images), np.abs(inner).mean((1, 2)))


def test_distances_by_hand():
    """Root mean square over 4 pixels: 4 grey levels off in one is 2, in all is 4."""
    train = np.concatenate([grey([0, 0], [0, 0]), grey([8, 8], [8, 8])])
    images = np.concatenate([grey([0, 0], [0, 4]), grey([8, 8], [8, 8]), grey([4, 4], [4, 4])])
    assert controls.nearest_neighbour(images, train).tolist() == [2, 0, 4]
    found = controls.distance_to_mean(images, train)
    np.testing.assert_allclose(found, [np.sqrt(3 * 16 / 4), 4, 0])


def test_neighbours_are_those_of_all_pairs(draw_images):
    images, train = draw_images(9, seed=1), draw_images(13, seed=2)
    train[4] = images[3]
    pairs = images[:, None].astype(float) - train[None].astype(float)
    nearest = np.sqrt(np.square(pairs).mean((2, 3, 4))).min(1)
    found = controls.nearest_neighbour(images, train)
    np.testing.assert_allclose(found, nearest)
    assert found[3] == 0  # a copy is at distance 0 exactly


def test_pca_is_the_projection_by_singular_vectors(draw_images):
    images, train = draw_images(6, seed=1), draw_images(30, seed=2)
    flat = train.reshape(30, -1).astype(float)
    _, _, directions = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    x = images.reshape(6, -1) - flat.mean(0)
    rest = x - x @ directions[:4].T @ directions[:4]
    found = controls.pca_error(images, train, 4)
    np.testing.assert_allclose(found, np.sqrt(np.square(rest).mean(1)), rtol=1e-8)
    np.testing.assert_array_equal(found, controls.pca_error(images, train, 4))
    # as many components as images: nothing of train is left over
    np.testing.assert_allclose(controls.pca_error(train, train, 99), 0, atol=1e-6)


@pytest.mark.parametrize("backbone", ["ae", "memae", "aeu"])
def test_the_gradient_score_is_a_loop_over_images(backbone, trained, plain_learner, draw_images):
    ensemble, images = trained(backbone), draw_images(5, seed=3)
    single = plain_learner(backbone, 16).take(ensemble.network).eval()
    found = controls.gradient_score(ensemble, images)
    for image, value in zip(images, found, strict=True):
        x = (torch.from_numpy(image[None]).float() / 127.5 - 1).requires_grad_(True)
        out = single(x)
        if backbone == "aeu":
            loss = (torch.exp(-out[:, 1:]) * (out[:, :1] - x).square()).mean()
        else:
            loss = (out - x).abs().mean()
        (gradient,) = torch.autograd.grad(loss, x)
        assert value == pytest.approx(float(gradient.abs().mean()), rel=1e-3)


def test_untrained_learners_are_where_training_starts(tiny, draw_set, equal_tensors):
    """A training whose steps are of size nothing ends at these weights."""
    config = tiny(n_learners=2, epochs=1, learning_rate=1e-30)
    started = train_ensemble(config, draw_set(20), progress=False, device="cpu")
    untrained = controls.untrained_ensemble(config)
    assert len(untrained) == 2
    for one, other in zip(
        untrained.network.parameters(), started.network.parameters(), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-20)
    images = draw_set(4).images
    again = image_scores(controls.untrained_ensemble(config), images, "dual")
    np.testing.assert_array_equal(image_scores(untrained, images, "dual"), again)


def test_what_cannot_be_compared_is_refused(draw_images, refused):
    with refused("uint8", "float64"):
        controls.mean_intensity(np.zeros((1, 1, 4, 4)))
    with refused("3 x 3"):
        controls.sharpness(grey([0, 0], [0, 0]))
    with refused("16 x 16", "32 x 32"):
        controls.nearest_neighbour(draw_images(1), draw_images(1, 32))
    with refused("no training image"):
        controls.distance_to_mean(draw_images(1), draw_images(1)[:0])


# --- as records ---


@pytest.fixture(scope="module")
def dataset(draw_images):
    test = ImageSet(
        draw_images(12, seed=1), tuple(map(str, range(12))), np.repeat([0, 1], 6).astype(np.int8)
    )
    return Dataset("waves", ImageSet(draw_images(20), tuple(map(str, range(20)))), test)


def test_names_hold_what_acts_on_a_control(tiny, dataset):
    key = DataKey.of(dataset)
    acting = {
        "images": (),
        "untrained": ("seed", "backbone"),
        "gradient": ("seed", "backbone", "epochs"),
    }
    changes = {"seed": 5, "backbone": "aeu", "epochs": 3, "repulsion_weight": 0.5}
    assert acting.keys() == set(CONTROLS)
    for control, heeded in acting.items():
        name = record_name(tiny(), key, control)
        assert name != record_name(tiny(), key)
        for field, value in changes.items():
            moved = record_name(tiny(**{field: value}), key, control) != name
            assert moved == (field in heeded), (control, field)
    with pytest.raises(ValueError, match="no control"):
        record_name(tiny(), key, "oracle")


def test_control_records_travel(tiny, dataset, tmp_path, refused):
    key, store = DataKey.of(dataset), Store(tmp_path / "s")
    learner = train_ensemble(tiny(), dataset.train, progress=False, device="cpu")
    made = [
        score_control("images", tiny(), dataset, key),
        score_control("untrained", tiny(), dataset, key),
        score_control("gradient", tiny(n_learners=1), dataset, key, learner),
    ]
    for record in made:
        put_record(store, record)
        found = get_record(store, record.name)
        assert (found.control, found.name) == (record.control, record.name)
        assert found.scores.keys() == record.scores.keys()
        for name, values in record.scores.items():
            np.testing.assert_array_equal(found.scores[name], values)
    assert set(made[0].scores) == set(controls.IMAGE_CONTROLS)
    np.testing.assert_allclose(
        made[1].scores["dual"],
        image_scores(controls.untrained_ensemble(tiny()), dataset.test.images, "dual"),
        rtol=1e-5,
    )
    assert export(store, tmp_path / "a.zip") == 3
    assert import_into(Store(tmp_path / "t"), tmp_path / "a.zip") == 3
    assert read_records(tmp_path / "a.zip").keys() == read_records(tmp_path / "t").keys()
    path = store.folder / "scores" / f"{made[0].name}.safetensors"
    path.write_bytes((store.folder / "scores" / f"{made[1].name}.safetensors").read_bytes())
    with refused("damaged"):
        get_record(store, made[0].name)


def test_what_is_there_is_scored_and_what_is_missing_named(tiny, dataset, tmp_path):
    """Seed 1 was trained; of seed 2 the gradient is missing, and nothing is trained for it."""
    base, store = tiny(n_learners=3), Store(tmp_path)
    wanted = tables.rows("controls", base, ["ae"])
    plan = batch.plan(wanted, [dataset], [1, 2], store)
    assert len(plan.wanted) == 1 + 2 * 2 and len(plan.trainings()) == 2
    config = base.replace(seed=1)
    train_ensemble(config, dataset.train, progress=False, store=store, device="cpu")
    plan = batch.plan(wanted, [dataset], [1, 2], store)
    plan.tasks = {name: task for name, task in plan.tasks.items() if task.kind == "score"}
    report = batch.run(plan, store, jobs=1, device="cpu", progress=False)
    assert report.skipped == ["waves: control: a single learner's gradient, ae, seed 2"]
    assert len(report.done) == 4 and not report.failed
    records = read_records(tmp_path)
    cells = tables.collect(wanted, records, [DataKey.of(dataset)], (1, 2))
    found = {cell.row.label: sorted(cell.records) for cell in cells}
    assert found["nearest neighbour in train"] == [1]  # once, whatever the seeds
    assert found["AE, gradient"] == [1] and found["untrained AE, Unc"] == [1, 2]
    frame = layouts.long_table(cells).set_index("row")
    assert frame.loc["sharpness", "note"] == "deterministic, no known direction"
    assert frame.loc["sharpness", "AUC_by_seed"].startswith("any:")
    shown = layouts.layout(frame.reset_index()).iloc[:, 0]
    away = abs(frame.loc["sharpness", "AUC"] - 50)
    assert f"(n = 1, deterministic, |AUC - 50| = {away:.1f})" in shown["control", "sharpness"]
    assert "(n = 1, deterministic)" in shown["control", "nearest neighbour in train"]
    assert "(n = 2)" in shown["control", "untrained AE, Ens"]
    (sentence,) = layouts.about(cells)
    assert "9 of 9 rows run, on 1 to 2 seeds; intervals: images as independent." in sentence
    # and a batch trains what is missing
    again = batch.plan(wanted, [dataset], [1, 2], store)
    assert len(again.trainings()) == 1 and len(again.tasks) == 2


def test_clusters_reach_every_table_and_claim(tiny, dataset, tmp_path, refused):
    """Read by `obtain`, refused where they are of other images or not one file a data set."""
    base, store = tiny(n_learners=3), Store(tmp_path / "s")
    plan = batch.plan(tables.rows("controls", base, ["ae"]), [dataset], [1], store)
    plan.tasks = {name: task for name, task in plan.tasks.items() if not task.needs}
    plan.tasks = {name: task for name, task in plan.tasks.items() if task.kind == "score"}
    batch.run(plan, store, jobs=1, device="cpu", progress=False)

    def written(labels):
        lines = [f"t{i},train,0,{i}" for i in range(20)]
        lines += [f"x{i},test,{label},{100 + i // 2}" for i, label in enumerate(labels)]
        path = tmp_path / "clusters.csv"
        path.write_text("name,split,label,cluster\n" + "\n".join(lines) + "\n")
        return str(path)

    def settings(clusters):
        return batch.Settings(
            "waves", results=str(store.folder), seeds="1", base=base, clusters=clusters
        )

    cells, _ = batch.obtain(["controls"], settings(written(dataset.test.labels)))
    run = layouts.long_table(cells["controls"]).query("n_seeds > 0")
    assert set(run["independence"]) == {"clusters respected (6 clusters of 12 images)"}
    plain, _ = batch.obtain(["controls"], settings(""))
    alone = layouts.long_table(plain["controls"]).query("n_seeds > 0")
    assert set(alone["independence"]) == {"images as independent"}
    np.testing.assert_array_equal(run["AUC"], alone["AUC"])
    with refused("12 test images that are not those of waves"):
        batch.obtain(["controls"], settings(written(dataset.test.labels[::-1])))
    with refused("1 data sets and 2 files"):
        batch.obtain(["controls"], settings("a.csv,b.csv"))
