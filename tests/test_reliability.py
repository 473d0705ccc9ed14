"""Promises that take a full disk, a folder that may not be written to, or two processes at once."""

import ast
import contextlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

import d2ue
from d2ue import D2UE, fit_run, load_run
from d2ue.cli.app import main
from d2ue.ensemble import train_ensemble
from d2ue.errors import InputError
from d2ue.store.learners import Store

HERE = Path(__file__).parent
THOROUGH = settings.get_current_profile_name() == "fuzz"


@pytest.fixture
def calls(monkeypatch):
    """What makes something last on disk, in its order: ("flush", inode) or ("name", the name)."""
    found, flush, name = [], os.fsync, os.replace

    def flushed(handle):
        found.append(("flush", os.fstat(handle).st_ino))
        flush(handle)

    def named(source, target):
        assert ("flush", os.stat(source).st_ino) in found, f"{target} was not flushed"
        found.append(("name", Path(target).name))
        name(source, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", named)
    return found


def test_files_are_flushed_before_they_get_their_name(tmp_path, tiny, draw_set, calls):
    fit_run(tiny(), draw_set(16), tmp_path / "run", progress=False, device="cpu")
    # Each was looked at when it got its name: two learners with their settings, the run's four.
    assert [kind for kind, _ in calls].count("name") >= 8


def test_the_manifest_is_written_last(tmp_path, tiny, draw_set, calls):
    run = tmp_path / "run"
    fit_run(tiny(), draw_set(16), run, progress=False, device="cpu")
    names = [name for kind, name in calls if kind == "name"]
    assert names[-1] == "ensemble.json" and names.count("ensemble.json") == 1
    learner = names.index("learner.json")
    assert names[learner - 1] == "weights.safetensors"
    files = json.loads((run / "ensemble.json").read_text())["files"]
    assert {*files, "ensemble.json"} == set(os.listdir(run))


PROGRAM = """
import sys, time
import numpy as np, torch
torch.set_num_threads(1)
from pathlib import Path
from d2ue import ImageSet, TrainConfig, fit_run
from d2ue.store.learners import Store

base = Path(sys.argv[1])
images = np.load(base / "images.npy")
keep = Store.put

def put(self, name, settings, learner, **where):
    with open(base / "trained", "a") as file:
        file.write(name + "\\n")
    keep(self, name, settings, learner)

Store.put = put
(base / f"here {sys.argv[2]}").touch()
while not all((base / f"here {k}").exists() for k in "ab"):
    pass  # so that both ask at once
config = TrainConfig(backbone="ae", image_size=16, batch_size=8, epochs=4, n_learners=2)
train = ImageSet(images, tuple(map(str, range(len(images)))))
print(fit_run(config, train, base / "run", progress=False, device="cpu")[1])
"""


def test_two_commands_for_one_run(tmp_path, draw_images):
    """One trains each learner, the other waits and reads; neither leaves anything."""
    np.save(tmp_path / "images.npy", draw_images(16))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path), which],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for which in "ab"
    ]
    said = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert sorted(out.strip() for out, _ in said) == ["False", "True"]
    names = (tmp_path / "trained").read_text().split()
    assert len(names) == len(set(names)) == 2
    assert len(load_run(tmp_path / "run")) == 2
    whole = ["ensemble.json", "history.csv", "learner_1.safetensors", "learner_2.safetensors"]
    assert sorted(os.listdir(tmp_path / "run")) == whole


# --- 2 and 5 ---


def test_device_and_threads_are_recorded_and_not_named(tmp_path, tiny, draw_set):
    images, manifests = draw_set(16), []
    for threads in (1, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            fit_run(tiny(), images, tmp_path / str(threads), progress=False, device="cpu")
        finally:
            torch.set_num_threads(before)
        manifests.append(json.loads((tmp_path / str(threads) / "ensemble.json").read_text()))
    assert [m["threads"] for m in manifests] == [1, 2]
    assert [m["device"] for m in manifests] == ["cpu", "cpu"]
    assert manifests[0]["learners"] == manifests[1]["learners"]


def test_a_training_goes_on_with_the_threads_it_began_with(tmp_path, tiny, draw_set, equal_tensors):
    config, images = tiny(epochs=4, n_learners=1), draw_set(16)
    undisturbed = train_ensemble(config, images, progress=False, device="cpu")
    threads = []

    class Watched(Store):
        def save_state(self, names, state):
            threads.append(state.threads)
            super().save_state(names, state)
            if len(threads) == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_ensemble(config, images, progress=False, device="cpu", store=Watched(tmp_path, 0))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        store = Watched(tmp_path, 0)
        ensemble = train_ensemble(config, images, progress=False, device="cpu", store=store)
        assert torch.get_num_threads() == 2  # the caller's, again
    finally:
        torch.set_num_threads(before)
    assert threads == [1, 1, 1]  # two before, one after: as it began
    equal_tensors(ensemble, undisturbed)


# --- 3 ---


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((9, 3, 16, 16), np.uint8), np.zeros((9, 16, 16, 3), np.uint8),
        np.zeros((9, 16, 16), np.uint8), np.full((9, 1, 16, 16), np.nan, np.float32),
        np.full((9, 1, 16, 16), np.inf), np.zeros((9, 1, 16, 16), np.uint16),
    ],
    ids=lambda images: f"{images.dtype} {images.shape}",
)  # fmt: skip
def test_arrays_of_other_channels(images, refused):
    with refused("uint8", images.dtype):
        d2ue.ImageSet(images, tuple(map(str, range(9))))


def _mount(folder: Path, *options: str) -> None:
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("file systems can be mounted by root on Linux only")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB; a run needs 17 MB a learner."""
    folder = tmp_path / "disk"
    folder.mkdir()
    _mount(folder, "-o", "size=1m")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def resize(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_space(
    small_disk, tmp_path, tiny, draw_set, refused
):
    """At several sizes, so that it is full at the first learner, the second, the run's files."""
    config, images = tiny(), draw_set(16)
    (small_disk / "thesis.txt").write_text("years of work")
    fit_run(config, images, tmp_path / "whole", progress=False, device="cpu")
    whole = files(tmp_path / "whole")
    size = sum(map(len, whole.values())) // 2**20 + 1
    full = 0
    for megabytes in (1, size // 2 + 1, size + 1, size * 3 // 2 + 1):
        resize(small_disk, f"size={megabytes}m")
        try:
            fit_run(config, images, small_disk / "run", progress=False, device="cpu")
        except InputError as error:
            text = str(error)
            assert "cannot be written" in text and "free some space" in text and "\n" not in text
            full += 1
        if not (small_disk / "run" / "ensemble.json").exists():
            left = files(small_disk)
            assert left["thesis.txt"] == b"years of work"
            assert not [name for name in left if ".tmp-" in name]
    assert full >= 2
    resize(small_disk, f"size={4 * size}m")
    fit_run(config, images, small_disk / "run", progress=False, device="cpu")
    now = files(small_disk / "run")
    assert now.keys() == whole.keys()
    assert all(now[name] == whole[name] for name in whole if name != "ensemble.json")


@pytest.fixture(scope="module")
def run_and_images(tmp_path_factory, tiny, draw_set):
    folder = tmp_path_factory.mktemp("made")
    images = draw_set(16)
    fit_run(tiny(), images, folder / "run", progress=False, device="cpu")
    (folder / "images").mkdir()
    for i, image in enumerate(images.images):
        Image.fromarray(image[0]).save(folder / "images" / f"{i:02}{'long' * 30}.png")
    return folder / "run", folder / "images"


def call(capsys, *words):
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    return stopped.value.code, capsys.readouterr().err


def test_scores_on_a_full_disk_leave_those_that_were_there(small_disk, run_and_images, capsys):
    scores = small_disk / "scores.csv"
    scores.write_text("name,label,score\nold,,1.0\n")
    with contextlib.suppress(OSError), open(small_disk / "filling", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    code, err = call(capsys, "score", *run_and_images, "--out", scores)
    assert code == 2 and "free some space" in err and err.count("\n") == 1
    assert scores.read_text() == "name,label,score\nold,,1.0\n"
    assert sorted(os.listdir(small_disk)) == ["filling", "scores.csv"]
    (small_disk / "filling").unlink()
    assert call(capsys, "score", *run_and_images, "--out", scores)[0] == 0
    assert scores.read_text().count("\n") == 17


def test_a_read_only_folder(small_disk, run_and_images, tiny, draw_set, refused, capsys):
    """Nothing can be written, and a run that lies there is read all the same."""
    run, images = run_and_images
    resize(small_disk, "size=100m")
    shutil.copytree(run, small_disk / "run")
    shutil.copytree(images, small_disk / "images")
    before = files(small_disk)
    resize(small_disk, "ro")
    try:
        with refused("cannot be written", small_disk / "new"):
            fit_run(tiny(), draw_set(16), small_disk / "new", progress=False, device="cpu")
        with refused("cannot be written", small_disk / "store"):
            train_ensemble(
                tiny(),
                draw_set(16),
                progress=False,
                device="cpu",
                store=Store(small_disk / "store"),
            )
        code, err = call(capsys, "score", small_disk / "run", images, "--out", small_disk / "s.csv")
        assert code == 2 and "written" in err and err.count("\n") == 1
        ensemble, was_there = fit_run(
            tiny(), draw_set(16), small_disk / "run", progress=False, device="cpu"
        )
        assert was_there and len(ensemble) == 2
        out = small_disk.parent / "s.csv"
        assert (
            call(capsys, "score", small_disk / "run", small_disk / "images", "--out", out)[0] == 0
        )
        assert files(small_disk) == before
    finally:
        resize(small_disk, "rw")


@pytest.fixture(scope="module")
def detectors(draw_images):
    """Two detectors of one learner each, told apart by their thresholds."""
    settings = {"image_size": 16, "epochs": 1, "batch_size": 8, "n_learners": 1, "device": "cpu"}
    settings |= {"method": "ensemble", "contamination": 0.5}
    return [D2UE(**settings, random_state=seed).fit(draw_images(16)) for seed in (0, 1)]


def test_saving_on_a_full_disk_leaves_the_detector_that_was_there(small_disk, detectors, refused):
    """At several sizes, so that it is full at the learner, the manifest or detector.json."""
    old, new = detectors
    folder = small_disk / "detector"
    resize(small_disk, "size=100m")
    old.save(folder)
    before = files(small_disk)
    size, full = sum(map(len, before.values())) // 1024, 0
    for more in (16, size // 2, size - 8, size + 4, size + 8, size + 12):  # KiB beside the old one
        resize(small_disk, f"size={size + more}k")
        try:
            new.save(folder)
        except InputError as error:
            text = str(error)
            assert "cannot be written" in text and "free some space" in text and "\n" not in text
            full += 1
            assert D2UE.load(folder).threshold_ == old.threshold_
            left = files(small_disk)
            assert all(left[name] == content for name, content in before.items())
            assert not [name for name in left if ".tmp-" in name or ".lock" in name]
    assert full >= 3
    resize(small_disk, "size=100m")
    new.save(folder)
    assert D2UE.load(folder).threshold_ == new.threshold_
    assert files(folder).keys() != before.keys() and len(files(folder)) == len(before)


def test_saving_in_a_read_only_folder(small_disk, detectors, refused):
    """Refused in a sentence; the detector there is read all the same."""
    old, new = detectors
    resize(small_disk, "size=100m")
    old.save(small_disk / "detector")
    before = files(small_disk)
    resize(small_disk, "ro")
    try:
        for folder in ("detector", "new"):
            with refused("cannot be written", small_disk / folder):
                new.save(small_disk / folder)
        assert D2UE.load(small_disk / "detector").threshold_ == old.threshold_
        assert files(small_disk) == before
    finally:
        resize(small_disk, "rw")


def test_memory_grows_by_5_kib_an_image(tmp_path):
    """Peak memory of loading many small images less that of fewer; 4 KiB of it are the pixels."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak of memory can be set back on Linux only")
    few, many = (10_000, 50_000) if THOROUGH else (1_000, 6_000)
    Image.fromarray(np.arange(4096, dtype=np.uint8).reshape(64, 64)).save(tmp_path / "one.png")
    for name, n in ((str(few), few), (str(many), many), ("warm", 100)):
        (tmp_path / name).mkdir()
        for i in range(n):  # many names of one file; most file systems allow 65,000
            os.link(tmp_path / "one.png", tmp_path / name / f"patient_{i:06d}_slice.png")
    program = textwrap.dedent(
        """
        import sys
        from d2ue import load_folder

        def memory(what):
            lines = open("/proc/self/status").read().splitlines()
            return 1024 * next(int(x.split()[1]) for x in lines if x.startswith(what))

        load_folder(sys.argv[2], progress=False)  # imports and thread stacks
        open("/proc/self/clear_refs", "w").write("5")  # the peak so far is forgotten
        before = memory("VmRSS")
        found = load_folder(sys.argv[1], progress=False)
        print(len(found.train), memory("VmHWM") - before)
        """
    )
    peaks = []
    for n in (few, many):
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / str(n)), str(tmp_path / "warm")],
            capture_output=True,
            text=True,
            check=True,
        )
        count, peak = map(int, done.stdout.split())
        assert count == n
        peaks.append(peak)
    slope = (peaks[1] - peaks[0]) / (many - few)
    print(f"{slope:.0f} bytes an image between {few} and {many}")
    assert slope <= 5 * 1024


# --- 4 ---


def test_the_code_has_nothing_that_unpickles():
    """No module that unpickles, no torch.load without weights_only, no extraction unfiltered."""
    package = Path(d2ue.__file__).parent
    for path in sorted(package.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            where = f"{path.relative_to(package)}:{getattr(node, 'lineno', '')}"
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
                bad = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
                assert not bad & {name.split(".")[0] for name in names}, where
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if called == "torch.load":
                assert options.get("weights_only") == "True", where
            if called in ("np.load", "numpy.load"):
                assert options.get("allow_pickle", "False") == "False", where
            assert called not in ("pd.read_pickle", "eval", "exec", "shutil.unpack_archive"), where
            if called.endswith((".extract", ".extractall")):
                assert options.get("filter") == "'data'", where
