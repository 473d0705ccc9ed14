"""Records and exports: what was scored is read back, or refused in a sentence."""

import dataclasses
import hashlib
import json
import threading
import zipfile

import numpy as np
import pytest

from d2ue.datasets.types import Dataset, ImageSet
from d2ue.ensemble import train_ensemble
from d2ue.errors import InputError
from d2ue.experiments.records import score_record
from d2ue.store.exchange import export, import_into, read_records
from d2ue.store.learners import Store
from d2ue.store.results import (
    DataKey,
    get_record,
    has_record,
    put_record,
    record_name,
    rename_data,
)


@pytest.fixture(scope="session")
def dataset(draw_images):
    def images(n, seed):
        return ImageSet(draw_images(n, seed=seed), tuple(map(str, range(n))), np.arange(n) % 2)

    return Dataset("waves", images(20, 0), images(14, 1))


@pytest.fixture(scope="session")
def made(dataset, tiny, tmp_path_factory):
    """A store with two ensembles, of two learners and of one, and their records."""
    store = Store(tmp_path_factory.mktemp("made"))
    key = DataKey.of(dataset)
    records = []
    for config in (tiny(), tiny(n_learners=1)):
        ensemble = train_ensemble(config, dataset.train, progress=False, store=store, device="cpu")
        records.append(score_record(ensemble, dataset.test, key))
        put_record(store, records[-1])
    return store, records


def same(a, b):
    assert a.config.as_dict() == b.config.as_dict()
    assert (a.data, a.similarity, a.made) == (b.data, b.similarity, b.made)
    np.testing.assert_array_equal(a.labels, b.labels)
    assert a.scores.keys() == b.scores.keys()
    for key in a.scores:
        np.testing.assert_array_equal(a.scores[key], b.scores[key])


def test_a_record_is_read_as_it_was_written(made):
    store, records = made
    for record in records:
        same(get_record(store, record.name), record)
    assert set(records[0].scores) == {"ensemble", "output", "dual", "input", "reconstruction"}
    assert set(records[1].scores) == {"ensemble", "reconstruction"}  # nobody to disagree with
    assert read_records(store.folder).keys() == {record.name for record in records}


def test_the_same_record_put_by_several_at_once(made, tmp_path):
    """As by two batches that have scored one ensemble: nobody sweeps what another is writing."""
    _, (record, _) = made
    start, failed = threading.Barrier(4), []

    def put():
        for number in range(40):
            start.wait()
            try:
                put_record(Store(tmp_path / str(number)), record)
            except InputError as error:
                failed.append(str(error))

    threads = [threading.Thread(target=put) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    for number in range(40):
        store = Store(tmp_path / str(number))
        same(get_record(store, record.name), record)
        assert len(list((store.folder / "scores").iterdir())) == 1


def test_names_of_records_hold_the_version_of_the_scoring(made, monkeypatch):
    """Scores of older code are not taken for those of newer code."""
    _, (record, _) = made
    name = record.name
    monkeypatch.setattr("d2ue.store.results.SCORING_VERSION", 2)
    assert record.name != name


def test_the_similarity_of_learners_is_debiased_cka_of_their_features(made, dataset, tiny):
    from d2ue.similarity import debiased_cka

    store, (record, single) = made
    ensemble = train_ensemble(tiny(), dataset.train, progress=False, store=store, device="cpu")
    z = ensemble.features(dataset.test.images).double()
    for name, label in (("normal", 0), ("abnormal", 1)):
        p, q = z[:, dataset.test.labels == label]
        assert record.similarity[name] == pytest.approx(float(debiased_cka(p, q)))
    assert single.similarity == {}


def test_names_are_of_learners_and_test_images(tiny, dataset):
    key = DataKey.of(dataset)
    name = record_name(tiny(), key)
    assert record_name(tiny(repulsion_weight=2.0), key) != name
    assert record_name(tiny(seed=1), key) != name
    # lambda 0 is one ensemble whatever the layer and the metric
    free = {record_name(tiny(repulsion_weight=0.0, layer=layer), key) for layer in ("z", "en1")}
    assert free == {record_name(tiny(similarity="none"), key)}
    labels = dataset.test.labels.copy()
    labels[:2] = labels[1::-1]
    other = Dataset(
        "waves", dataset.train, ImageSet(dataset.test.images, dataset.test.names, labels)
    )
    assert record_name(tiny(), DataKey.of(other)) != name
    renamed = Dataset("other", dataset.train, dataset.test)
    assert record_name(tiny(), DataKey.of(renamed)) == name


def test_one_class_alone_cannot_be_judged(dataset, refused):
    only = dataset.test.select(dataset.test.labels == 0)
    with refused("7 normal and 0 abnormal"):
        DataKey.of(Dataset("waves", dataset.train, only))


@pytest.mark.parametrize("weights", [False, True])
def test_exports_travel(made, tmp_path, weights, equal_tensors):
    store, records = made
    assert export(store, tmp_path / "a.zip", weights=weights) == 2
    arrived = Store(tmp_path / "there")
    assert import_into(arrived, tmp_path / "a.zip") == 2
    for record in records:
        same(get_record(arrived, record.name), record)
    for learner in (path.name for path in (store.folder / "learners").iterdir()):
        assert arrived.has(learner) == weights
        if weights:
            equal_tensors(arrived.get(learner).network, store.get(learner).network)
            journal = (arrived.folder / "journal.txt").read_text()
            assert f"{learner} imported" in journal and "trained" not in journal
    assert read_records(tmp_path / "a.zip").keys() == read_records(arrived.folder).keys()
    # and the same again is the same file, from either store
    assert export(arrived, tmp_path / "b.zip", weights=weights) == 2
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "there").rglob("*.safetensors")}
    import_into(arrived, tmp_path / "b.zip")
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "there").rglob("*.safetensors")}


def test_scores_without_weights_cannot_be_exported_with_them(made, tmp_path, refused):
    store, _ = made
    export(store, tmp_path / "a.zip")
    import_into(Store(tmp_path / "there"), tmp_path / "a.zip")
    with refused("without its weights", "scores only"):
        export(Store(tmp_path / "there"), tmp_path / "b.zip", weights=True)
    assert not (tmp_path / "b.zip").exists()
    assert not list(tmp_path.glob(".*"))


def test_an_empty_store_has_nothing_to_export(tmp_path, refused):
    with refused("nothing to export"):
        export(Store(tmp_path), tmp_path / "a.zip")


def test_every_flipped_byte_of_a_record_is_noticed(made, tmp_path, refused):
    store, (record, _) = made
    content = (store.folder / "scores" / f"{record.name}.safetensors").read_bytes()
    other = Store(tmp_path)
    path = tmp_path / "scores" / f"{record.name}.safetensors"
    path.parent.mkdir()
    rng = np.random.default_rng(0)
    for position in [0, 8, len(content) - 1, *rng.integers(0, len(content), 150)]:
        flipped = bytearray(content)
        flipped[position] ^= 1 << rng.integers(0, 8)
        path.write_bytes(flipped)
        with refused(record.name):
            get_record(other, record.name)
    for length in (0, 7, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with refused("damaged"):
            get_record(other, record.name)


def test_a_damaged_record_is_not_there_and_can_be_put_again(made, tmp_path, refused):
    _, (record, single) = made
    store = Store(tmp_path)
    put_record(store, record)
    put_record(store, single)
    path = tmp_path / "scores" / f"{record.name}.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    assert not has_record(store, record.name) and has_record(store, single.name)
    with refused(path, "remove this file"):
        read_records(tmp_path)
    assert read_records(tmp_path, names=[single.name]).keys() == {single.name}
    put_record(store, record)
    same(get_record(store, record.name), record)


def test_images_can_be_called_something_else(made, tmp_path):
    _, (record, single) = made
    store = Store(tmp_path)
    put_record(store, record)
    renamed = dataclasses.replace(record.data, name="other")
    rename_data(store, record.name, "other")
    rename_data(store, single.name, "other")  # is not there
    same(get_record(store, record.name), dataclasses.replace(record, data=renamed))
    assert read_records(tmp_path).keys() == {record.name}


def test_a_record_under_another_name_is_refused(made, tmp_path, refused):
    store, (record, single) = made
    assert has_record(store, record.name)
    content = (store.folder / "scores" / f"{record.name}.safetensors").read_bytes()
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / f"{single.name}.safetensors").write_bytes(content)
    with refused("damaged"):
        get_record(Store(tmp_path), single.name)


def repack(source, target, change):
    """A copy of an export whose files `change` has been at; the manifest is as it makes it."""
    with zipfile.ZipFile(source) as packed:
        files = {name: packed.read(name) for name in packed.namelist()}
    with zipfile.ZipFile(target, "w") as packed:
        for name, content in change(files).items():
            packed.writestr(name, content)


def forge(files, **more):
    """Other files under a manifest that agrees with them."""
    import hashlib

    files = {name: content for name, content in files.items() if name != "manifest.json"} | more
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    manifest = {"format": "d2ue export 1", "files": sums}
    return {**files, "manifest.json": json.dumps(manifest).encode()}


CRAFTED = {
    "a file is missing": lambda f: dict(list(f.items())[1:]),
    "a file too many": lambda f: {**f, "scores/0123456789abcdef.safetensors": b""},
    "a path out of the folder": lambda f: forge(f, **{"../evil.safetensors": b"x"}),
    "an absolute path": lambda f: forge(f, **{"/tmp/evil.safetensors": b"x"}),
    "a file of another kind": lambda f: forge(f, **{"scores/evil.pkl": b"x"}),
    "a file that is not the manifest's": lambda f: {
        name: content.replace(b'"loss": ', b'"loss": 1')
        if name.endswith("learner.json")
        else content
        for name, content in f.items()
    },
    "a record under the ending of a pickle": lambda f: forge(
        {k: v for k, v in f.items() if not k.startswith("scores/")},
        **{k.replace("safetensors", "pkl"): v for k, v in f.items() if k.startswith("scores/")},
    ),
    "an empty record": lambda f: forge(f, **{"scores/0123456789abcdef.safetensors": b""}),
    "weights without their settings": lambda f: forge(
        f, **{"learners/0123456789abcdef/weights.safetensors": b"x"}
    ),
    "no manifest": lambda f: {k: v for k, v in f.items() if k != "manifest.json"},
    "a manifest that is a list": lambda f: {**f, "manifest.json": b"[]"},
    "a manifest that is no JSON": lambda f: {**f, "manifest.json": b"{"},
    "another manifest": lambda f: {**f, "manifest.json": b'{"format": "other", "files": {}}'},
}


@pytest.mark.parametrize("kind", CRAFTED)
def test_crafted_exports_are_refused_and_nothing_is_written(kind, made, tmp_path, refused):
    export(made[0], tmp_path / "a.zip", weights=True)
    repack(tmp_path / "a.zip", tmp_path / "bad.zip", CRAFTED[kind])
    with refused("bad.zip"):
        import_into(Store(tmp_path / "there"), tmp_path / "bad.zip")
    assert not (tmp_path / "there").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip", "bad.zip"]


def test_files_that_are_no_export_are_refused(tmp_path, refused):
    (tmp_path / "text.zip").write_text("no zip")
    with refused("text.zip"):
        import_into(Store(tmp_path / "there"), tmp_path / "text.zip")
    with refused("absent.zip"):
        import_into(Store(tmp_path / "there"), tmp_path / "absent.zip")
    with refused("absent.zip"):
        read_records(tmp_path / "absent.zip")
    assert read_records(tmp_path / "no-store-yet") == {}


def test_flipped_bytes_of_an_export_are_noticed_or_do_not_matter(made, tmp_path):
    store, _ = made
    export(store, tmp_path / "a.zip")
    content = (tmp_path / "a.zip").read_bytes()
    wanted = read_records(tmp_path / "a.zip")
    rng = np.random.default_rng(0)
    noticed = 0
    for position in rng.integers(0, len(content), 200):
        flipped = bytearray(content)
        flipped[position] ^= 1 << rng.integers(0, 8)
        (tmp_path / "b.zip").write_bytes(flipped)
        try:
            read = read_records(tmp_path / "b.zip")
        except InputError:
            noticed += 1
            continue
        assert read.keys() == wanted.keys()  # a date, an attribute
        for name in read:
            same(read[name], wanted[name])
    assert noticed > 100


@pytest.mark.parametrize(("normal", "abnormal"), [(1, 3), (3, 1), (0, 3)])
def test_one_test_image_of_a_class_is_refused_before_anything_is_trained(
    draw_images, refused, normal, abnormal
):
    labels = np.repeat([0, 1], [normal, abnormal]).astype(np.int8)
    test = ImageSet(draw_images(len(labels)), tuple(map(str, range(len(labels)))), labels)
    train = ImageSet(draw_images(8, seed=1), tuple(map(str, range(8))))
    with refused(f"{normal} normal and {abnormal} abnormal", "at least two of each"):
        DataKey.of(Dataset("waves", train, test))


def test_a_damaged_record_inside_an_export_is_not_a_stores(made, tmp_path, refused):
    """Its sum is right and its content is not: copy the file anew, do not score again."""
    store, records = made
    export(store, whole := tmp_path / "whole.zip")
    member = f"scores/{records[0].name}.safetensors"
    with zipfile.ZipFile(whole) as packed:
        files = {name: packed.read(name) for name in packed.namelist()}
    files[member] = files[member][:-1] + b"x"
    manifest = json.loads(files["manifest.json"])
    manifest["files"][member] = hashlib.sha256(files[member]).hexdigest()
    files["manifest.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(bad := tmp_path / "bad.zip", "w") as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    for read in (lambda: read_records(bad), lambda: import_into(Store(tmp_path / "new"), bad)):
        with refused(f"{records[0].name}.safetensors is damaged", "copy it anew"):
            read()
    assert not (tmp_path / "new").exists()
