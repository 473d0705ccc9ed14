"""The files around the code, where a slip shows only on somebody else's machine."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
PYTHONS = ["3.11", "3.12", "3.13"]
PLATFORMS = [
    ("linux", "Linux", "x86_64"),
    ("linux", "Linux", "aarch64"),
    ("darwin", "Darwin", "arm64"),
]


def requirements(*extras):
    lines = PROJECT["dependencies"] + [line for extra in extras for line in EXTRAS[extra]]
    return [Requirement(line) for line in lines]


def pins():
    lines = (ROOT / ".ci" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


# --- the versions known to work ---


def test_torch_is_pinned_without_a_build():
    assert [str(pin) for pin in pins() if pin.name == "torch"] == ["torch==2.13.0"]


def test_every_pin_is_exact():
    for pin in pins():
        operators = [s.operator for s in pin.specifier]
        assert operators == ["=="], pin
        assert "+" not in str(pin.specifier), f"{pin}: a local build is not to be had everywhere"


@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda p: f"{p[0]}-{p[2]}")
@pytest.mark.parametrize("python", PYTHONS)
def test_every_direct_dependency_has_one_pin_that_suits(python, platform):
    sys_platform, system, machine = platform
    machine_here = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": sys_platform,
        "platform_system": system,
        "platform_machine": machine,
        "os_name": "posix",
    }
    pinned = {}
    for pin in pins():
        if pin.marker is None or pin.marker.evaluate(machine_here):
            name = canonicalize_name(pin.name)
            assert name not in pinned, f"{name} is pinned twice"
            pinned[name] = next(iter(pin.specifier)).version
    for wanted in requirements(*EXTRAS):
        version = pinned.get(canonicalize_name(wanted.name))
        assert version, f"{wanted} is not pinned"
        assert wanted.specifier.contains(version), f"{wanted}, but {version} is pinned"


# --- Binder and conda ---


def test_binder_finds_its_files():
    # Binder reads .binder/ only, and only a real folder; people look into Binder/.
    folder = ROOT / ".binder"
    assert folder.is_dir()
    assert not folder.is_symlink()
    names = {p.name for p in folder.iterdir()}
    assert names == {p.name for p in (ROOT / "Binder").iterdir()}
    for name in names:
        assert (folder / name).is_symlink()
        assert os.readlink(folder / name) == f"../Binder/{name}"
        assert (folder / name).is_file()
    assert os.access(folder / "postBuild", os.X_OK)


def conda_packages(path):
    """Names in an environment file, without versions and without conda's variants of a package."""
    lines = re.findall(r"^ *- +([\w-]+)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    variants = {"pytorch": "torch", "pytorch-cpu": "torch"}
    return {variants.get(name, name.removesuffix("-base")) for name in lines}


def test_binder_installs_what_the_notebooks_need():
    # postBuild installs d2ue without its dependencies, so they all have to be named.
    listed = conda_packages(ROOT / "Binder" / "environment.yml")
    needed = {r.name for r in requirements("notebooks", "download")}
    assert needed - listed == set()


@pytest.mark.parametrize("path", ["environment.yml", "Binder/environment.yml"])
def test_python_of_conda_is_one_that_binder_understands(path):
    found = re.findall(r"^ *- python(.*)$", (ROOT / path).read_text(), flags=re.MULTILINE)
    assert [f.removeprefix("=") for f in found] == ["3.12"]


# --- what may be imported ---

NOTEBOOK_ONLY = ["jupyterlab", "jupytext", "papermill", "nbclient", "nbformat", "umap", "pooch"]
NOT_NEEDED = ["torchvision", "pytest"]


def python(code):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def test_import_does_not_load_notebook_packages():
    done = python("import sys, d2ue; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    assert set(NOTEBOOK_ONLY + NOT_NEEDED) & set(done.stdout.split()) == set()


def test_import_works_without_notebook_packages():
    # A None in sys.modules makes an import fail as if the package were not installed.
    absent = [*NOTEBOOK_ONLY, *NOT_NEEDED, "IPython", "ipywidgets", "ipykernel"]
    done = python(
        f"import sys; sys.modules.update(dict.fromkeys({absent})); import d2ue, d2ue.cli.app"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("given", "wanted"),
    [({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active"), ({"GOMP_SPINCOUNT": "7"}, "None")],
)
def test_waiting_threads_do_not_spin_where_the_user_has_said_nothing(given, wanted):
    kept = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    code = "import sys, os\nassert 'torch' not in sys.modules\nimport d2ue\n"
    code += "print(os.environ.get('OMP_WAIT_POLICY'))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**kept, **given}, capture_output=True, text=True
    )
    assert done.stdout.strip() == wanted, done.stderr


# --- make and the shell, of Linux and of macOS ---

# What GNU make 3.81 does not know, with what each was written for.
NEWER_MAKE = {
    r"\.ONESHELL": "3.82",
    r"^\s*(define\s+\S+\s*[:+?]?=|undefine\b|private\b)": "3.82",
    r"!=|::=": "4.0",
    r"\$[({](file|guile|intcmp|let)\s": "4.0",
    r"\.(NOTINTERMEDIATE|WAIT)\b": "4.4",
    r"&:": "4.3",
}
# What only GNU's tools understand, or bash.
GNU_TOOLS = [
    r"\bsed\b.*\s(-i|-r)\b",
    r"\breadlink\s+-\w*[fem]",
    r"\brealpath\b",
    r"\bgrep\s+(-\w*P|.*--\w)",
    r"\bgrep\s.*\\\|",
    r"\bcp\s+(-\w*[auT]|--)",
    r"\bxargs\b.*\s(-r|-d)\b",
    r"\bdate\s+(-d|--)",
    r"\bflock\s",
    r"\b(timeout|sha256sum|md5sum|nproc|tac)\s",
    r"\[\[|\bfunction\s+\w+|^\s*(local|declare|source)\s|<<<|&>",
]


def lines_with(pattern, path):
    text = path.read_text(encoding="utf-8")
    return [
        f"{path.name}:{number}: {line}"
        for number, line in enumerate(text.splitlines(), start=1)
        if not line.lstrip().startswith("#") and re.search(pattern, line)
    ]


@pytest.mark.parametrize("pattern", NEWER_MAKE)
def test_makefile_is_for_make_3_81(pattern):
    assert lines_with(pattern, ROOT / "Makefile") == []


@pytest.mark.parametrize("pattern", GNU_TOOLS)
@pytest.mark.parametrize("path", ["Makefile", ".ci/setup", "Binder/postBuild"])
def test_scripts_need_neither_gnu_tools_nor_bash(path, pattern):
    assert lines_with(pattern, ROOT / path) == []


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        (next(p for p in NEWER_MAKE if "ONESHELL" in p), ".ONESHELL:"),
        (next(p for p in NEWER_MAKE if "!=" in p), "now != date"),
        (next(p for p in NEWER_MAKE if "file" in p), "text := $(file <x)"),
        (GNU_TOOLS[0], "\tsed -i s/a/b/ x"),
        (GNU_TOOLS[1], 'here=$(readlink -f "$0")'),
        (GNU_TOOLS[3], "grep -oP x y"),
        (GNU_TOOLS[-1], 'if [[ -n "$x" ]]; then'),
    ],
)
def test_these_patterns_find_what_they_are_for(tmp_path, pattern, line):
    path = tmp_path / "file"
    path.write_text(f"# {line}\n{line}\n")
    assert lines_with(pattern, path) == [f"file:2: {line}"]


@pytest.mark.parametrize("path", [".ci/setup", ".ci/run", "Binder/postBuild"])
def test_scripts_can_be_run(path):
    assert os.access(ROOT / path, os.X_OK)
    subprocess.run(["bash" if path == ".ci/run" else "sh", "-n", ROOT / path], check=True)


# --- nothing of the machine it was written on ---

# The hosts in pieces, so that this file does not hold what it looks for.
FOLDERS = ["home", "root", "Users", "work", "opt", "mnt", "srv", "private"]
HOSTS = [
    ".".join(pieces)
    for pieces in [
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("download", "pytorch", "org/whl"),
        ("anaconda", "org"),
    ]
]
OF_A_MACHINE = re.compile(
    rf"(?<![\w.~)])/(?:{'|'.join(FOLDERS)})/\w|{'|'.join(map(re.escape, HOSTS))}"
)


def files_of_the_repository():
    # New files count too, so that it shows before they are committed.
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    names = sorted(set(done.stdout.split("\0")) - {""})
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def test_no_path_or_host_of_a_machine():
    found = []
    for path in files_of_the_repository():
        text = path.read_bytes().decode("utf-8", errors="ignore")
        found += [f"{path.relative_to(ROOT)}: {m.group()}" for m in OF_A_MACHINE.finditer(text)]
    assert found == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_path_of_a_machine_is_recognised(folder):
    assert OF_A_MACHINE.search(f'open("/{folder}/me/x")')
    assert not OF_A_MACHINE.search(f"https://example.com/{folder}/me ../{folder}/me")


@pytest.mark.parametrize("host", HOSTS)
def test_a_host_of_a_registry_is_recognised(host):
    assert OF_A_MACHINE.search(f"https://{host}/simple")
