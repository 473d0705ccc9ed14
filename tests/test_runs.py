"""Runs and stores: what is kept is what was trained, whatever happens to process or files."""

import contextlib
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save

from d2ue.ensemble import train_ensemble, train_ensembles
from d2ue.errors import InputError
from d2ue.learners import learner_name, learner_settings
from d2ue.store.files import write_file, write_text
from d2ue.store.learners import Store
from d2ue.store.runs import fit_run, load_run, save_run
from d2ue.training import TrainState
from d2ue.uncertainty import score_maps

MANIFEST = "ensemble.json"
TEXT = ("history.csv", MANIFEST)
WEIGHTS = ("learner_1.safetensors", "learner_2.safetensors")


@pytest.fixture(scope="module")
def config(tiny):
    return tiny(backbone="memae", epochs=3)


@pytest.fixture(scope="module")
def images(draw_set):
    return draw_set(20)


@pytest.fixture(scope="module")
def undisturbed(config, images):
    """What the training gives when nothing happens to it."""
    return train_ensemble(config, images, progress=False)


@pytest.fixture(scope="module")
def saved(undisturbed, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "run"
    save_run(undisturbed, folder, data_name="waves", n_train=20)
    return folder


@pytest.fixture
def run(saved, tmp_path) -> Path:
    """A copy of the saved run to damage: links, so files are to be replaced, not written into."""
    return shutil.copytree(saved, tmp_path / "run", copy_function=os.link)


@pytest.fixture(scope="module")
def kept(config, images, tmp_path_factory) -> Path:
    """A store with the two finished learners."""
    folder = tmp_path_factory.mktemp("kept") / "store"
    train_ensemble(config, images, progress=False, store=Store(folder))
    return folder


@pytest.fixture
def store(kept, tmp_path) -> Path:
    """A copy of that store to damage."""
    return shutil.copytree(kept, tmp_path / "store", copy_function=os.link)


def put(path: Path, content: bytes | str) -> None:
    """Replace a file, links elsewhere stay as they are."""
    path.unlink(missing_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def rehash(run: Path) -> None:
    """Make the manifest believe in the files as they are."""
    manifest = json.loads((run / MANIFEST).read_text())
    for name in manifest["files"]:
        manifest["files"][name] = hashlib.sha256((run / name).read_bytes()).hexdigest()
    put(run / MANIFEST, json.dumps(manifest))


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file's bytes and time of change."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def names_of(config, images) -> list[str]:
    return [learner_name(config, k, images.fingerprint) for k in range(1, config.n_learners + 1)]


# --- what is read is what was written ---


@pytest.mark.parametrize("backbone", ("ae", "memae", "aeu"))
def test_round_trip_bit_for_bit(trained, equal_tensors, draw_images, tmp_path, backbone):
    ensemble = trained(backbone)
    save_run(ensemble, tmp_path / "deep" / "run")
    again = load_run(tmp_path / "deep" / "run")
    equal_tensors(ensemble, again)
    assert again.config.as_dict() == ensemble.config.as_dict()
    assert again.fingerprint == ensemble.fingerprint and again.history == ensemble.history
    for method in ("ensemble", "output", "dual"):
        scores = [score_maps(e, draw_images(4, seed=1), method) for e in (ensemble, again)]
        assert np.array_equal(*scores)


def test_saving_over_something_else_is_refused(saved, trained, undisturbed, tmp_path, refused):
    """Another run, or somebody's history.csv; what is there stays, to the byte."""
    run = shutil.copytree(saved, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with refused("not of this ensemble", run):
        save_run(trained("ae"), run)
    assert before == {path.name: path.read_bytes() for path in run.iterdir()}
    (run / MANIFEST).unlink()  # a save that was stopped before its end goes on
    save_run(undisturbed, run, data_name="waves", n_train=20)
    assert before == {path.name: path.read_bytes() for path in run.iterdir()}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "history.csv").write_text("of somebody")
    with refused("history.csv"):
        save_run(undisturbed, tmp_path / "mine")
    assert listing(tmp_path / "mine") == ["history.csv"]


def test_the_manifest_tells_a_reader_what_is_there(saved, config, images):
    manifest = json.loads((saved / MANIFEST).read_text())
    settings = manifest["config"]
    assert settings["backbone"] == "memae" and settings["epochs"] == 3
    assert settings["learning_rate"] == 5e-4  # the effective one, not None
    assert settings == config.as_dict()
    data = {"name": "waves", "train_images": 20, "fingerprint": images.fingerprint}
    assert manifest["data"] == data
    assert manifest["learners"] == names_of(config, images)
    assert manifest["versions"]["torch"] == torch.__version__
    assert manifest["versions"]["python"] == sys.version.split()[0]
    assert manifest["versions"]["d2ue"] and manifest["device"] == "cpu"
    assert manifest["threads"] == torch.get_num_threads()
    files = {name for name in listing(saved) if name != MANIFEST}
    assert files == manifest["files"].keys() == {*WEIGHTS, "history.csv"}
    for name, sha256 in manifest["files"].items():
        assert hashlib.sha256((saved / name).read_bytes()).hexdigest() == sha256
    assert (saved / MANIFEST).read_text().count("\n") > 20  # one value a line


def test_the_history_is_a_table(saved, undisturbed):
    lines = (saved / "history.csv").read_text().splitlines()
    assert lines[0] == "learner,epoch,loss,similarity" and len(lines) == 1 + 2 * 3
    learner, epoch, loss, _ = lines[5].split(",")
    assert (learner, epoch) == ("2", "2")
    assert float(loss) == undisturbed.history[1][1]["loss"]


def test_files_are_readable_by_others(saved):
    umask = os.umask(0)
    os.umask(umask)
    for name in (*WEIGHTS, *TEXT):
        assert (saved / name).stat().st_mode & 0o777 == 0o666 & ~umask


def test_reading_leaves_the_global_random_stream_alone(saved):
    before = torch.get_rng_state()
    load_run(saved)
    assert torch.equal(before, torch.get_rng_state())


# --- damage ---


def damaged(run: Path, refused, *words: object) -> None:
    with refused(run, *words):
        load_run(run)


@pytest.mark.parametrize("name", [*WEIGHTS, *TEXT])
def test_truncated_files(run, refused, name):
    whole = (run / name).read_bytes()
    for length in (0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 3):
        put(run / name, whole[:length])
        damaged(run, refused, name)


@pytest.mark.parametrize("name", [*WEIGHTS, "history.csv"])
def test_flipped_bits(run, refused, name):
    whole = (run / name).read_bytes()
    for position in (0, 9, len(whole) // 2, len(whole) - 1):
        flipped = bytearray(whole)
        flipped[position] ^= 1
        put(run / name, bytes(flipped))
        damaged(run, refused, name)


def test_flipped_bits_of_the_manifest_never_end_in_a_traceback(run):
    whole = (run / MANIFEST).read_bytes()
    for position in np.random.default_rng(0).integers(0, len(whole), 40):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << (position % 8)
        put(run / MANIFEST, bytes(flipped))
        with contextlib.suppress(InputError):
            load_run(run)


@pytest.mark.parametrize("name", [*WEIGHTS, *TEXT])
def test_missing_files(run, refused, name):
    (run / name).unlink()
    damaged(run, refused, name)


@pytest.mark.parametrize("name", [*WEIGHTS, *TEXT])
def test_a_folder_in_place_of_a_file(run, refused, name):
    (run / name).unlink()
    (run / name).mkdir()
    damaged(run, refused, name)


def test_learners_swapped(run, refused):
    (run / WEIGHTS[0]).rename(run / "x")
    (run / WEIGHTS[1]).rename(run / WEIGHTS[0])
    (run / "x").rename(run / WEIGHTS[1])
    damaged(run, refused, WEIGHTS[0])


@pytest.mark.parametrize(
    "text",
    [
        "", "{}", "[]", "null", '"d2ue ensemble 1"', "1e400", "NaN", "[" * 100_000,
        "{" + '"a":{' * 50_000,
        '{"format": "d2ue ensemble 1"}', '{"format": "d2ue ensemble 2"}', '{"format": null}',
        '{"format": ["d2ue ensemble 1"]}', '{"version": 3, "cells": []}', "\ufeff{}", "\x00",
        "9" * 5000,
    ],
    ids=lambda text: repr(text[:20]),
)  # fmt: skip
def test_foreign_manifests(run, refused, text):
    put(run / MANIFEST, text)
    damaged(run, refused, MANIFEST)


def test_a_manifest_that_is_no_text(run, refused):
    put(run / MANIFEST, b"\xff\xfe\x00\x80")
    damaged(run, refused, MANIFEST)


WRONG = [None, [], {}, "x", -1, 1e300, 10**30, 10**400, True, float("nan")]


def test_every_value_of_the_manifest_may_be_wrong(run, refused):
    """What is read is refused where it is nonsense; what is only recorded may be anything."""
    whole = json.loads((run / MANIFEST).read_text())
    read = [("config", key) for key in whole["config"]]
    read += [("files", key) for key in whole["files"]]
    read += [("config",), ("files",), ("data",), ("data", "fingerprint")]
    for path in read:
        for wrong in WRONG:
            manifest = json.loads(json.dumps(whole))
            *parents, last = path
            place = manifest[parents[0]] if parents else manifest
            place[last] = wrong
            put(run / MANIFEST, json.dumps(manifest))
            try:
                load_run(run)
            except InputError as error:
                assert str(error).endswith(".") and len(str(error)) < 600
            else:  # the others have values among WRONG that a training can have
                assert path[-1] not in ("config", "files", "data", "backbone", *WEIGHTS), wrong


@pytest.mark.parametrize("path", [("config",), ("files",), ("data",), ("data", "fingerprint")])
def test_manifests_with_something_missing(run, refused, path):
    manifest = json.loads((run / MANIFEST).read_text())
    place = manifest
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    put(run / MANIFEST, json.dumps(manifest))
    damaged(run, refused, MANIFEST)


def test_manifests_with_an_unknown_setting(run, refused):
    manifest = json.loads((run / MANIFEST).read_text())
    manifest["config"]["dropout"] = 0.5
    put(run / MANIFEST, json.dumps(manifest))
    damaged(run, refused, MANIFEST)


class Exploit:
    """What a pickle can do to whoever opens it."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def tensors_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / WEIGHTS[0])


def changed(run: Path, change) -> bytes:
    """The first learner's weights, each changed."""
    return in_our_format({key: change(value) for key, value in tensors_of(run).items()})


def with_infinity(value: torch.Tensor) -> torch.Tensor:
    return value.index_fill(0, torch.tensor(0), float("inf"))


def in_our_format(tensors: dict[str, torch.Tensor], form: str = "d2ue learner 1") -> bytes:
    return save(tensors, metadata={"format": form})


def by_hand(header: object, data: bytes = b"") -> bytes:
    """A safetensors file with any header."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


FOREIGN_WEIGHTS = {
    "empty file": lambda run: b"",
    "a pickle": lambda run: pickle.dumps({"encoder": [1, 2, 3]}),
    "text": lambda run: b"not weights at all, but longer than eight bytes",
    "a huge header": lambda run: (2**60).to_bytes(8, "little") + b"{}",
    "no tensors": lambda run: in_our_format({}),
    "another format": lambda run: in_our_format(tensors_of(run), "d2ue learner 2"),
    "no format": lambda run: save(tensors_of(run)),
    "a state": lambda run: in_our_format(tensors_of(run), "d2ue state 1"),
    "one missing": lambda run: in_our_format(dict(list(tensors_of(run).items())[1:])),
    "one too many": lambda run: in_our_format(tensors_of(run) | {"more": torch.zeros(1)}),
    "half precision": lambda run: changed(run, torch.Tensor.half),
    "double precision": lambda run: changed(run, torch.Tensor.double),
    "two replicas": lambda run: changed(run, lambda value: torch.cat([value, value])),
    "flattened": lambda run: changed(run, torch.Tensor.flatten),
    "NaN": lambda run: changed(run, lambda value: value * float("nan")),
    "infinity": lambda run: changed(run, with_infinity),
    "header null": lambda run: by_hand(None),
    "header list": lambda run: by_hand([1]),
    "metadata null": lambda run: by_hand({"__metadata__": None}),
    "metadata list": lambda run: by_hand({"__metadata__": ["format"]}),
    "a type of 4 bits": lambda run: by_hand(
        {"__metadata__": {"format": "d2ue learner 1"},
         "a": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}, b"\0\0"),
    "a type of 6 bits": lambda run: by_hand(
        {"__metadata__": {"format": "d2ue learner 1"},
         "a": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [0, 3]}}, b"\0\0\0"),
    "offsets outside": lambda run: by_hand(
        {"__metadata__": {"format": "d2ue learner 1"},
         "a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, b"\0\0"),
}  # fmt: skip


@pytest.mark.parametrize("case", FOREIGN_WEIGHTS)
def test_foreign_weights_with_the_right_hash(run, refused, case):
    put(run / WEIGHTS[0], FOREIGN_WEIGHTS[case](run))
    rehash(run)
    damaged(run, refused, WEIGHTS[0])


def test_nothing_is_unpickled(run, refused, tmp_path):
    put(run / WEIGHTS[0], pickle.dumps(Exploit(tmp_path / "executed")))
    rehash(run)
    damaged(run, refused, WEIGHTS[0])
    put(run / MANIFEST, pickle.dumps(Exploit(tmp_path / "executed")))
    damaged(run, refused, MANIFEST)
    torch.save(Exploit(tmp_path / "executed"), tmp_path / "x.pt")
    put(run / WEIGHTS[0], (tmp_path / "x.pt").read_bytes())
    damaged(run, refused)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("backbone", ["ae", "aeu"])
def test_weights_of_another_backbone(run, refused, trained, tmp_path, backbone):
    save_run(trained(backbone), tmp_path / "other")
    put(run / WEIGHTS[0], (tmp_path / "other" / WEIGHTS[0]).read_bytes())
    rehash(run)
    damaged(run, refused, "another network")


@pytest.mark.parametrize(
    "table",
    [
        b"a,b\n1,2\n",
        b"learner,epoch,loss,similarity\n1,1,much,0\n",
        b"learner,epoch,loss,similarity\n1,1\n",
        b"\xff\xfe",
        b'learner,epoch,loss,similarity\n1,1,"' + b"9" * 200_000 + b'",0\n',
    ],
    ids=["columns", "words", "short", "bytes", "long"],
)
def test_foreign_histories_with_the_right_hash(run, refused, table):
    put(run / "history.csv", table)
    rehash(run)
    damaged(run, refused)


def test_what_is_no_run(tmp_path, refused, images):
    with refused("no run folder", tmp_path / "nowhere"):
        load_run(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with refused("not a run folder", tmp_path / "empty"):
        load_run(tmp_path / "empty")
    (tmp_path / "file").write_text("x")
    with refused(tmp_path / "file"):
        load_run(tmp_path / "file")
    (tmp_path / "started" / ".unfinished").mkdir(parents=True)
    with refused("not finished", tmp_path / "started"):
        load_run(tmp_path / "started")


# --- fit_run ---


def test_the_second_time_nothing_is_trained(config, images, undisturbed, equal_tensors, tmp_path):
    folder = tmp_path / "a" / "run"
    first, was_there = fit_run(config, images, folder, data_name="waves", progress=False)
    assert not was_there
    equal_tensors(first, undisturbed)
    assert listing(folder) == sorted([*WEIGHTS, *TEXT])  # nothing temporary, no store
    before = content(folder)
    again, was_there = fit_run(config, images, folder, progress=False)
    assert was_there and content(folder) == before
    equal_tensors(first, again)
    given = config.replace(learning_rate=config.lr)  # the default, said aloud
    assert fit_run(given, images, folder, progress=False)[1]


def test_other_settings_or_images_are_refused(run, config, images, draw_set, refused):
    before = content(run)
    for change in ({"seed": 1}, {"epochs": 4}, {"repulsion_weight": 0.5}, {"n_learners": 3}):
        with refused(run, "other settings"):
            fit_run(config.replace(**change), images, run, progress=False)
    with refused(run, "other images"):
        fit_run(config, draw_set(20, seed=1), run, progress=False)
    assert content(run) == before


def test_a_damaged_run_is_refused_not_overwritten(run, config, images, refused):
    put(run / WEIGHTS[1], b"")
    before = content(run)
    with refused(WEIGHTS[1]):
        fit_run(config, images, run, progress=False)
    assert content(run) == before


def test_folders_with_other_content_are_left_as_they_are(tmp_path, config, images, refused):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter 1").write_text("long ago")
    (tmp_path / "file").write_text("x")
    before = content(tmp_path)
    for name in ("thesis", "file"):
        with refused(tmp_path / name):
            fit_run(config, images, tmp_path / name, progress=False)
    with refused("file"):
        fit_run(config, images, tmp_path / "file" / "below", progress=False)
    assert content(tmp_path) == before and listing(tmp_path) == [
        "file",
        "thesis",
        "thesis/chapter 1",
    ]


def test_an_empty_folder_is_taken(tmp_path, config, images, undisturbed, equal_tensors):
    equal_tensors(fit_run(config, images, tmp_path, progress=False)[0], undisturbed)


def test_a_shared_store_trains_shared_learners_once(tmp_path, config, images):
    """Lambda 0 and 1 share learner 1; a run beside a store leaves the store."""
    shared = tmp_path / "store"
    fit_run(config, images, tmp_path / "one", progress=False, store=shared)
    first, second = names_of(config, images)
    before = {p: p.stat() for p in (shared / "learners" / first).iterdir()}
    zero = config.replace(repulsion_weight=0.0)
    fit_run(zero, images, tmp_path / "zero", progress=False, store=shared)
    for path, stat in before.items():
        assert (path.stat().st_mtime_ns, path.stat().st_ino) == (stat.st_mtime_ns, stat.st_ino)
    assert names_of(zero, images)[0] == first and names_of(zero, images)[1] != second
    assert set(os.listdir(shared / "learners")) == {first, second, names_of(zero, images)[1]}
    assert not list(shared.glob("states/*"))
    weights = [(tmp_path / name / WEIGHTS[0]).read_bytes() for name in ("one", "zero")]
    assert weights[0] == weights[1]


def test_stopped_while_saving_beside_a_shared_store(tmp_path, config, images, kept, monkeypatch):
    """The same call again must finish the run, as it does with a store of its own."""
    calls = []

    def stop(path: Path, data: bytes) -> None:
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write_file(path, data)

    with monkeypatch.context() as patched:
        patched.setattr("d2ue.store.runs.write_file", stop)
        with pytest.raises(KeyboardInterrupt):
            fit_run(config, images, tmp_path / "run", progress=False, store=kept)
    fit_run(config, images, tmp_path / "run", progress=False, store=kept)
    assert listing(tmp_path / "run") == sorted([*WEIGHTS, *TEXT])


# --- interrupted ---


class Interrupted(Store):
    """A store at whose k-th keeping of something Ctrl-C is pressed, before or after."""

    def __init__(self, folder: Path, k: int, when: str) -> None:
        super().__init__(folder, state_interval=0)
        self.left, self.when = k, when

    def _keep(self, keep, *args) -> None:
        self.left -= 1
        if self.left == 0 and self.when == "before":
            raise KeyboardInterrupt
        keep(*args)
        if self.left == 0:
            raise KeyboardInterrupt

    def save_state(self, names, state) -> None:
        self._keep(super().save_state, names, state)

    def put(self, name, settings, learner, **where) -> None:
        self._keep(partial(super().put, **where), name, settings, learner)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("k", range(1, 7))  # two learners: states after epochs 1 and 2, then put
def test_interrupted_anywhere_ends_bit_identically(
    config, images, undisturbed, equal_tensors, tmp_path, k, when
):
    with pytest.raises(KeyboardInterrupt):
        train_ensemble(config, images, progress=False, store=Interrupted(tmp_path, k, when))
    finished = {p: p.stat() for p in tmp_path.glob("learners/*/*")}
    assert len(finished) == 2 * ((k if when == "after" else k - 1) // 3)
    ensemble = train_ensemble(config, images, progress=False, store=Store(tmp_path))
    equal_tensors(ensemble, undisturbed)
    assert ensemble.history == undisturbed.history
    for path, stat in finished.items():
        assert (path.stat().st_mtime_ns, path.stat().st_ino) == (stat.st_mtime_ns, stat.st_ino)
    assert sorted(os.listdir(tmp_path / "learners")) == sorted(names_of(config, images))
    left = {name.split("/")[0] for name in listing(tmp_path)} - {"learners", "locks", "states"}
    assert left == {"journal.txt"}
    journal = (tmp_path / "journal.txt").read_text().splitlines()
    assert [line.split()[2:] for line in journal] == [
        ["learner", name, "trained"] for name in names_of(config, images)
    ]


def test_the_epochs_before_an_interruption_are_not_trained_again(config, images, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train_ensemble(config, images, progress=False, store=Interrupted(tmp_path, 2, "after"))
    store = Interrupted(tmp_path, 10**9, "after")
    train_ensemble(config, images, progress=False, store=store)
    # learner 1 lacks its last epoch: put; learner 2 is whole: two states and put
    assert 10**9 - store.left == 4


def test_a_learner_without_its_manifest_is_trained_once_more_and_kept(config, images, tmp_path):
    train_ensemble(config, images, progress=False, store=Store(tmp_path))
    first = names_of(config, images)[0]
    (tmp_path / "learners" / first / "learner.json").unlink()
    assert Store(tmp_path).get(first) is None
    for _ in range(2):
        train_ensemble(config, images, progress=False, store=Store(tmp_path))
    assert Store(tmp_path).get(first) is not None
    assert (tmp_path / "journal.txt").read_text().count(f"learner {first} trained") == 2


def test_a_learner_says_where_it_was_trained(config, images, tmp_path):
    train_ensemble(config, images, progress=False, store=Store(tmp_path))
    for path in tmp_path.glob("learners/*/learner.json"):
        manifest = json.loads(path.read_text())
        assert manifest["device"] == "cpu" and manifest["threads"] == torch.get_num_threads()
        assert torch.backends.cpu.get_cpu_capability() in manifest["versions"]["processor"]


def test_slow_saving_becomes_rare(config, images, tmp_path, monkeypatch):
    """A state that takes 2 s to write is not written again within the next 198 s."""
    clock = iter([0.0, 100.0, 102.0, 299.0, 301.0, 303.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    store, saved = Store(tmp_path, state_interval=60), []
    state = TrainState(1, {"network.a": torch.zeros(1)}, [{"loss": [1.0], "similarity": [0.0]}])
    for _ in range(3):  # at 100 (until 102), at 299, at 301
        store.save_state(["a"], state)
        saved.append(len(list(tmp_path.glob("states/*"))) == 1)
        store.forget_state(["a"])
    assert saved == [True, False, True]


def test_states_are_not_kept_more_often_than_asked(config, images, tmp_path):
    store = Store(tmp_path, state_interval=3600)
    train_ensemble(config, images, progress=False, store=store)
    assert not (tmp_path / "states").exists()


SCRIPT = """
import functools, json, os, signal, sys
from pathlib import Path
import numpy as np
import torch
torch.set_num_threads(1)
from d2ue import TrainConfig, ImageSet, train_ensemble
from d2ue.store import runs

images = np.load(sys.argv[1])
images = ImageSet(images, tuple(map(str, range(len(images)))))
config = TrainConfig(**json.loads(sys.argv[2]))
base = Path(sys.argv[3])
runs.Store = functools.partial(runs.Store, state_interval=0)
train_ensemble(config.replace(n_learners=1, epochs=1), images, progress=False)  # warms up

def fit(folder, **more):
    runs.fit_run(config, images, folder, progress=False, **more)

def count(act):
    '''Calls act(number) before each call that makes something last on disk.'''
    calls = [0]
    def counting(original):
        def call(*args, **kwargs):
            calls[0] += 1
            act(calls[0])
            return original(*args, **kwargs)
        return call
    for name in ("fsync", "replace", "rename", "unlink", "rmdir"):
        setattr(os, name, counting(getattr(os, name)))
    return calls

def forked(work):
    '''Exit status of a process that does the work: 0, or minus the signal.'''
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return pid

def result(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""

KILLED = """
def undisturbed():
    calls = count(lambda number: None)
    fit(base / "undisturbed")
    (base / "calls").write_text(str(calls[0]))

assert result(forked(undisturbed)) == 0
calls = int((base / "calls").read_text())
points = sorted({round(x) for x in np.linspace(1, calls, 6)})
for k in points:
    folder = base / str(k)
    def killed(k=k, folder=folder):
        count(lambda number: number == k and os.kill(os.getpid(), signal.SIGKILL))
        fit(folder)
    assert result(forked(killed)) == -signal.SIGKILL, k
    assert result(forked(lambda folder=folder: fit(folder))) == 0, k
    for name in sorted(os.listdir(folder)):
        whole = base / "undisturbed" / name
        if not whole.exists():
            print(f"killed at {k} of {calls}: {name} is left")
        elif name != "ensemble.json" and (folder / name).read_bytes() != whole.read_bytes():
            print(f"killed at {k} of {calls}: {name} differs")
    missing = set(os.listdir(base / "undisturbed")) - set(os.listdir(folder))
    if missing:
        print(f"killed at {k} of {calls}: {missing} are missing")
    runs.load_run(folder)
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
print("done")
"""

AT_ONCE = """
def work(name):
    original = runs.Store.func.put
    def put(self, learner, settings, trained, **where):
        with open(base / "trained", "a") as file:
            file.write(f"{learner}\\n")
        original(self, learner, settings, trained, **where)
    runs.Store.func.put = put
    fit(base / name, store=base / "store")

pids = [forked(lambda name=name: work(name)) for name in ("one", "two")]
assert [result(pid) for pid in pids] == [0, 0]
print("done")
"""

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked here")


@pytest.fixture
def in_a_process(images, config, tmp_path):
    """Runs SCRIPT with some more lines in a process of its own; what it printed."""

    def call(lines: str) -> list[str]:
        np.save(tmp_path / "images.npy", images.images)
        settings = json.dumps(config.as_dict())
        base = tmp_path / "base"
        base.mkdir()
        arguments = [tmp_path / "images.npy", settings, base]
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT + lines, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return call


@needs_fork
def test_killed_anywhere_ends_bit_identically(in_a_process):
    """SIGKILL before a flush, rename or removal, at points spread over the run; then once more."""
    assert in_a_process(KILLED) == ["done"]


@needs_fork
def test_processes_that_ask_at_once_train_each_learner_once(
    in_a_process, tmp_path, config, images, undisturbed, equal_tensors
):
    assert in_a_process(AT_ONCE) == ["done"]
    trained = (tmp_path / "base" / "trained").read_text().split()
    assert trained == names_of(config, images)
    for name in ("one", "two"):
        equal_tensors(load_run(tmp_path / "base" / name), undisturbed)
    assert not [name for name in listing(tmp_path / "base") if "/." in name]


# --- the store ---


def test_a_store_gives_back_what_was_put(store, config, images, undisturbed, equal_tensors):
    for i, name in enumerate(names_of(config, images)):
        learner = Store(store).get(name)
        equal_tensors(learner.network, undisturbed.network.replica(i))
        assert learner.history == undisturbed.history[i] and not learner.network.training
    assert Store(store).get("0" * 16) is None


def test_a_store_tells_what_it_holds(store, config, images):
    for number, name in enumerate(names_of(config, images), 1):
        manifest = json.loads((store / "learners" / name / "learner.json").read_text())
        assert manifest["name"] == name and manifest["versions"]["torch"] == torch.__version__
        assert manifest["settings"] == learner_settings(config, number, images.fingerprint)


def test_what_is_there_is_not_put_again(store, config, images):
    name = names_of(config, images)[0]
    before = content(store / "learners")
    Store(store).put(name, {"other": "settings"}, Store(store).get(name))
    assert content(store / "learners") == before
    assert sorted(os.listdir(store / "learners")) == sorted(names_of(config, images))


def test_seeds_lambdas_and_learners_share_a_store(store, config, images, equal_tensors):
    """An ensemble of three takes the two that are there; lambda 0 takes the first."""
    before = content(store / "learners")
    zero = config.replace(repulsion_weight=0.0)
    three, other = train_ensembles(
        [config.replace(n_learners=3), zero], images, progress=False, store=Store(store)
    )
    after = content(store / "learners")
    assert all(after[path] == before[path] for path in before)
    assert len(os.listdir(store / "learners")) == 4
    equal_tensors(three, train_ensemble(config.replace(n_learners=3), images, progress=False))
    equal_tensors(other, train_ensemble(zero, images, progress=False))


def test_learners_swapped_in_a_store_are_not_served(store, config, images, refused):
    first, second = (store / "learners" / name for name in names_of(config, images))
    first.rename(store / "x")
    second.rename(first)
    (store / "x").rename(second)
    with refused(first):
        train_ensemble(config, images, progress=False, store=Store(store))


@pytest.mark.parametrize("name", ["weights.safetensors", "learner.json"])
def test_damaged_files_of_a_store(store, config, images, refused, name):
    path = store / "learners" / names_of(config, images)[1] / name
    whole = path.read_bytes()
    for data in (b"", whole[:100], whole[: len(whole) // 2], b"{}", b"[]", pickle.dumps([1])):
        put(path, data)
        with refused(path.parent):
            train_ensemble(config, images, progress=False, store=Store(store))


def test_every_bit_of_a_learners_weights_is_checked(store, config, images, refused):
    path = store / "learners" / names_of(config, images)[1] / "weights.safetensors"
    flipped = bytearray(path.read_bytes())
    flipped[-5] ^= 1  # the last bit but a few of a float: finite, and hardly another number
    put(path, bytes(flipped))
    with refused(path, "damaged"):
        train_ensemble(config, images, progress=False, store=Store(store))


@pytest.mark.parametrize(
    "change",
    [
        {"settings": None}, {"settings": []}, {"settings": 3},
        {"settings": {"memory_slots": 10**12}},
        {"settings": {"backbone": "x"}}, {"settings": {"backbone": "ae"}}, {"weights_sha256": None},
        {"history": None}, {"history": "abc"}, {"history": [1, 2, 3]}, {"history": [{"loss": "x"}]},
        {"history": [{}, {}, {}]}, {"history": []},
    ],
    ids=repr,
)  # fmt: skip
def test_foreign_values_in_a_learners_manifest(store, config, images, refused, tmp_path, change):
    path = store / "learners" / names_of(config, images)[1] / "learner.json"
    put(path, json.dumps(json.loads(path.read_text()) | change))
    with refused(path.parent):
        fit_run(config, images, tmp_path / "run", progress=False, store=store)


@pytest.fixture
def left_in_the_middle(tmp_path, config, images) -> Path:
    """A state after two of three epochs, ready to damage; its store is two folders above."""
    with pytest.raises(KeyboardInterrupt):
        store = Interrupted(tmp_path / "s", 2, "after")
        train_ensemble(config, images, progress=False, store=store)
    (state,) = (tmp_path / "s" / "states").iterdir()
    return state


def test_damaged_states(left_in_the_middle, config, images, refused):
    """Refused with a sentence; never a traceback, never other weights."""
    state = left_in_the_middle
    whole, tensors = state.read_bytes(), load_file(state)
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])["__metadata__"]
    flipped = bytearray(whole)
    flipped[-100] ^= 64
    cases = {
        "truncated": whole[:100],
        "half": whole[: len(whole) // 2],
        "empty": b"",
        "pickle": pickle.dumps([1]),
        "no metadata": by_hand({"__metadata__": None}),
        "format": save(tensors, metadata={**header, "format": "d2ue learner 1"}),
        "no tensors": save({}, metadata=header),
        "history": save(tensors, metadata={**header, "history": "3"}),
        "epoch": save(tensors, metadata={**header, "epoch": "x"}),
        "precision": save({k: v.bfloat16() for k, v in tensors.items()}, metadata=header),
        "one missing": save(dict(list(tensors.items())[1:]), metadata=header),
        "shapes": save({k: v.flatten()[:1] for k, v in tensors.items()}, metadata=header),
        "flipped": bytes(flipped),
    }
    wrong = []
    for case, data in cases.items():
        put(state, data)
        try:
            train_ensemble(config, images, progress=False, store=Store(state.parent.parent))
            wrong.append(f"{case}: taken")
            shutil.rmtree(state.parent.parent / "learners")
        except InputError as error:
            assert str(error).endswith(".")
        except Exception as error:
            wrong.append(f"{case}: {error!r:.100}")
    assert not wrong, wrong


def test_an_error_in_the_training_is_not_blamed_on_the_store(tmp_path):
    """OSErrors of the body, such as a closed terminal, are not about the locks."""
    with pytest.raises(BrokenPipeError), Store(tmp_path).claim(["name"]):
        raise BrokenPipeError(32, "Broken pipe")


def test_folders_that_cannot_be_written_to(tmp_path, config, images, undisturbed, refused):
    (tmp_path / "file").write_text("x")
    with refused("cannot be written", tmp_path / "file"):
        save_run(undisturbed, tmp_path / "file" / "run")
    with refused("cannot be written", tmp_path / "file"):
        train_ensemble(config, images, progress=False, store=Store(tmp_path / "file" / "store"))
    with refused("cannot be written", tmp_path / "file"):
        write_text(tmp_path / "file" / "text", "x")
    assert listing(tmp_path) == ["file"] and (tmp_path / "file").read_text() == "x"


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write to every folder"
)
def test_folders_without_permission(tmp_path, config, images, undisturbed, refused):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    with refused("cannot be written", closed):
        save_run(undisturbed, closed / "run")
    with refused("cannot be written", closed):
        train_ensemble(config, images, progress=False, store=Store(closed / "store"))
    with refused("cannot be written", closed):
        write_text(closed / "text", "x")


def test_text_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    write_text(tmp_path / "a", "first")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(InputError, match="free some space"):
            write_text(tmp_path / "a", "second")
    assert (tmp_path / "a").read_text() == "first" and listing(tmp_path) == ["a"]


def test_a_full_disk_leaves_no_manifest_and_nothing_temporary(tmp_path, undisturbed, monkeypatch):
    def full_at_the_manifest(source: str, target: Path) -> None:
        if Path(target).name == MANIFEST:
            raise OSError(28, "No space left on device")
        os.rename(source, target)

    monkeypatch.setattr("os.replace", full_at_the_manifest)
    with pytest.raises(InputError, match="free some space"):
        save_run(undisturbed, tmp_path / "run")
    assert listing(tmp_path / "run") == sorted([*WEIGHTS, "history.csv"])
