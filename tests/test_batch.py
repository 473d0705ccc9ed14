"""Batches: every learner trained once, whatever is stopped; only what changed is run again."""

import dataclasses
import json
import multiprocessing
import os
import random
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from d2ue.cli.notebooks import TABLE_NOTEBOOKS, find_notebook, notebook_parameters
from d2ue.config import TrainConfig
from d2ue.datasets.types import Dataset, ImageSet
from d2ue.ensemble import train_ensemble, train_side_by_side
from d2ue.experiments import batch
from d2ue.experiments import plan as planning
from d2ue.experiments import run as running
from d2ue.experiments.rows import Row, departures, rows
from d2ue.experiments.run import last_report
from d2ue.experiments.workers import Workers
from d2ue.learners import FILL, learner_name, replica_bytes
from d2ue.progress import bar as progress_bar
from d2ue.store.exchange import export, read_records
from d2ue.store.learners import Store
from d2ue.store.results import DataKey, get_record, record_name
from d2ue.uncertainty import image_scores
from tests.processes import run_batch, start_batch, wait_for

TEST = 12


@pytest.fixture(scope="session")
def dataset(draw_images):
    """20 images to train on; 12 to test on, the second half of them brighter."""
    train = ImageSet(draw_images(20), tuple(f"train {i}" for i in range(20)))
    pixels = draw_images(TEST, seed=1)
    pixels[TEST // 2 :] = np.clip(pixels[TEST // 2 :].astype(int) + 40, 0, 255)
    labels = np.repeat([0, 1], TEST // 2).astype(np.int8)
    return Dataset(
        "waves", train, ImageSet(pixels, tuple(f"test {i}" for i in range(TEST)), labels)
    )


@pytest.fixture(scope="session")
def base(tiny):
    return tiny(n_learners=3)


def table2(base, backbones=("ae",)):
    return rows("table2", base, backbones)


def planned(wanted, dataset, folder, seeds=(1,)):
    return batch.plan(wanted, [dataset], seeds, Store(folder))


def carried_out(wanted, dataset, folder, **options):
    """The plan and the report of a batch of seed 1."""
    plan = planned(wanted, dataset, folder)
    return plan, batch.run(plan, Store(folder), progress=False, **{"jobs": 1, **options})


def trained_in(folder):
    """Names of learners by the journal's lines, in order."""
    lines = (Path(folder) / "journal.txt").read_text().splitlines()
    assert all(line.endswith(" trained") for line in lines), lines
    return [line.split()[-2] for line in lines]


# --- what has to be done ---


@pytest.mark.parametrize(
    ("table", "learners", "ensembles"),
    [
        # AE, MemAE: one learner each; AEU: three, and two that repel; AE: two that repel
        ("table1", 1 + 1 + 3 + 2 + 2, 6),
        # a backbone: three without repulsion, two with it; eight rows, two ensembles
        ("table2", 3 * (3 + 2), 3 * 2),
        # one first learner; two more for each of seven similarities
        ("table3", 1 + 7 * 2, 7),
        ("lambda", 1 + 5 * 2, 5),
        ("learners", 8 + 7, 7 + 7),
    ],
)
def test_cells_share_what_they_can(table, learners, ensembles, base, dataset, tmp_path):
    plan = planned(rows(table, base), dataset, tmp_path)
    assert len(plan.trainings()) == learners
    assert len(plan.wanted) == ensembles
    two = planned(rows(table, base), dataset, tmp_path, seeds=[1, 2])
    assert len(two.trainings()) == 2 * learners
    if table in ("table3", "lambda"):  # which hold all learners of AE of table 2
        both = planned([*table2(base), *rows(table, base)], dataset, tmp_path)
        assert len(both.trainings()) == learners


def test_the_layer_ablation_has_all_nine_layers_at_the_papers_size(draw_images, tmp_path):
    images = ImageSet(draw_images(70, 64), tuple(map(str, range(70))), np.arange(70) % 2)
    small = Dataset("waves", images, images)
    plan = planned(rows("layer"), small, tmp_path)
    assert len(plan.trainings()) == 1 + 9 * 2 * 2
    assert {task.config.layer for task in plan.trainings()} == set(
        ["en1", "en2", "en3", "en4", "z", "de4", "de3", "de2", "de1"]
    )


def test_learners_wait_for_their_seniors_only_where_they_repel(base, dataset, tmp_path):
    plan = planned(table2(base), dataset, tmp_path)
    names = [learner_name(base.replace(seed=1), k, dataset.train.fingerprint) for k in (1, 2, 3)]
    assert plan.tasks[names[2]].needs == {names[0], names[1]}
    free = [t for t in plan.trainings() if not t.config.repels]
    assert len(free) == 3 and not any(task.needs for task in free)


def test_a_data_set_without_labels_is_refused(base, dataset, tmp_path, refused):
    with refused("no labelled test images"):
        planned(table2(base), Dataset("plain", dataset.train), tmp_path)


# --- doing it ---


@pytest.fixture(scope="session")
def undisturbed(base, dataset, tmp_path_factory):
    """The store of a batch to which nothing happened: one job, in this process."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert len(run_batch(table2(base), dataset, folder).done) == 5 + 2
    return folder


def contents(folder):
    """Weights and scores by path: all that a result is."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(Path(folder).rglob("*.safetensors"))
        if "states" not in path.parts
    }


def test_a_batch_is_training_and_scoring_one_by_one(undisturbed, base, dataset):
    config = base.replace(seed=1)
    ensemble = train_ensemble(config, dataset.train, device="cpu", progress=False)
    record = get_record(Store(undisturbed), record_name(config, DataKey.of(dataset)))
    for method in ("ensemble", "output", "dual", "input"):
        own = image_scores(ensemble, dataset.test.images, method).astype(np.float32)
        np.testing.assert_array_equal(record.scores[method], own)
    x = dataset.test.images / 127.5 - 1
    errors = np.square(ensemble.reconstruct(dataset.test.images).numpy() - x).mean((0, 2, 3, 4))
    np.testing.assert_allclose(record.scores["reconstruction"], errors, rtol=1e-4)
    np.testing.assert_array_equal(record.labels, dataset.test.labels)


def test_processes_side_by_side_give_the_same_bits(undisturbed, base, dataset, tmp_path):
    plan, report = carried_out(table2(base), dataset, tmp_path, jobs=2)
    assert sorted(report.done) == sorted(plan.tasks) and not report.failed
    assert contents(tmp_path) == contents(undisturbed)
    assert sorted(trained_in(tmp_path)) == sorted(task.name for task in plan.trainings())


@pytest.mark.parametrize(
    ("change", "learners", "ensembles"),
    [
        ({}, 0, 0),
        ({"repulsion_weight": 2.0}, 2, 1),  # the two that repel
        ({"n_learners": 4}, 2, 2),  # one more in either ensemble
        ({"epochs": 3}, 5, 2),
        ({"memory_slots": 3}, 0, 0),  # acts on MemAE alone
    ],
)
def test_one_setting_changed_reruns_what_depends_on_it(
    change, learners, ensembles, undisturbed, base, dataset
):
    changed = table2(base.replace(**change))
    plan = planned(changed, dataset, undisturbed)
    assert len(plan.trainings()) == learners
    assert len(plan.tasks) - learners == ensembles
    assert len(plan.wanted) == 2 and len(plan.cached) == 2 - ensembles


def test_other_images_rerun_everything_and_other_labels_only_the_scores(
    undisturbed, base, dataset, draw_set
):
    other = Dataset("waves", draw_set(20, seed=5), dataset.test)
    assert len(planned(table2(base), other, undisturbed).trainings()) == 5
    swapped = dataclasses.replace(dataset.test, labels=1 - dataset.test.labels)
    plan = planned(table2(base), Dataset("waves", dataset.train, swapped), undisturbed)
    assert not plan.trainings() and len(plan.tasks) == 2


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_failed_cell_does_not_stop_the_others(jobs, base, dataset, tmp_path):
    hopeless = base.replace(learning_rate=1e25, seed=1)
    wanted = [*table2(base), Row("hopeless", "", hopeless, "dual", {}, {})]
    _, report = carried_out(wanted, dataset, tmp_path, jobs=jobs)
    (sentence,) = report.failed.values()
    assert "stopped being finite" in sentence
    assert len(report.skipped) == 3  # its learners 2 and 3, and its scores
    assert len(report.done) == 5 + 2
    assert len(read_records(tmp_path)) == 2


def test_dry_runs_say_what_would_run(base, dataset, tmp_path, undisturbed):
    plan = planned(table2(base), dataset, tmp_path)
    lines = batch.describe(plan, batch.seconds_for(plan, jobs=1, device="cpu"))
    assert "waves: learner 2 of ae, seed 1, cka at z, lambda 1" in lines
    assert "waves: scores of 2 ensembles" in lines
    assert "2 ensembles in all, 0 of them cached; 5 learners to train (10 epochs)." in lines
    assert lines[-1].startswith("Expected time of the training on this machine: ")
    assert not list(tmp_path.iterdir())
    done = batch.describe(planned(table2(base), dataset, undisturbed))
    assert done == [
        "waves: scores of 3 learners of ae, seed 1 (cached)",
        "waves: scores of 3 learners of ae, seed 1, cka at z, lambda 1 (cached)",
        "2 ensembles in all, 2 of them cached; 0 learners to train (0 epochs).",
    ]


def test_the_expected_time_is_that_of_the_longest_chain(base, dataset, tmp_path):
    """However many processes: learners that repel each other wait for one another."""
    plan = planned(table2(base), dataset, tmp_path)
    tasks = plan.trainings()  # learner 1, two more that repel, two more that do not
    costs = {task.name: 2.0 for task in tasks}
    assert len(tasks) == 5
    assert planning._until_done(tasks, costs, jobs=1) == 10.0
    assert planning._until_done(tasks, costs, jobs=16) == 6.0


def test_failures_are_told_apart_kept_and_not_tried_again(base, dataset, draw_set, tmp_path):
    """Two data sets, ensembles of two sizes: every failure has a line of its own."""
    store, hopeless = Store(tmp_path), base.replace(learning_rate=1e25, backbone="aeu")
    sets = [dataset, Dataset("ripples", draw_set(24, seed=5), dataset.test)]
    wanted = [Row("", "", hopeless.replace(n_learners=n), "dual", {}, {}) for n in (1, 2)]
    plan = batch.plan(wanted, sets, [1], store)
    report = batch.run(plan, store, jobs=1, progress=False)
    both = ("ripples", "waves")
    assert sorted(report.failed) == [f"{name}: learner 1 of aeu, seed 1" for name in both]
    skipped = ("learner 2{}", "scores of 1 learner", "scores of 2 learners{}")
    assert sorted(report.skipped) == [
        f"{name}: {what.format('')} of aeu, seed 1" + ", cka at z, lambda 1" * ("{}" in what)
        for name in both
        for what in skipped
    ]
    carried_out([Row("", "", base.replace(n_learners=1), "ensemble", {}, {})], dataset, tmp_path)
    known = last_report(batch.plan(wanted, sets, [1], store), store)
    assert known.failed == report.failed and sorted(known.skipped) == sorted(report.skipped)


def test_what_is_not_to_be_trained_is_not(base, tmp_path):
    settings = batch.Settings(
        "phantom", "", str(tmp_path / "store"), "1", base=base, n_train=16, n_test=8
    )
    cells, report = batch.obtain(["table1"], settings, jobs=-1, progress=False)
    assert not any(cell.records for cell in cells["table1"]) and not report.done
    assert not (tmp_path / "store" / "learners").exists()


# --- stopped ---


def test_killed_at_random_twenty_times(dataset, base, tmp_path):
    """The end is the undisturbed one, bit for bit, and no finished learner is trained again."""
    longer = base.replace(epochs=40, n_learners=2)
    wanted = [row for row in table2(longer) if row.config.repels]
    rng, states = random.Random(0), tmp_path / "s" / "states"
    for kills in range(21):
        process = start_batch(wanted, dataset, tmp_path / "s", 1 if kills else 2)
        if kills:
            process.join(rng.uniform(0.1, 0.6))
        else:
            wait_for(lambda: states.exists() and any(states.iterdir()))
        assert process.exitcode is None, f"the work was done after {kills} kills"
        process.kill()
        process.join()
    carried_out(wanted, dataset, tmp_path / "s", jobs=2)
    carried_out(wanted, dataset, tmp_path / "whole")
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")
    names = trained_in(tmp_path / "s")
    assert len(names) == len(set(names))  # a kill may cut off a line, never add one


def test_two_batches_at_once_share_the_work(undisturbed, base, dataset, tmp_path):
    processes = [start_batch(table2(base), dataset, tmp_path, 2) for _ in range(2)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert contents(tmp_path) == contents(undisturbed)
    names = trained_in(tmp_path)
    assert len(names) == len(set(names)) == 5


@pytest.mark.parametrize("times", [1, running.ATTEMPTS])
def test_a_worker_killed_from_outside_is_started_again_until_it_is_given_up(
    times, base, dataset, tmp_path, monkeypatch, undisturbed
):
    """As when memory runs out: the task goes on, and what runs beside it takes no notice."""
    killed = []

    class KillingWorkers(Workers):
        def submit(self, fn, tasks, *args):
            future = super().submit(fn, tasks, *args)
            if tasks[0].number == 1 and len(killed) < times:
                (process,) = self.pools[self.last.index(future)]._processes.values()
                os.kill(process.pid, signal.SIGKILL)
                killed.append(tasks[0].name)
            return future

    monkeypatch.setattr(running, "Workers", KillingWorkers)
    plan, report = carried_out(table2(base), dataset, tmp_path, jobs=2)
    assert len(killed) == times
    if times < running.ATTEMPTS:
        assert not report.failed and sorted(report.done) == sorted(plan.tasks)
        assert contents(tmp_path) == contents(undisturbed)
    else:
        (sentence,) = report.failed.values()
        assert f"{running.ATTEMPTS} times" in sentence
        assert len(report.done) == 2  # learners 2 and 3 without repulsion need nobody


def test_no_process_is_left_behind_when_a_batch_is_interrupted(
    base, dataset, tmp_path, monkeypatch
):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        carried_out(table2(base.replace(epochs=1000)), dataset, tmp_path, jobs=2)
    assert not multiprocessing.active_children() and not list((tmp_path / "running").iterdir())


# --- settings as texts ---


@pytest.mark.parametrize(("text", "seeds"), [("3", (1, 2, 3)), ("0,", (0,)), (" 4 , 1 ", (4, 1))])
def test_seeds(text, seeds):
    assert batch.Settings("phantom", seeds=text).seed_list == seeds
    said = batch.Settings("phantom", seeds=text).head()
    assert said.endswith(f" seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))}")


def test_settings_that_cannot_be_used_are_refused(refused):
    for text in ("", "0", "-1", "1,1", "x"):
        with refused("5", "1,2,7"):
            _ = batch.Settings("phantom", seeds=text).seed_list
    with refused("n_test is a number of images", "-2"):
        batch.Settings("phantom", n_test=-2)
    with refused("n_train is 100000, but phantom has"):
        batch.Settings("phantom", n_train=100000).load(progress=False)
    for given, word in (("", "No data set is named"), ("phantom,phantom", "named twice")):
        with refused(word):
            batch.Settings(given).load(progress=False)
    with refused("ae,memae,aeu"):
        batch.Settings("phantom", backbones=",").rows("table2")


def test_another_number_format_is_said_and_reaches_the_pages(base):
    """What was trained in bf16 must not be looked for, or shown, as float32."""
    as_it_is = batch.Settings("phantom", base=base)
    other = batch.Settings("phantom", base=base.replace(precision="bf16"))
    for notebook in TABLE_NOTEBOOKS:
        given, known = other.as_parameters(notebook), notebook_parameters(find_notebook(notebook))
        assert given["precision"] == "bf16" and set(given) <= set(known)
    assert str(other) == f"{as_it_is}, bf16"
    config = other.rows("table2")[0].config
    task = planning.Task("0", "train", 0, config, 2, frozenset())
    assert str(task) == f"learner 2 of ae, seed {config.seed}, bf16"
    key = DataKey("brain-mri", "a", "b", 1000, 600, 600)
    assert departures(key, TrainConfig(backbone="ae", precision="bf16")) == [
        "precision bf16 instead of float32"
    ]


def test_results_are_drawn_without_images(undisturbed, base):
    settings = batch.Settings("waves", results=str(undisturbed), seeds="2", base=base)
    cells, report = batch.obtain(["table2", "table1"], settings)
    run = [cell for cell in cells["table2"] if cell.records]
    assert len(run) == 8 and {tuple(cell.records) for cell in run} == {(1,)}
    assert len([cell for cell in cells["table1"] if cell.records]) == 1  # Ours (AE)
    assert not report.done
    said = "waves (not in the paper, 20 to train, 6 + 6 to test), 2 epochs, seeds 1, 2"
    assert settings.head(report.data) == said


def test_what_no_result_stands_for_is_not_drawn_as_not_run(undisturbed, base, refused):
    settings = batch.Settings("rsna", results=str(undisturbed), base=base)
    with refused("no results for rsna", "only for waves", "folder with the images"):
        batch.obtain(["table2"], settings)
    for change in ({"epochs": 3}, {"batch_size": 4}, {"precision": "bf16"}):
        settings = batch.Settings("waves", results=str(undisturbed), base=base.replace(**change))
        with refused("only of 2 epochs, batches of 8 and float32"):
            batch.obtain(["table2"], settings)


def test_a_damaged_score_is_computed_again_and_bothers_nobody_else(
    undisturbed, base, dataset, tmp_path
):
    shutil.copytree(undisturbed, tmp_path / "s")
    whole = contents(tmp_path / "s")
    free = [row for row in table2(base) if not row.config.repels]
    for path in (tmp_path / "s" / "scores").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    plan, report = carried_out(free, dataset, tmp_path / "s")
    (needed,) = plan.wanted
    assert report.done == [needed] and not report.failed
    now = contents(tmp_path / "s")
    assert sum(now[name] != whole[name] for name in whole) == 1  # the one that nobody asked for
    assert now[f"scores/{needed}.safetensors"] == whole[f"scores/{needed}.safetensors"]
    assert read_records(tmp_path / "s", names=plan.wanted).keys() == plan.wanted


def test_the_last_name_of_some_images_is_the_one_they_are_exported_under(
    undisturbed, base, dataset, tmp_path
):
    shutil.copytree(undisturbed, tmp_path / "s")
    renamed = dataclasses.replace(dataset, name="ripples")
    assert not carried_out(table2(base), renamed, tmp_path / "s")[1].done
    assert {record.data.name for record in read_records(tmp_path / "s").values()} == {"ripples"}


def test_two_names_of_one_folder_are_refused(dataset, tmp_path, refused):
    (tmp_path / "images").mkdir()
    pixels = np.concatenate([dataset.train.images, dataset.test.images])
    names = [f"{i}.png" for i in range(len(pixels))]
    for name, image in zip(names, pixels, strict=True):
        Image.fromarray(image[0]).save(tmp_path / "images" / name)
    split = {"train": {"0": names[:20]}, "test": {"0": names[20:26], "1": names[26:]}}
    (tmp_path / "data.json").write_text(json.dumps(split))
    with refused("one and two are the same images"):
        batch.Settings("one,two", data=str(tmp_path)).load(progress=False)
    (alone,) = batch.Settings("one", data=str(tmp_path), n_train=10).load(progress=False)
    assert alone.name == "one" and len(alone.train) == 10
    below = batch.Settings("-".join(tmp_path.name.split("_")), data=str(tmp_path.parent))
    assert len(below.load(progress=False)[0].train) == 20


def test_two_sets_of_images_of_one_name_are_not_mixed(
    undisturbed, base, dataset, draw_set, tmp_path, refused
):
    other = Dataset("waves", draw_set(len(dataset.train), seed=5), dataset.test)
    single = [row for row in rows("table1", base) if row.label == "AE"]
    carried_out(single, other, tmp_path)
    places = f"{undisturbed},{tmp_path}"
    with refused("two different sets of images named 'waves'"):
        batch.obtain(["table1"], batch.Settings("waves", results=places, base=base))


def on_gpus(plan, store, gpus=1):
    """What so many GPUs do, here on the CPU."""
    report = batch.Report()
    loop = running._Loop(plan, store, "cpu", report, progress_bar(disable=True))
    running._run_on_gpus(loop, planning.groups(plan, store, gpus, 0), gpus)
    return report


def scores_of(folder):
    return {name: record.scores for name, record in read_records(folder).items()}


@pytest.mark.parametrize("gpus", [1, 2])
def test_learners_side_by_side_are_the_same(gpus, undisturbed, base, dataset, tmp_path):
    """Groups of replicas, on two devices in a process each; one that diverges fails by itself."""
    hopeless = Row("hopeless", "", base.replace(learning_rate=1e25, seed=1), "dual", {}, {})
    plan = planned([*table2(base), hopeless], dataset, tmp_path)
    sizes = sorted(map(len, planning.groups(plan, Store(tmp_path), gpus, 0)))
    # Three that are not repelled, then one each; of the hopeless one learner after another.
    assert sizes == ([1] * 8 + [3] if gpus == 1 else [1] * 9 + [2])
    report = on_gpus(plan, Store(tmp_path), gpus)
    assert len(report.done) == 5 + 2 and len(report.skipped) == 3
    (sentence,) = report.failed.values()
    assert "stopped being finite" in sentence
    alone, together = scores_of(undisturbed), scores_of(tmp_path)
    assert alone.keys() == together.keys()
    for name, scores in alone.items():
        for method, values in scores.items():
            np.testing.assert_allclose(together[name][method], values, rtol=1e-3)


def test_each_of_several_gpus_has_a_process_that_sees_no_other():
    with Workers(2, running.__name__, {"CUDA_VISIBLE_DEVICES": ["3", "GPU-5"]}) as workers:
        seen = [workers.submit(os.getenv, "CUDA_VISIBLE_DEVICES") for _ in range(2)]
        assert [future.result() for future in seen] == ["3", "GPU-5"]


def test_groups_fit_the_memory_and_go_on_as_they_were(base, dataset, tmp_path):
    store = Store(tmp_path)
    plan = planned([row for row in table2(base) if not row.config.repels], dataset, tmp_path)
    names = [task.name for task in plan.trainings()]
    room = 2.5 * replica_bytes(base) / FILL
    assert planning.groups(plan, store, 1, int(room))[:2] == [tuple(names[:2]), (names[2],)]
    config, counts = plan.tasks[names[0]].config, []

    def report(epochs):
        counts.append(epochs)
        if sum(counts) == 4:  # both learners' second epoch; the first was kept
            raise KeyboardInterrupt

    pair = [(config, 2), (config, 3)]
    with pytest.raises(KeyboardInterrupt):
        train_side_by_side(pair, dataset.train, store=Store(tmp_path, 0), report=report)
    assert planning.groups(plan, store, 3, 0)[:2] == [tuple(names[1:]), (names[0],)]


def test_learners_go_one_by_one_where_a_group_stops(
    undisturbed, base, dataset, tmp_path, monkeypatch
):
    """For a reason that is not ours, such as a GPU's library, which no CPU brings about."""

    def stop(wanted, *args, **options):
        if len(wanted) > 1:
            raise RuntimeError("CUDNN_STATUS_EXECUTION_FAILED")
        train_side_by_side(wanted, *args, **options)

    monkeypatch.setattr(running, "train_side_by_side", stop)
    plan = planned(table2(base), dataset, tmp_path)
    with pytest.warns(RuntimeWarning, match=r"3 learners of waves .* \(RuntimeError: CUDNN"):
        report = on_gpus(plan, Store(tmp_path))
    assert not report.failed and contents(tmp_path) == contents(undisturbed)


def test_of_two_runs_on_one_set_that_with_all_images_is_drawn(
    undisturbed, base, dataset, tmp_path, refused
):
    """A small try and the whole run in one store: each can be drawn."""
    small = Dataset("waves", dataset.train.sample(16), dataset.test)
    single = [row for row in rows("table1", base) if row.label == "AE"]
    carried_out(single, small, tmp_path)
    settings = batch.Settings("waves", results=f"{undisturbed},{tmp_path}", base=base)
    for n_train, expected in ((0, 20), (16, 16)):
        chosen = dataclasses.replace(settings, n_train=n_train)
        cells, _ = batch.obtain(["table1"], chosen)
        assert {cell.data.n_train for cell in cells["table1"]} == {expected}
    with refused("no results for waves", "(18 to train)"):
        batch.obtain(["table1"], dataclasses.replace(settings, n_train=18))


def test_an_export_is_not_trained_into(base, undisturbed, tmp_path, refused):
    file = tmp_path / "phantom.zip"
    export(Store(undisturbed), file)
    with refused("no results for phantom"):  # although the phantoms could be drawn
        batch.obtain(["table1"], batch.Settings("phantom", results=str(file), base=base))
    settings = batch.Settings("phantom", str(tmp_path), str(file), base=base)
    with refused("is an export, which nothing can be trained into"):
        batch.obtain(["table1"], settings)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU on this machine")
def test_a_batch_on_a_gpu(base, dataset, tmp_path):
    store = Store(tmp_path)
    plan = batch.plan(table2(base, ("ae", "aeu")), [dataset], [1, 2], store)
    report = batch.run(plan, store, device="cuda", progress=False)
    assert sorted(report.done) == sorted(plan.tasks) and not report.failed
    assert multiprocessing.active_children() == []
