"""Pages run from any folder, and refuse parameters that they do not have."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import jupytext
import pytest

from d2ue.errors import InputError
from d2ue.lessons import pages

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
TABLE3 = NOTEBOOKS / "13_table3.ipynb"
CELL = "seeds: str = '3'  # how many\nepochs: int = 5\nrate: float = 0.1\nprogress: bool = False"


def injected(**values):
    text = pages.INJECTED + "\n" + "\n".join(f"{k} = {v!r}" for k, v in values.items())
    namespace = dict(values)
    pages.check_parameters(namespace, ["", CELL, text])
    return namespace


def test_values_are_brought_to_the_declared_types():
    given = {"seeds": 4, "epochs": "7", "rate": 1, "progress": "true"}
    wanted = {"seeds": "4", "epochs": 7, "rate": 1.0, "progress": True}
    assert injected(**given) == wanted
    assert injected() == {}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"epoch": 3}, "no parameter 'epoch'.*Did you mean 'epochs'"),
        ({"epochs": "many"}, "epochs is of type int; 'many' is not"),
        ({"progress": 1}, "progress is of type bool"),
    ],
)
def test_what_a_page_does_not_take_is_refused(given, said):
    with pytest.raises(InputError, match=said):
        injected(**given)


def test_kept_files_are_found_beside_the_package(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert Path(pages.kept("kept", "scores/brain-mri.zip")).is_file()
    assert pages.kept("mine.zip", "scores/brain-mri.zip") == "mine.zip"
    assert pages.kept("kept", "nowhere/clusters.csv", needed=False) == ""
    with pytest.raises(InputError, match=r"keeps no nowhere/clusters\.csv"):
        pages.kept("kept", "nowhere/clusters.csv")


@pytest.mark.parametrize("page", sorted(NOTEBOOKS.glob("*.py")), ids=lambda path: path.stem)
def test_every_page_checks_its_parameters_and_names_no_folder_of_its_own(page):
    cells = [c for c in jupytext.read(page).cells if c.cell_type == "code"]
    assert "parameters" in cells[0].metadata["tags"]
    assert "pages.check_parameters(globals())" in cells[1].source
    assert "../" not in "".join(cell.source for cell in cells)


def papermill(page: Path, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "papermill", str(page), "out.ipynb", *more]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


#: All pages take minutes: `make fuzz` runs them, `make test` one of them.
PAGES = sorted(NOTEBOOKS.glob("*.ipynb")) if "D2UE_FUZZ" in os.environ else [TABLE3]


@pytest.mark.parametrize("place", ["root", "notebooks", "empty"])
@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_plain_papermill_runs_from_any_folder(page, place, tmp_path):
    """From the kept scores or phantoms; what a page writes goes where it was called."""
    project = tmp_path / "project"
    folder = {"root": project, "notebooks": project / "notebooks", "empty": tmp_path / "empty"}[
        place
    ]
    folder.mkdir(parents=True)
    source = shutil.copy(page, folder if place == "notebooks" else tmp_path)
    given = ["-p", "seeds", "2", "-p", "progress", "false"] if page == TABLE3 else []
    done = papermill(Path(source), folder, *given)
    assert done.returncode == 0, done.stderr[-2000:]
    assert {p.name for p in folder.iterdir()} <= {"out.ipynb", "results", page.name}
    if page == TABLE3:
        assert (folder / "results" / "table3" / "table3.csv").is_file()


def test_a_mistyped_parameter_stops_the_page(tmp_path):
    done = papermill(TABLE3, tmp_path, "-p", "seed", "2")
    assert done.returncode != 0
    assert "no parameter 'seed'" in done.stderr and "Did you mean 'seeds'" in done.stderr
    assert not (tmp_path / "results").exists()
