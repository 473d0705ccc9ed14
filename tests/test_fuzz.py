"""Anything at all as input: it is taken, or refused in one sentence, and nothing else is touched.

A normal run tries a few dozen cases a kind. Thousands, with a limit of time for each:

    python -m pytest tests/test_fuzz.py -k fuzz --hypothesis-profile=fuzz
"""

import contextlib
import faulthandler
import gzip
import hashlib
import io
import json
import re
import shutil
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump_tensors

from d2ue import D2UE
from d2ue.cli import app as cli
from d2ue.config import ScoreConfig, TrainConfig
from d2ue.datasets import Dataset, ImageSet, ScanConfig, load_folder, load_images
from d2ue.datasets.arrays import Reading
from d2ue.datasets.download import _extract
from d2ue.detector import saved
from d2ue.detector.threshold import Threshold
from d2ue.ensemble import train_ensemble
from d2ue.errors import D2UEError
from d2ue.experiments.records import score_record
from d2ue.learners import learner_name
from d2ue.store import runs
from d2ue.store.exchange import export, import_into, read_records
from d2ue.store.files import digest
from d2ue.store.learners import Store
from d2ue.store.results import DataKey, put_record
from d2ue.store.runs import load_run, run_scan, save_run
from d2ue.training import LearnerTask, train_learners

FEW = settings(
    max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
THOROUGH = settings.get_current_profile_name() == "fuzz"
FUZZ = settings.get_profile("fuzz") if THOROUGH else FEW
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*:RuntimeWarning"),  # of numpy, in absurd headers
]


@contextlib.contextmanager
def in_time():
    """A case that hangs, even inside a library, ends the tests and says where."""
    with open(Path(tempfile.gettempdir()) / "d2ue-fuzz-hang.txt", "w") as where:
        faulthandler.dump_traceback_later(120, exit=True, file=where)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


def is_a_sentence(text: str) -> None:
    outside = re.sub(r"'[^']*'|\"[^\"]*\"", "''", text)
    assert text.endswith((".", "?")) and "\n" not in text and len(text) < 1200, text
    assert "Traceback" not in outside and "Error" not in outside, text


def fine_or_refused(call, *args, **kwargs):
    """What a call gives, or None where it is refused; anything else is a traceback."""
    with in_time():
        try:
            return call(*args, **kwargs)
        except D2UEError as error:
            is_a_sentence(str(error))
            return None


def everything(folder: Path) -> dict[str, tuple]:
    """All that lies below a folder: what it is, and for files their bytes and time of change."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        large = status.st_size > 2**20  # 8 MB of weights a case would be most of the time
        content = path.read_bytes() if path.is_file() and not large else status.st_size * large
        key = str(path.relative_to(folder))
        found[key] = (status.st_mode, content, status.st_mtime_ns if path.is_file() else 0)
    return found


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if not (folder / name).exists() or (folder / name).read_bytes() != content:
            (folder / name).write_bytes(content)
    return folder


def read(folder: Path, files: dict[str, bytes], call, *args, **options):
    """What a call makes of a folder that holds these files too; it leaves all as it is."""
    write(folder, files)
    before = everything(folder)
    found = fine_or_refused(call, *args, **options)
    assert everything(folder) == before
    return found


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def believing(files: dict[str, bytes], manifest: str, key: str, of: str) -> None:
    """Write into a manifest (under "files" where it has that) the sum that a file has now."""
    data = json.loads(files[manifest])
    where, name = (data["files"], of) if key == "files" else (data, key)
    where[name] = sha256(files[of])
    files[manifest] = json.dumps(data).encode()


# --------------------------------------------------------------------------- damage to bytes

DAMAGE = st.lists(
    st.tuples(st.just("set"), st.integers(0), st.binary(min_size=1, max_size=1))
    | st.tuples(st.just("head"), st.integers(0, 400), st.binary(min_size=1, max_size=1))
    | st.tuples(st.just("set"), st.integers(0), st.sampled_from([bytes(4), b"\xff" * 4, b"\0\x80"]))
    | st.tuples(st.just("cut"), st.integers(0), st.integers(1, 64).map(bytes))
    | st.tuples(st.just("end"), st.integers(0), st.just(b""))
    | st.tuples(st.just("more"), st.integers(0), st.binary(max_size=40)),
    min_size=1,
    max_size=6,
)


def damaged(content: bytes, damage) -> bytes:
    """Bytes with some of them changed, cut out, put in, or the end cut off."""
    data = bytearray(content)
    for kind, place, what in damage:
        at = min(place, len(data)) if kind == "head" else place % max(1, len(data))
        length = {"more": 0, "end": len(data)}.get(kind, len(what))
        data[at : at + length] = b"" if kind == "cut" else what
    return bytes(data)


# --------------------------------------------------------------------------- pictures


def pictures() -> list[bytes]:
    """Small pictures of every mode and format that Pillow writes."""
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (9, 7, 3), np.uint8))
    deep = Image.fromarray(rng.integers(0, 2**16, (9, 7), np.uint16))
    several = {"save_all": True, "append_images": [colour.rotate(90)]}
    found = []

    def keep(image: Image.Image, kind: str, **options) -> None:
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        found.append(stream.getvalue())

    for mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "F"):
        for kind in ("PNG", "JPEG", "TIFF", "GIF", "BMP", "PPM", "WEBP", "JPEG2000", "TGA", "PCX"):
            with contextlib.suppress(Exception):  # not every format has every mode
                keep(deep if mode == "I;16" else colour.convert(mode), kind)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "group4"):
        image = colour.convert("1") if compression == "group4" else colour
        keep(image, "TIFF", compression=compression)
    for kind in ("GIF", "TIFF", "PNG", "WEBP"):
        keep(colour, kind, **several)
    return found


PICTURES = pictures()


@FUZZ
@given(
    content=st.builds(damaged, st.sampled_from(PICTURES), DAMAGE) | st.binary(max_size=300),
    extension=st.sampled_from(["png", "jpg", "tif", "tga", "pcx"]),
)
def test_fuzz_pictures(tmp_path_factory, content, extension):
    """In a folder with a whole one: the pixels, or a sentence that names the file."""
    folder = tmp_path_factory.mktemp("pictures")
    files = {f"a.{extension}": content, "b.png": PICTURES[1]}
    found = read(folder, files, load_folder, folder, 8, progress=False)
    assert found is None or found.train.images.shape == (2, 1, 8, 8)


# --------------------------------------------------------------------------- scans


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> dict[str, list[bytes]]:
    """Small DICOM and NIfTI files of several kinds, by extension."""
    pytest.importorskip("pydicom", reason="pydicom is missing: the extra [medical]")
    nibabel = pytest.importorskip("nibabel", reason="nibabel is missing: the extra [medical]")
    from pydicom.data import get_testdata_file

    own = ("CT_small", "MR_small_bigendian", "MR_small_RLE", "SC_rgb_small_odd", "image_dfl",
           "SC_rgb_rle_2frame", "rtdose", "JPEG2000")  # fmt: skip
    dicom = [Path(get_testdata_file(f"{name}.dcm", download=False)).read_bytes() for name in own]
    volume, affine = np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.diag([-1, 2, -3, 1])
    kinds = nibabel.Nifti1Image, nibabel.Nifti2Image
    nifti = [kind(v, affine).to_bytes() for kind in kinds for v in (volume, volume / 2)]
    return {"dcm": dicom, "nii": nifti, "nii.gz": [gzip.compress(whole) for whole in nifti]}


@pytest.mark.parametrize("extension", ["dcm", "nii", "nii.gz"])
@FUZZ
@given(
    which=st.integers(0, 100),
    damage=DAMAGE,
    slices=st.sampled_from(["middle", "all", "1", "0.5:"]),
    window=st.sampled_from(["auto", "5,10", "1%,99%"]),
)
def test_fuzz_scans(tmp_path, scans, extension, which, damage, slices, window):
    files = {f"a.{extension}": damaged(scans[extension][which % len(scans[extension])], damage)}
    scan = ScanConfig(slices, window=window)
    found = read(tmp_path, files, load_images, tmp_path, 8, progress=False, scan=scan)
    assert found is None or (len(found) and found.images.dtype == np.uint8)


# --------------------------------------------------------------------------- JSON

ODD = [
    "a.png", "b.png", "n.png", "x.png", "./a.png", "sub/../a.png", "../../secret.png", "/etc/hosts",
    "C:\\a.png", "a.png\0", "a\nb.png", "", ".", "..", "no.png", "images/a.png", "A.PNG", "ä.png",
    "a.png#z=1", "v.nii#z=1", "v.nii#z=999999999", "v.dcm#frame=0", "\ud800.png", "x" * 5000, "sub",
]  # fmt: skip
NUMBERS = st.sampled_from([0, 1, -1, 10**400, 1e308, 2**63, True, None, 0.5]) | st.floats()
JSON = st.recursive(
    NUMBERS | st.sampled_from(ODD) | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)  # fmt: skip
LISTS = st.lists(st.sampled_from(ODD) | JSON, max_size=5)
SPLIT = st.fixed_dictionaries(
    {},
    optional={
        "train": st.dictionaries(st.sampled_from(["0", "1", "unlabeled", ""]), LISTS) | JSON,
        "test": st.dictionaries(st.sampled_from(["0", "1", "2"]), LISTS) | JSON,
        "more": JSON,
    },
)
RAW = st.sampled_from(
    [b"", b"null", b"[" * 100000, b'{"train":' * 5000, b"1" * 5000, b'"\\ud800"', b"\xff\xfe{",
     b'{"train": {"0": ["a.png"]}, "train": {}}', b'{"train": NaN}', b"\xef\xbb\xbf{}", b"{}{}"]
)  # fmt: skip
WHOLE = b'{"train": {"0": ["a.png", "b.png"]}, "test": {"0": ["n.png"], "1": ["x.png"]}}'


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "data"
    whole = {f"{name}.png": PICTURES[1] for name in "abnx"}
    write(folder / "images", whole | {"v.nii": b"not a volume"})
    write(folder / "images" / "sub", {})
    write(folder.parent, {"secret.png": PICTURES[1]})
    return folder


@FUZZ
@given(
    content=st.one_of(
        SPLIT.map(lambda data: json.dumps(data).encode()),
        JSON.map(lambda data: json.dumps(data).encode()),
        st.builds(damaged, st.just(WHOLE), DAMAGE),
        st.binary(max_size=60),
        RAW,
    ),
    load=st.sampled_from([load_folder, load_images]),
)
def test_fuzz_data_json(bench, content, load):
    """Read, or refused; nothing outside images/ is ever looked at as an image."""
    write(bench, {"data.json": content})
    found = read(bench.parent, {}, load, bench, 8, progress=False)
    if isinstance(found, Dataset):
        names = [*found.train.names, *(found.test.names if found.test else ())]
        assert len(set(names)) == len(names) > 0
        assert all((bench / "images" / name).is_file() and ".." not in name for name in names)


# --------------------------------------------------------------------------- checkpoints

#: The smallest network there is, and a part of its file that damage shall hit often: its header.
SMALLEST = TrainConfig(backbone="ae", image_size=16, batch_size=4, epochs=2, n_learners=1)


class Quiet(dict):
    """Megabytes that are not printed with a failing case."""

    def __repr__(self) -> str:
        return f"{sorted(self)}"


@pytest.fixture(scope="module")
def kept(draw_set, tmp_path_factory):
    """A run, a store with the same learner and one training left in its middle, as bytes."""
    folder = tmp_path_factory.mktemp("kept")
    images = draw_set(4)
    config = SMALLEST

    class Stopped(Store):
        def save_state(self, names, state):
            super().save_state(names, state)
            self.state = next((self.folder / "states").iterdir()).read_bytes()

    store = Stopped(folder / "store", state_interval=0)
    ensemble = train_ensemble(config, images, progress=False, store=store, device="cpu")
    save_run(ensemble, folder / "run", scan=ScanConfig())
    run = {path.name: path.read_bytes() for path in (folder / "run").iterdir()}
    scores = Threshold({"ensemble": np.array([0.5, 0.25, 0.75])}, 0.25)
    how = Reading(low=-1.0, high=2.0, eight_bit=False, image_shape=(2, 3), n_features=6)
    saved.attach(folder / "run", saved.Record("ensemble", scores, how, 0.1))
    name = learner_name(config, 1, images.fingerprint)
    (learner,) = (folder / "store" / "learners").iterdir()
    return Quiet(
        images=images,
        name=name,
        state=store.state,
        run=run,
        detector=(folder / "run" / saved.DETECTOR).read_bytes(),
        learner={path.name: path.read_bytes() for path in learner.iterdir()},
    )


CHANGES = {
    "nan": lambda v: v / 0 - v / 0,
    "huge": lambda v: v * 1e38, "half": torch.Tensor.half, "double": torch.Tensor.double,
    "empty": lambda v: v[:0] if v.dim() else torch.zeros(0), "flat": torch.Tensor.flatten,
    "complex": lambda v: v.to(torch.complex64), "bool": torch.Tensor.bool,
    "larger": lambda v: torch.zeros(3, *v.shape[:1]),
}  # fmt: skip
HOW = ["none", "gone", "more", *CHANGES]


def other_tensors(content: bytes, which: int, how: str) -> bytes:
    """A well-formed safetensors file of the same header, one of its tensors another."""
    tensors = load_tensors(content)
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])["__metadata__"]
    name = sorted(tensors)[which % len(tensors)]
    if how == "none":
        tensors = {}
    elif how == "gone":
        del tensors[name]
    elif how == "more":
        tensors["more"] = tensors[name].clone()
    else:
        tensors[name] = CHANGES[how](tensors[name]).contiguous()
    return summed(tensors, header)


def summed(tensors: dict[str, torch.Tensor], header: dict[str, str]) -> bytes:
    """The file with the sum that it should have, in its header or as a tensor, as it had it."""
    if tensors.pop("sha256", None) is not None:
        own = bytearray(bytes.fromhex(digest(tensors)))
        tensors["sha256"] = torch.frombuffer(own, dtype=torch.uint8)
    elif "sha256" in header:
        header["sha256"] = digest(tensors)
    return dump_tensors(tensors, metadata=header)


LENGTHS = st.sampled_from([0, 1, 7, 2**20, 2**31, 2**60, 2**64 - 1])
ANYTHING = st.tuples(st.just(damaged), DAMAGE) | st.tuples(
    st.just(lambda content, other: other), st.binary(max_size=80) | RAW
)
FILES = st.one_of(
    ANYTHING,
    st.tuples(st.just(other_tensors), st.integers(0), st.sampled_from(HOW)),
    st.tuples(st.just(lambda content, n: n.to_bytes(8, "little") + content[8:]), LENGTHS),
)


def other_json(content: bytes, path: list[int], value: object, how: str) -> bytes:
    """A JSON file with one of its values another, gone or new."""
    data = here = json.loads(content)
    for step in path:
        keys = sorted(here) if isinstance(here, dict) else range(len(here))
        key = keys[step % len(keys)]
        if not (isinstance(here[key], dict | list) and here[key]):
            break
        inside, here = here, here[key]
    else:
        here = inside
    if how == "drop":
        del here[key]
    elif how == "add" and isinstance(here, dict):
        here["more"] = value
    else:
        here[key] = value
    return json.dumps(data).encode()


MANIFESTS = ANYTHING | st.tuples(
    st.just(other_json),
    st.lists(st.integers(0, 40), min_size=4, max_size=4),
    JSON | st.sampled_from(["ae", "aeu", "z", 16, 512, 10**6, 1000, "../x", [[]], {"a": 1}]),
    st.sampled_from(["set", "set", "drop", "add"]),
)
KINDS = {"json": MANIFESTS, "csv": ANYTHING, "safetensors": FILES}


def changed(files: dict[str, bytes], which: str, data) -> dict[str, bytes]:
    """The files with one of them changed as its kind may be."""
    change, *how = data.draw(KINDS[which.rpartition(".")[2]])
    return files | {which: change(files[which], *how)}


def is_sound(network) -> bool:
    return all(torch.isfinite(value).all() for value in network.state_dict().values())


@FUZZ
@given(
    which=st.sampled_from(["learner_1.safetensors", "ensemble.json", "history.csv"]),
    data=st.data(),
    believed=st.booleans(),
)
def test_fuzz_runs(kept, tmp_path_factory, which, data, believed):
    """A run folder with one file changed, and a manifest that believes in it or does not."""
    files = changed(kept["run"], which, data)
    if believed and which != "ensemble.json":
        believing(files, "ensemble.json", "files", which)
    run = tmp_path_factory.getbasetemp() / "fuzz runs"
    ensemble = read(run, files, load_run, run)
    read(run, files, run_scan, run)
    assert ensemble is None or is_sound(ensemble.network)


@FUZZ
@given(
    which=st.sampled_from(["detector.json"] * 3 + ["ensemble.json", "learner_1.safetensors"]),
    data=st.data(),
    believed=st.booleans(),
)
def test_fuzz_detectors(kept, tmp_path_factory, which, data, believed):
    """A saved detector: what is loaded can score, or is refused in a sentence."""
    files = changed(kept["run"] | {"detector.json": kept["detector"]}, which, data)
    if believed and which != "detector.json":
        if which != "ensemble.json":
            believing(files, "ensemble.json", "files", which)
        believing(files, "detector.json", "ensemble_sha256", "ensemble.json")
    run = tmp_path_factory.getbasetemp() / "fuzz detectors"
    found = read(run, files, D2UE.load, run, device="cpu")
    if found is not None:
        for images in (np.zeros((2, 6)), kept["images"].images[:2], np.ones((1, 5, 4))):
            scores = fine_or_refused(found.anomaly_score, images)
            assert scores is None or (scores.shape == (len(images),) and np.isfinite(scores).all())
        assert np.isfinite(found.threshold_)


@FUZZ
@given(which=st.sampled_from(["weights.safetensors", "learner.json"]), data=st.data())
def test_fuzz_learners(kept, tmp_path_factory, which, data):
    """A finished learner in a store."""
    files = changed(kept["learner"], which, data)
    if which != "learner.json":
        believing(files, "learner.json", "weights_sha256", which)
    base = tmp_path_factory.getbasetemp() / "fuzz learners"
    write(base / "learners" / kept["name"], files)
    learner = read(base, {}, Store(base).get, kept["name"])
    assert learner is None or is_sound(learner.network)


@FUZZ
@given(change=FILES)
def test_fuzz_states(kept, tmp_path_factory, change):
    """A training left in the middle: gone on with where the file is sound, else refused."""
    content = change[0](kept["state"], *change[1:])
    base = tmp_path_factory.getbasetemp() / "fuzz states"
    store = Store(base)

    def go_on():
        state = store.load_state([kept["name"]])
        return train_learners([LearnerTask(SMALLEST, 1)], kept["images"].images, state=state)

    write(base / "states", {store._state_file([kept["name"]]).name: content})
    read(base, {}, go_on)


# --------------------------------------------------------------------------- archives


@pytest.fixture(scope="module")
def exported(draw_images, tmp_path_factory) -> dict[str, bytes]:
    """The files of an export of one ensemble with its weights."""
    folder = tmp_path_factory.mktemp("exported")
    names, labels = tuple(map(str, range(8))), np.arange(8) % 2
    images = [ImageSet(draw_images(8, seed=seed), names, labels) for seed in (0, 1)]
    dataset = Dataset("waves", *images)
    store = Store(folder / "store")
    ensemble = train_ensemble(SMALLEST, dataset.train, progress=False, store=store, device="cpu")
    put_record(store, score_record(ensemble, dataset.test, DataKey.of(dataset)))
    export(store, folder / "a.zip", weights=True)
    with zipfile.ZipFile(folder / "a.zip") as packed:
        return Quiet({name: packed.read(name) for name in packed.namelist()})


MEMBERS = st.sampled_from(
    ["../evil", "../../evil", "/tmp/d2ue-evil", "C:\\evil", "scores/../../evil.safetensors",
     "scores/0123456789abcdef.safetensors", "scores/0123456789ABCDEF.safetensors", "scores/",
     "learners/0123456789abcdef/learner.json", "learners/0123456789abcdef/weights.safetensors",
     "manifest.json", "learners/evil.pkl", "scores\\0123456789abcdef.safetensors", "", "a\0b", "é"]
)  # fmt: skip
CONTENTS = st.binary(max_size=50) | st.sampled_from([bytes(3 * 10**6), b"{}", b"null"])
PACKINGS = st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])


def other_about(content: bytes, path: list[int], value: object) -> bytes:
    """A record whose settings are others, and whose sum agrees with them."""
    tensors = load_tensors(content)
    changed = other_json(tensors["about"].numpy().tobytes(), path, value, "set")
    tensors["about"] = torch.frombuffer(bytearray(changed), dtype=torch.uint8)
    return summed(tensors, {"format": "d2ue scores 1"})


ABOUT = st.tuples(st.just(other_about), st.lists(st.integers(0, 40), min_size=4, max_size=4), JSON)
GONE = st.tuples(st.just(lambda content: None))


@FUZZ
@given(
    changes=st.lists(st.tuples(st.integers(0, 5), FILES | MANIFESTS | ABOUT | GONE), max_size=3),
    more=st.dictionaries(MEMBERS, CONTENTS, max_size=2),
    packing=PACKINGS,
    believed=st.booleans(),
    damage=st.none() | DAMAGE,
    weights=st.integers(0, 9).map(lambda n: n == 9),  # 8 MB
)
def test_fuzz_exports(
    exported, tmp_path_factory, changes, more, packing, believed, damage, weights
):
    """Crafted export files: taken whole, or refused with the store as it was."""
    base = tmp_path_factory.getbasetemp() / "fuzz exports"
    files = {name: content for name, content in exported.items() if weights or "learn" not in name}
    names = sorted(files)
    for which, (change, *how) in changes:
        name = names[which % len(names)]
        with contextlib.suppress(Exception):  # of another kind, or changed beyond reading
            files[name] = change(files[name], *how)
    files = {name: content for name, content in (files | more).items() if content is not None}
    if believed or not weights:  # the manifest is of all
        sums = {n: sha256(c) for n, c in files.items() if n != "manifest.json"}
        files["manifest.json"] = json.dumps({"format": "d2ue export 1", "files": sums}).encode()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as packed:
        for name, content in files.items():
            # Level 1: most of what is packed is weights or zeros.
            info = zipfile.ZipInfo(name)
            packed.writestr(info, content, 0 if "weights" in name else packing, 1)
    content = stream.getvalue()
    write(base, {"a.zip": damaged(content, damage) if damage else content})
    before = everything(base)
    fine_or_refused(read_records, base / "a.zip")
    count = fine_or_refused(import_into, Store(base / "store"), base / "a.zip")
    if count is None:
        assert everything(base) == before
    assert {path.name for path in base.iterdir()} <= {"a.zip", "store"}
    shutil.rmtree(base / "store", ignore_errors=True)
    assert not Path("/tmp/d2ue-evil").exists()


TARS = st.lists(
    st.tuples(
        st.sampled_from(
            ["data.json", "images/a.png", "../evil", "/tmp/d2ue-evil", "a/../../evil", "images",
             "x" * 300, "images/l", "images/l/evil", "", "a\\..\\evil", "C:/evil"]
        ),
        st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE,
                         tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.GNUTYPE_SPARSE, b"?"]),
        st.sampled_from(["", "..", "/etc/passwd", "../../evil", "images/a.png", "images"]),
        CONTENTS,
    ),
    max_size=5,
)  # fmt: skip


@FUZZ
@given(members=TARS, damage=st.none() | DAMAGE)
def test_fuzz_downloads(tmp_path_factory, members, damage):
    """Crafted archives of data sets: nothing is written but below the folder they are for."""
    base = tmp_path_factory.mktemp("tar")
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz" if len(members) % 2 else "w") as tar:
        for name, kind, target, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.mode = kind, target, 0o7777
            info.size = len(content) if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(content))
    archive = stream.getvalue()
    write(base, {"a.tar.gz": damaged(archive, damage) if damage else archive, "secret": b"secret"})
    target = write(base / "in" / "to", {})

    def extract():
        with runs.writing(base):  # as the download does: what the system refuses is a sentence
            _extract(base / "a.tar.gz", target)

    fine_or_refused(extract)
    assert {p.name for p in base.iterdir()} == {"a.tar.gz", "secret", "in"}
    assert list((base / "in").iterdir()) == [target]
    assert (base / "secret").read_text() == "secret" and not Path("/tmp/d2ue-evil").exists()
    assert not any(p.is_symlink() for p in base.rglob("*"))


# --------------------------------------------------------------------------- options

VALUES = (
    NUMBERS
    | st.integers()
    | st.sampled_from(["ae", "cka", "z", "dual", "l1", "en1", 16, 64, 1e-3, b"ae", [], {}])
    | st.text(max_size=8)
    | st.builds(np.float64, st.floats())
    | st.builds(np.int64, st.integers(-3, 100))
)


@FUZZ
@given(data=st.data())
def test_fuzz_settings(data):
    """Every field of the settings: meaningful, or refused by name."""
    for kind in (TrainConfig, ScoreConfig, ScanConfig):
        fields = [*kind.__dataclass_fields__]
        values = data.draw(st.dictionaries(st.sampled_from(fields), VALUES, max_size=4))
        config = fine_or_refused(kind, **values)
        if isinstance(config, TrainConfig):
            assert TrainConfig(**json.loads(json.dumps(config.as_dict()))) == TrainConfig(
                **config.as_dict()
            )
            learner_name(config, config.n_learners if config.n_learners < 5 else 1, "0" * 64)
        if isinstance(config, ScanConfig):
            depth = data.draw(st.integers(1, 400))
            assert all(0 <= index < depth for index in config.chosen(depth))


WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=8)
WORDS |= st.sampled_from(
    ["-1", "0", "2", "16", "nan", "1e400", "9" * 5000, "ae", "aeu", "none", "z", "cpu", "cuda:99",
     "", "-", "--", "-p", "a=b", "x" * 5000, "phantom/", "../..", "/dev/null", "*", "\udcff",
     "a\nb", "40,80", "2:1", "folder", "run", "kept.txt", "store"]
)  # fmt: skip
OPTIONS = st.sampled_from(
    ["--out", "--backbone", "--learners", "--layer", "--epochs", "--batch-size", "--image-size",
     "--seed", "--slices", "--window", "--device", "--store", "--method", "--dataset", "--weights",
     "--help-me", "-x", "--contamination", "--maps", "--report"]
)  # fmt: skip
COMMANDS = st.sampled_from(
    ["fit folder --out new", "fit folder --out folder", "score run folder --out s.csv", "trial", "",
     "score folder folder --out kept.txt", "fit", "score", "export store --out kept.txt", "import",
     "export folder", "import kept.txt --store new", "datasets", "fit scans --out new",
     "score run kept.txt --out no/s.csv"]
).map(str.split)  # fmt: skip


@pytest.fixture(scope="module")
def workplace(kept, tmp_path_factory) -> Path:
    """A folder with images fewer than one batch, a run, a store, a file that is to be kept."""
    base = tmp_path_factory.mktemp("workplace")
    write(base / "folder", {"0.png": PICTURES[1], "1.png": PICTURES[1]})
    write(base / "scans", {"a.nii.gz": b"no volume"})
    write(base / "run", kept["run"])
    write(base / "store", {})
    return write(base, {"kept.txt": b"years of work"})


@FUZZ
@given(
    command=COMMANDS,
    more=st.lists(st.tuples(OPTIONS, WORDS) | st.tuples(WORDS), max_size=4),
    order=st.randoms(use_true_random=False),
)
def test_fuzz_command_lines(workplace, command, more, order):
    """Any words: exit code 0, or 2 with one sentence; files that were there stay as they were."""
    words = [word for group in more for word in group]
    at = order.choice([len(command)] * 4 + [order.randrange(len(command) + 1)])
    said, complained = io.StringIO(), io.StringIO()
    before = everything(workplace)
    with (
        contextlib.chdir(workplace),
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(complained),
        in_time(),
        pytest.raises(SystemExit) as stopped,
    ):
        cli.main([*command[:at], *words, *command[at:]])
    text = complained.getvalue()
    assert stopped.value.code in (0, 2), (command, words, text)
    if stopped.value.code == 2 and text.startswith("d2ue: "):
        is_a_sentence(text[6:-1])
    after = everything(workplace)
    # Scores may take the place of the file that --out names; of nothing else.
    written = {"s.csv"} | {word for word in words if word}
    assert all(after[name] == what for name, what in before.items() if name not in written)
    for name in set(after) - set(before):
        (workplace / name).unlink() if (workplace / name).is_file() else None
