"""Data sets by name, and their download from a real HTTP server on this machine."""

import gzip
import hashlib
import io
import json
import lzma
import os
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from d2ue.cli.app import main
from d2ue.datasets import BUILT_IN, SOURCES, download, find_folder, load_named, paper_title
from d2ue.datasets.registry import RECORD, check_name, find_below, overview
from d2ue.errors import D2UEError, InputError
from d2ue.experiments.paper import DATASETS

REAL = Path(os.environ.get("D2UE_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))
TRAIN, NORMAL_TEST, ABNORMAL_TEST = ["a.png", "b.png"], ["c.png"], ["d.png"]
UNLABELLED = ["e.png"]


# --------------------------------------------------------------------------- helpers


def png(value=0):
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(file, "png")
    return file.getvalue()


def split(**changes):
    lists = {"train": TRAIN, "normal": NORMAL_TEST, "abnormal": ABNORMAL_TEST}
    lists |= {"unlabelled": UNLABELLED} | changes
    return json.dumps(
        {
            "train": {"0": lists["train"], "unlabeled": {"0": lists["unlabelled"], "1": []}},
            "test": {"0": lists["normal"], "1": lists["abnormal"]},
        }
    ).encode()


def published(top="LAG/", **changes):
    """The published layout: name in the archive -> content."""
    names = TRAIN + NORMAL_TEST + ABNORMAL_TEST + UNLABELLED
    files = {f"{top}images/{name}": png(40 * i) for i, name in enumerate(names)}
    return {f"{top}data.json": split(), **files, **changes}


def tarball(files, *, level=1):
    """A tar.gz; a content may also be a ready TarInfo."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return gzip.compress(raw.getvalue(), level)


def special(name, kind, target=""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, str(target)
    return member


class Zenodo(ThreadingHTTPServer):
    """Serves the record and its archives; what it says of them can be bent."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.archives = {}
        self.md5 = {}
        self.entry = {}  # changes to each file's entry in the record
        self.fail = {}  # path -> status code
        self.cut = 0  # so many downloads break off half-way
        self.stall = False  # or stop half-way with the connection held
        self.half_sent = threading.Event()
        self.let_go = threading.Event()
        self.asked = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def downloads(self):
        return [path for path in self.asked if "api/records/" not in path or "/files/" in path]

    def record(self):
        files = []
        for key, content in self.archives.items():
            entry = {
                "key": key,
                "checksum": f"md5:{self.md5.get(key) or hashlib.md5(content).hexdigest()}",
                "size": len(content),
                "links": {"self": f"{self.url}/api/records/{RECORD}/files/{key}/content"},
            }
            files.append({k: v for k, v in (entry | self.entry).items() if v is not None})
        return json.dumps({"id": int(RECORD), "files": files}).encode()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.asked.append(self.path)
        if self.path in server.fail:
            self.send_error(server.fail[self.path])
            return
        if self.path == f"/api/records/{RECORD}":
            self.answer(server.record())
            return
        for key, content in server.archives.items():
            places = (
                f"/api/records/{RECORD}/files/{key}/content",
                f"/records/{RECORD}/files/{key}?download=1",
            )
            if self.path in places:
                if server.cut or server.stall:
                    self.half(content)
                else:
                    self.answer(content)
                return
        self.send_error(404)

    def answer(self, content):
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def half(self, content):
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])
        self.wfile.flush()
        self.server.half_sent.set()
        if self.server.cut:
            self.server.cut -= 1
        else:
            self.server.let_go.wait(60)
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def zenodo(monkeypatch):
    """The server, with a whole LAG.tar.gz."""
    pytest.importorskip("pooch", reason="pooch, the extra [download], is not installed")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Zenodo()
    server.archives["LAG.tar.gz"] = tarball(published())
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.let_go.set()
    server.shutdown()
    server.server_close()
    thread.join()


def fetch(zenodo, folder, name="lag"):
    return download(name, folder, base_url=zenodo.url, progress=False)


def listing(folder):
    """All that lies below a folder, but for the lock, which may stay."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(".lock")
    )


WHOLE = ["lag/data.json", *(f"lag/images/{name}.png" for name in "abcde")]


def assert_refused(zenodo, folder, *words, kind=D2UEError):
    """One sentence with these words, and nothing left in the folder."""
    before = listing(folder) if folder.exists() else []
    with pytest.raises(kind) as caught:
        fetch(zenodo, folder)
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text and len(text) < 600, text
    for word in words:
        assert str(word) in text, f"{word!r} is not in {text!r}"
    assert not folder.exists() or listing(folder) == before
    assert not (folder / ".download-lag").exists()
    return text


def write_set(folder, data=None):
    (folder / "images").mkdir(parents=True)
    (folder / "data.json").write_bytes(data or split())
    for i, name in enumerate(TRAIN + NORMAL_TEST + ABNORMAL_TEST + UNLABELLED):
        (folder / "images" / name).write_bytes(png(40 * i))
    return folder


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


# --------------------------------------------------------------------------- the register


def test_titles_are_the_columns_of_the_papers_tables():
    assert tuple(source.title for source in SOURCES.values()) == DATASETS
    assert [paper_title(name) for name in SOURCES] == list(DATASETS)
    assert all(name == source.name for name, source in SOURCES.items())


def test_the_published_splits():
    assert {name: source.counts for name, source in SOURCES.items()} == {
        "rsna": (3851, 1000, 1000),
        "vindr-cxr": (4000, 1000, 1000),
        "cxad": None,
        "brain-mri": (1000, 600, 600),
        "lag": (1500, 811, 811),
    }
    assert [s.archive for s in SOURCES.values()] == [
        "RSNA.tar.gz",
        "VinCXR.tar.gz",
        None,
        "BrainTumor.tar.gz",
        "LAG.tar.gz",
    ]


def test_every_set_says_its_terms_and_whom_to_cite():
    for source in SOURCES.values():
        assert source.licence and source.citations and source.how_to_get
        if source.archive:
            assert "academic use" in source.licence and "DDAD-ASR" in source.citations[-1]


def test_other_names_are_their_own_title():
    assert paper_title("kermany-cxr") == "kermany-cxr" and paper_title("phantom") == "phantom"


@pytest.mark.parametrize("name", ["", "Kermany", "a/b", "..", "a" * 65, "a\n"])
def test_names_that_no_set_may_have(name, refused, tmp_path):
    with refused("a-z, 0-9"):
        check_name(name)
    with refused("a-z, 0-9"):
        load_named(name, tmp_path)


@pytest.mark.parametrize("name", ["RSNA", "brain_mri", "BrainTumor"])
def test_a_registered_name_in_another_spelling_is_no_label(name, refused, tmp_path):
    with refused("is called"):
        load_named(name, write_set(tmp_path / "set"))


# --------------------------------------------------------------------------- where a set lies


@pytest.mark.parametrize(
    "folder", ["vindr-cxr", "VinDr-CXR", "vindr_cxr", "VinCXR", "vincxr", "VINCXR"]
)
def test_a_set_is_found_below_the_folder_of_all_sets(folder, tmp_path):
    write_set(tmp_path / "LAG")
    write_set(tmp_path / folder)
    assert find_folder("vindr-cxr", tmp_path) == tmp_path / folder
    assert find_folder("vindr-cxr", str(tmp_path / folder)) == tmp_path / folder


def test_the_sets_own_name_comes_before_other_spellings(tmp_path):
    for folder in ("LAG", "lag"):
        if (tmp_path / folder).exists():
            pytest.skip("this file system does not tell upper from lower case")
        write_set(tmp_path / folder)
    assert find_folder("lag", tmp_path) == tmp_path / "lag"


def test_folders_in_which_no_set_lies(tmp_path, refused):
    (tmp_path / "lag" / "images").mkdir(parents=True)
    with refused("data.json", "lag/ or LAG/", "d2ue download lag"):
        find_folder("lag", tmp_path)
    with refused("not public"):
        find_folder("cxad", tmp_path)
    with refused("does not exist"):
        find_folder("lag", tmp_path / "absent")
    (tmp_path / "file").write_text("")
    with refused("is a file"):
        find_folder("lag", tmp_path / "file")
    with refused("no data set", *SOURCES):
        find_folder("other", tmp_path)


def test_a_named_set_has_its_name_and_warns_of_other_counts(tmp_path):
    write_set(tmp_path / "LAG")
    with pytest.warns(UserWarning) as caught:
        dataset = load_named("lag", tmp_path, 8, progress=False)
    (warning,) = caught
    text = str(warning.message)
    assert "2 + 1 + 1" in text and "1500 + 811 + 811" in text and "\n" not in text
    assert warning.filename == __file__
    assert dataset.name == "lag"
    assert dataset.train.names == tuple(TRAIN) and len(dataset.labelled) == 2


def test_a_set_with_the_published_counts_gives_no_warning(tmp_path):
    names = [f"{i}.png" for i in range(1000 + 600 + 600)]
    data = split(train=names[:1000], normal=names[1000:1600], abnormal=names[1600:], unlabelled=[])
    (tmp_path / "images").mkdir()
    (tmp_path / "data.json").write_bytes(data)
    (tmp_path / "images" / "0.png").write_bytes(png())
    for name in names[1:]:
        os.link(tmp_path / "images" / "0.png", tmp_path / "images" / name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_named("brain-mri", tmp_path, 8, progress=False).name == "brain-mri"


def test_ones_own_set_under_a_label(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = load_named("my-set-2", write_set(tmp_path / "Some Folder"), 8, progress=False)
    assert dataset.name == "my-set-2" and len(dataset.train) == 2


def test_a_mistyped_label_is_not_a_folder_of_normal_images(tmp_path, refused):
    write_set(tmp_path / "my-scans")
    with refused("nor a folder my-scan/ with one", "right name"):
        load_named("my-scan", tmp_path)


def test_built_in_sets_need_no_folder():
    for name in BUILT_IN:
        dataset = load_named(name, None, 16, progress=False)
        assert dataset.name == name and dataset.train.image_size == 16


def test_a_set_without_a_folder(refused):
    with refused("d2ue download rsna"):
        load_named("rsna")
    with refused("give the one"):
        load_named("kermany-cxr")


def test_the_real_set_has_the_published_counts():
    if not (REAL / "brain_mri" / "data.json").is_file():
        pytest.skip(f"no brain_mri under {REAL} (set D2UE_DATA to the folder that holds it)")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = load_named("brain-mri", REAL, progress=False)
    labels = dataset.labelled.labels.tolist()
    assert dataset.name == "brain-mri"
    assert (len(dataset.train), labels.count(0), labels.count(1)) == SOURCES["brain-mri"].counts


# --------------------------------------------------------------------------- a download that works


def test_a_download_leaves_the_set_and_nothing_else(zenodo, tmp_path):
    folder = tmp_path / "new" / "data"
    assert fetch(zenodo, folder) == folder / "lag"
    assert listing(folder) == WHOLE
    assert (folder / "lag" / "images" / "b.png").read_bytes() == png(40)
    with pytest.warns(UserWarning, match="as published"):
        dataset = load_named("lag", folder, 8, progress=False)
    assert dataset.train.names == tuple(TRAIN)


def test_others_may_read_what_was_downloaded(zenodo, tmp_path):
    umask = os.umask(0o022)
    try:
        zenodo.archives["LAG.tar.gz"] = tarball(published(""))
        fetch(zenodo, tmp_path)
    finally:
        os.umask(umask)
    assert (tmp_path / "lag").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "lag" / "images" / "a.png").stat().st_mode & 0o444 == 0o444


def test_what_is_there_is_not_fetched_again(zenodo, tmp_path):
    fetch(zenodo, tmp_path)
    before = [(p, p.stat().st_mtime_ns) for p in sorted(tmp_path.rglob("*"))]
    asked = list(zenodo.asked)
    assert fetch(zenodo, tmp_path) == tmp_path / "lag"
    assert zenodo.asked == asked
    assert [(p, p.stat().st_mtime_ns) for p in sorted(tmp_path.rglob("*"))] == before


def test_a_set_extracted_by_hand_is_found(zenodo, tmp_path):
    write_set(tmp_path / "LAG")
    assert fetch(zenodo, tmp_path).samefile(tmp_path / "LAG")
    assert not zenodo.asked


@pytest.mark.parametrize("top", ["", "./", "LAG/", "Med-AD/LAG/"])
def test_data_json_may_lie_up_to_two_levels_down(zenodo, tmp_path, top):
    zenodo.archives["LAG.tar.gz"] = tarball(published(top))
    fetch(zenodo, tmp_path)
    assert listing(tmp_path) == WHOLE


def test_an_archive_of_several_gzip_members_is_read_to_its_end(zenodo, tmp_path):
    raw = gzip.decompress(tarball(published()))
    middle = len(raw) // 2
    zenodo.archives["LAG.tar.gz"] = gzip.compress(raw[:middle]) + gzip.compress(raw[middle:])
    fetch(zenodo, tmp_path)
    assert listing(tmp_path) == WHOLE


def test_an_empty_folder_of_that_name_is_filled(zenodo, tmp_path):
    (tmp_path / "lag").mkdir()
    fetch(zenodo, tmp_path)
    assert listing(tmp_path) == WHOLE


def test_two_at_once_fetch_one_archive(zenodo, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: fetch(zenodo, tmp_path), range(4)))
    assert found == [tmp_path / "lag"] * 4
    assert len(zenodo.downloads) == 1 and listing(tmp_path) == WHOLE


def test_a_set_that_comes_between_two_looks_is_found(zenodo, tmp_path, monkeypatch):
    """Seen once: another process's rename fell between looking for the set and for its name."""
    fetch(zenodo, tmp_path / "elsewhere")
    target, looks = tmp_path / "here" / "lag", []
    target.parent.mkdir()

    def look(names, folder):
        found = find_below(names, folder)
        if not looks:
            (tmp_path / "elsewhere" / "lag").rename(target)
        looks.append(found)
        return found

    module = sys.modules["d2ue.datasets.download"]  # the package has the function of that name
    monkeypatch.setattr(module, "find_below", look)
    assert fetch(zenodo, target.parent) == target
    assert looks == [None, target] and len(zenodo.downloads) == 1


# --------------------------------------------------------------------------- names


def test_names_that_cannot_be_downloaded(zenodo, tmp_path, refused):
    for name, word in [("cxad", "not public"), ("phantom", "drawn"), ("other", "rsna, vindr-cxr")]:
        with refused(word):
            fetch(zenodo, tmp_path, name)
    assert not zenodo.asked and not list(tmp_path.iterdir())


# --------------------------------------------------------------------------- the network


def test_a_wrong_checksum_is_not_opened(zenodo, tmp_path):
    # Opened, this archive would be refused for its link, and say so.
    bad = published() | {"LAG/link": special("LAG/link", tarfile.SYMTYPE, "/etc")}
    for files in (published(), bad):
        zenodo.archives["LAG.tar.gz"] = tarball(files)
        zenodo.md5["LAG.tar.gz"] = "0" * 32
        assert_refused(zenodo, tmp_path / "data", "checksum", "not opened")
    zenodo.md5.clear()
    zenodo.archives["LAG.tar.gz"] = tarball(published())
    fetch(zenodo, tmp_path / "data")
    assert listing(tmp_path / "data") == WHOLE


def test_a_connection_cut_half_way(zenodo, tmp_path):
    zenodo.cut = 1
    assert_refused(zenodo, tmp_path, "run the same command again")
    assert len(zenodo.downloads) == 1
    fetch(zenodo, tmp_path)
    assert listing(tmp_path) == WHOLE


def test_no_network_leaves_no_folder(zenodo, tmp_path):
    zenodo.shutdown()
    zenodo.server_close()
    assert_refused(zenodo, tmp_path / "data", "check address and network")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("path", "code"),
    [(f"/api/records/{RECORD}", 503), (f"/records/{RECORD}/files/LAG.tar.gz?download=1", 429)],
)
def test_what_the_server_refuses(zenodo, tmp_path, path, code):
    zenodo.fail[path] = code
    assert_refused(zenodo, tmp_path, code, "try again later")


@pytest.mark.parametrize(
    "entry",
    [{"key": "RSNA.tar.gz"}, {"checksum": "md5:short"}, {"checksum": 5}],
)
def test_a_record_without_the_archives_checksum(zenodo, tmp_path, entry):
    zenodo.entry = entry
    assert_refused(zenodo, tmp_path, "LAG.tar.gz", "checksum")
    assert not zenodo.downloads


@pytest.mark.parametrize("record", [b"<html>", b'{"files": [1]}'])
def test_an_answer_that_is_no_record(zenodo, tmp_path, record):
    zenodo.record = lambda: record
    assert_refused(zenodo, tmp_path, "does not list")


@pytest.mark.parametrize("url", ["no address", "ftp://127.0.0.1"])
def test_addresses_that_are_none(tmp_path, url):
    pytest.importorskip("pooch", reason="pooch, the extra [download], is not installed")
    with pytest.raises(D2UEError, match="check address and network"):
        download("lag", tmp_path / "data", base_url=url)
    assert not list(tmp_path.iterdir())


def test_without_pooch_the_extra_is_named(zenodo, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)  # as if it were not installed
    assert_refused(zenodo, tmp_path / "data", "[download]")
    write_set(tmp_path / "data" / "lag")
    assert fetch(zenodo, tmp_path / "data") == tmp_path / "data" / "lag"


# --------------------------------------------------------------------------- crafted archives

OUTSIDE = "D2UE-ESCAPED"


@pytest.mark.parametrize(
    "member",
    [
        {f"../../{OUTSIDE}": b"x"},
        {f"LAG/../../../{OUTSIDE}": b"x"},
        {"LAG/o": special("LAG/o", tarfile.SYMTYPE, "{tmp}"), f"LAG/o/{OUTSIDE}": b""},
        {"LAG/hard": special("LAG/hard", tarfile.LNKTYPE, "{tmp}/secret")},
        {"LAG/pipe": special("LAG/pipe", tarfile.FIFOTYPE)},
    ],
)
def test_archives_with_what_no_archive_of_images_holds(zenodo, tmp_path, member):
    (tmp_path / "secret").write_text("secret")
    files = published()
    for name, content in member.items():
        if isinstance(content, tarfile.TarInfo):
            content.linkname = content.linkname.replace("{tmp}", str(tmp_path))
        files[name.replace("{tmp}", str(tmp_path))] = content
    zenodo.archives["LAG.tar.gz"] = tarball(files)
    assert_refused(zenodo, tmp_path / "one" / "data", "LAG.tar.gz")
    assert not list(tmp_path.rglob(f"*{OUTSIDE}*"))
    assert (tmp_path / "secret").read_text() == "secret"


@pytest.mark.parametrize(
    ("files", "word"),
    [
        ({"LAG/images/a.png": b"x"}, "no data.json"),
        ({"LAG/data.json/x": b"x"}, "no data.json"),
        (published("1/2/3/"), "no data.json"),
        (published("one/") | published("two/"), "more than one data.json"),
        (published() | {"LAG/data.json": b"{"}, "not valid JSON"),
        (published() | {"LAG/data.json": b"{}"}, "no training images"),
        (published() | {"LAG/data.json": split(train=["../a.png"])}, "not a name inside"),
        (published() | {"LAG/data.json": split(train=["a.png", "z.png"])}, "lacks 'z.png',"),
        (published() | {"LAG/data.json": split(abnormal=["y", "z"])}, "lacks 'y' and 1 more"),
        (published() | {"LAG/data.json": split(unlabelled=["z.png"])}, "lacks 'z.png',"),
        (published() | {"LAG/images/d.png": b""}, "lacks 'd.png',"),
        ({}, "no data.json"),
    ],
)
def test_archives_that_are_no_set(zenodo, tmp_path, files, word):
    zenodo.archives["LAG.tar.gz"] = tarball(files)
    text = assert_refused(zenodo, tmp_path, "LAG.tar.gz", word)
    assert ".download" not in text  # which is gone when the sentence is read


def test_damaged_archives_whose_checksum_is_right(zenodo, tmp_path):
    whole = tarball(published())
    raw = gzip.decompress(whole)
    broken = bytearray(whole)
    broken[len(whole) // 2] ^= 0xFF
    for content in (
        whole[: len(whole) // 2],
        bytes(broken),
        b"no archive",
        b"\x1f\x8b rubbish",
        gzip.compress(raw[:1024])[:-8] + bytes(8) + gzip.compress(raw[1024:]),  # a wrong sum
        lzma.compress(raw)[:200],
        gzip.compress(b"no archive"),
        gzip.compress(raw[: len(raw) // 2 + 100]),
    ):
        zenodo.archives["LAG.tar.gz"] = content
        assert_refused(zenodo, tmp_path, "LAG.tar.gz")


# --------------------------------------------------------------------------- the disk


def test_what_has_the_name_stays(zenodo, tmp_path):
    (tmp_path / "lag").mkdir()
    (tmp_path / "lag" / "note.txt").write_text("mine")
    assert_refused(zenodo, tmp_path, "move it away", kind=InputError)
    shutil.rmtree(tmp_path / "lag")
    (tmp_path / "lag").write_text("mine")
    assert_refused(zenodo, tmp_path, "move it away", kind=InputError)
    (tmp_path / "lag").unlink()
    (tmp_path / "lag").symlink_to(tmp_path / "absent")
    assert_refused(zenodo, tmp_path, "move it away", kind=InputError)
    assert not zenodo.asked and (tmp_path / "lag").is_symlink()


def test_folders_that_cannot_be_written_to(zenodo, tmp_path, refused):
    (tmp_path / "file").write_text("x")
    with refused("is a file"):
        fetch(zenodo, tmp_path / "file")
    with refused("cannot be", "file"):
        fetch(zenodo, tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "x" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to every folder")
def test_a_folder_without_permission(zenodo, tmp_path, refused):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    with refused("cannot be written", closed):
        fetch(zenodo, closed)
    with refused("cannot be written", closed):
        fetch(zenodo, closed / "below")


def test_a_file_system_that_is_read_only(zenodo, refused):
    folder = Path("/proc/d2ue-test")
    if not Path("/proc/self").exists():
        pytest.skip("no /proc here, where nobody may make a folder")
    with refused("cannot be written", folder):
        fetch(zenodo, folder)


def test_too_little_space_is_said_before_the_download(zenodo, tmp_path):
    zenodo.entry["size"] = 10**18
    assert_refused(zenodo, tmp_path, "GB free", kind=InputError)
    assert not zenodo.downloads


COMMAND = """
import sys
from d2ue.datasets import download
from d2ue.errors import D2UEError
try:
    print(download("lag", sys.argv[1], base_url=sys.argv[2], progress=False))
except D2UEError as error:
    print(error)
"""


def process(zenodo, folder, **options):
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(folder), zenodo.url],
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.parametrize("what", ["archive", "image"])
def test_a_disk_that_gets_full_on_the_way(zenodo, tmp_path, what):
    """The limit on the size of a file: a write that fails in the middle, as on a full disk."""
    noise = np.random.default_rng(0).bytes(2**20)
    zeros = bytes(8 * 2**20)
    files = published() | {"LAG/images/a.png": zeros if what == "image" else noise}
    zenodo.archives["LAG.tar.gz"] = tarball(files)
    assert (len(zenodo.archives["LAG.tar.gz"]) > 2**19) == (what == "archive")

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**19, 2**19))

    said, _ = process(zenodo, tmp_path, preexec_fn=limit).communicate(timeout=60)
    assert "cannot be written" in said and "free some space" in said and said.count("\n") == 1
    assert listing(tmp_path) == [] and not (tmp_path / ".download-lag").exists()
    fetch(zenodo, tmp_path)
    assert listing(tmp_path) == WHOLE


def test_a_download_without_progress_says_nothing(zenodo, tmp_path):
    said, complained = process(zenodo, tmp_path, stderr=subprocess.PIPE).communicate(timeout=60)
    assert said == f"{tmp_path / 'lag'}\n" and complained == ""  # not even pooch's own log


# --------------------------------------------------------------------------- kill -9


def wait_for(condition, child):
    until = time.monotonic() + 60
    while not condition():
        assert child.poll() is None and time.monotonic() < until, "it never came so far"
        time.sleep(0.001)


def kill(child):
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert child.returncode == -signal.SIGKILL


def test_killed_in_the_middle_of_the_download(zenodo, tmp_path):
    zenodo.archives["LAG.tar.gz"] = tarball(
        published() | {"LAG/noise": np.random.default_rng(0).bytes(2**20)}
    )
    zenodo.stall = True
    for _ in range(2):
        zenodo.half_sent.clear()
        child = process(zenodo, tmp_path)
        wait_for(zenodo.half_sent.is_set, child)
        wait_for(lambda: any(p.stat().st_size for p in tmp_path.glob(".download-lag/*")), child)
        kill(child)
        assert len(listing(tmp_path)) == 1  # half files do not pile up
    zenodo.stall = False
    assert not (tmp_path / "lag").exists() and listing(tmp_path)  # half a file is left
    fetch(zenodo, tmp_path)
    assert listing(tmp_path) == sorted([*WHOLE, "lag/noise"])
    assert not (tmp_path / ".download-lag").exists()


def test_killed_in_the_middle_of_the_extraction(zenodo, tmp_path):
    extra = {f"LAG/images/extra{i}.png": png(i % 200) for i in range(8000)}
    zenodo.archives["LAG.tar.gz"] = tarball(extra | published())
    child = process(zenodo, tmp_path)
    wait_for(lambda: any(tmp_path.glob(".download-lag/*/set/*/images/*")), child)
    kill(child)
    assert not (tmp_path / "lag").exists()
    assert 0 < len(listing(tmp_path)) < 8000
    fetch(zenodo, tmp_path)
    assert len(zenodo.downloads) == 1  # the archive was whole: it is not fetched again
    assert len(listing(tmp_path)) == 8000 + len(WHOLE)
    assert not (tmp_path / ".download-lag").exists()


def test_an_archive_left_damaged_is_fetched_again(zenodo, tmp_path):
    work = tmp_path / ".download-lag"
    (work / "extracted-old" / "set").mkdir(parents=True)
    (work / "extracted-old" / "set" / "data.json").write_bytes(split())
    (work / "tmphalf").write_bytes(b"half")
    (work / "LAG.tar.gz").write_bytes(zenodo.archives["LAG.tar.gz"][:-1])
    fetch(zenodo, tmp_path)
    assert len(zenodo.downloads) == 1 and listing(tmp_path) == WHOLE and not work.exists()


# --------------------------------------------------------------------------- the commands


def test_the_list_can_be_read_at_100_columns(capsys):
    code, out, err = run(capsys, "datasets")
    assert code == 0 and err == "" and out == overview() + "\n"
    assert max(map(len, out.splitlines())) <= 100
    for name in [*SOURCES, *BUILT_IN]:
        assert any(line.lstrip().startswith(f"{name}:") for line in out.splitlines())
    words = " ".join(out.split())
    for source in SOURCES.values():
        for text in (source.title, source.licence, source.how_to_get, *source.citations):
            assert text in words
    assert "3851 normal to train on; 1000 normal and 1000 abnormal" in words


def test_the_download_command(capsys, zenodo, tmp_path):
    command = ("download", "lag", "--to", tmp_path, "--base-url", zenodo.url)
    code, out, _ = run(capsys, *command)
    assert code == 0 and str(tmp_path / "lag") in out and out.count("\n") == 1
    assert listing(tmp_path) == WHOLE
    zenodo.shutdown()
    assert run(capsys, *command) == (0, out, "")


def test_the_download_command_says_in_a_sentence_what_is_wrong(capsys, zenodo, tmp_path):
    zenodo.md5["LAG.tar.gz"] = "0" * 32
    code, out, err = run(capsys, "download", "lag", "--to", tmp_path, "--base-url", zenodo.url)
    assert code == 2 and out == "" and "Traceback" not in err
    assert err.splitlines()[-1].startswith("d2ue: ") and "checksum" in err.splitlines()[-1]
    for name in ("cxad", "phantom", "nothing", "../x"):
        code, out, err = run(capsys, "download", name, "--to", tmp_path / "data")
        assert code == 2 and out == "" and err.startswith("d2ue: ") and err.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_the_download_command_takes_the_folder_data_unless_told(
    capsys, zenodo, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "download", "lag", "--base-url", zenodo.url)[0] == 0
    assert listing(tmp_path / "data") == WHOLE
