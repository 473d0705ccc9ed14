"""The runner of notebooks, on small notebooks made here and run for real."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from d2ue.cli.app import main
from d2ue.cli.notebooks import (
    NOTEBOOKS,
    check_parameters,
    find_notebook,
    notebook_parameters,
    parse_assignments,
    run_notebook,
)
from d2ue.errors import D2UEError, InputError
from tests.processes import children_of, wait_for

PARAMETERS = """\
data: str = "phantom"  # what to use
epochs: int = 2  # how often
weight: float = 1.0  # how much
quick: bool = True  # whether
out: str = "."  # where to
"""
WORK = """\
import json, pathlib
found = [data, epochs, weight, quick]
pathlib.Path(out, "found.json").write_text(json.dumps(found))
"""


def make_notebook(folder, work=WORK):
    parameters = nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[parameters, nbformat.v4.new_code_cell(work)])
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata["kernelspec"] = kernel
    path = folder / "small.ipynb"
    nbformat.write(notebook, path)
    return path


def test_a_notebook_is_run_with_the_given_values_and_stays_as_it_is(tmp_path):
    source = make_notebook(tmp_path)
    before = source.read_bytes()
    out = tmp_path / "deep" / "results"
    target = run_notebook(source, out, {"epochs": "7", "weight": "0.5"}, progress=False)
    assert json.loads((out / "found.json").read_text()) == ["phantom", 7, 0.5, True]
    assert sorted(p.name for p in out.iterdir()) == ["found.json", "small.ipynb"]
    executed = nbformat.read(target, as_version=4)
    assert all(c.execution_count for c in executed.cells if c.cell_type == "code")
    assert source.read_bytes() == before


def test_what_a_kernel_says_of_itself_is_not_the_readers(capfd, tmp_path):
    run_notebook(make_notebook(tmp_path), tmp_path / "results")
    assert capfd.readouterr().err == ""


def test_a_failing_cell_is_named_and_leaves_the_last_good_notebook(tmp_path):
    out = tmp_path / "results"
    out.mkdir()
    (out / "small.ipynb").write_text("the last good one")
    source = make_notebook(tmp_path, "raise ValueError('the sky fell')")
    with pytest.raises(D2UEError, match="ValueError: the sky fell"):
        run_notebook(source, out, progress=False)
    assert [p.name for p in out.iterdir()] == ["small.ipynb"]
    assert (out / "small.ipynb").read_text() == "the last good one"


def test_a_page_that_stops_leaves_no_empty_folder(tmp_path):
    source = make_notebook(tmp_path, "raise ValueError('the sky fell')")
    with pytest.raises(D2UEError):
        run_notebook(source, tmp_path / "deep" / "results", progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["small.ipynb"]


def test_a_page_whose_process_is_killed_says_so(capfd, tmp_path):
    source = make_notebook(tmp_path, "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(D2UEError, match=r"small.ipynb stopped: .* memory full"):
        run_notebook(source, tmp_path / "results", progress=False)
    assert capfd.readouterr().err == ""
    assert [p.name for p in tmp_path.iterdir()] == ["small.ipynb"]


def test_a_kernel_that_is_not_there_or_does_not_start_is_told(tmp_path, monkeypatch):
    source = make_notebook(tmp_path)
    source.write_text(source.read_text().replace('"python3"', '"abacus"'))
    spec = tmp_path / "kernels" / "abacus"
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    for broken in (False, True):
        if broken:
            spec.mkdir(parents=True)
            argv = [sys.executable, "-c", "raise SystemExit(3)"]
            (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "a"}))
        with pytest.raises(D2UEError, match=r"could not start .* Install ipykernel"):
            run_notebook(source, tmp_path / "results", progress=False)
        assert not (tmp_path / "results").exists()


def test_ctrl_c_in_a_page_ends_in_a_sentence(tmp_path):
    """In a cell that has said that it runs, and that takes no notice, as one deep in C does."""
    work = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    work += f"open({str(tmp_path / 'runs')!r}, 'w').close()\nwhile True: pass"
    source = make_notebook(tmp_path, work)
    code = (
        "from d2ue.cli import app as cli; from d2ue.cli.notebooks import NOTEBOOKS; "
        f"NOTEBOOKS['small'] = {str(source)!r}; "
        f"cli.main(['reproduce', 'small', '--out', {str(tmp_path / 'out')!r}])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stderr=subprocess.PIPE,
        start_new_session=True,
        # Tests that run in the background of a shell inherit Ctrl-C switched off.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for((tmp_path / "runs").exists)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 130
    assert said == "d2ue: interrupted; the same command goes on from the last state kept.\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="there is no /proc to find the kernel in")
def test_a_killed_page_leaves_nothing_in_the_folder(tmp_path):
    """Killed in a cell that has said that it runs."""
    work = f"open({str(tmp_path / 'runs')!r}, 'w').close()\nwhile True: pass"
    source, out = make_notebook(tmp_path, work), tmp_path / "out"
    code = (
        "from pathlib import Path; from d2ue.cli.notebooks import run_notebook; "
        f"run_notebook(Path({str(source)!r}), {str(out)!r}, progress=False)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    wait_for((tmp_path / "runs").exists)
    kernels = children_of(process.pid)
    process.kill()
    process.wait()
    for kernel in kernels:
        with contextlib.suppress(ProcessLookupError):
            os.kill(kernel, signal.SIGKILL)
    assert not list(out.iterdir())


def test_our_own_sentences_come_out_of_a_notebook_as_they_are(tmp_path):
    work = "from d2ue import load\nload('no such folder')"
    with pytest.raises(D2UEError) as refused:
        run_notebook(make_notebook(tmp_path, work), tmp_path / "out", progress=False)
    assert "'no such folder' does not exist" in str(refused.value)
    assert "InputError" not in str(refused.value)


def test_types_are_read_from_the_parameters_cell(tmp_path):
    assert notebook_parameters(make_notebook(tmp_path)) == {
        "data": "str",
        "epochs": "int",
        "weight": "float",
        "quick": "bool",
        "out": "str",
    }


@pytest.mark.parametrize(
    ("name", "value", "about"),
    [
        ("epoch", "3", "no parameter 'epoch'"),
        ("epochs", "3.5", "epochs is of type int"),
        ("epochs", True, "epochs is of type int"),
        ("weight", "heavy", "weight is of type float"),
        ("quick", "perhaps", "quick is of type bool"),
        ("data", None, "data is of type str"),
    ],
)
def test_unknown_parameters_and_wrong_types_are_refused(tmp_path, name, value, about):
    with pytest.raises(InputError, match=about):
        check_parameters(make_notebook(tmp_path), {name: value})


def test_texts_become_values_of_the_declared_type(tmp_path):
    texts = parse_assignments(["epochs=3", "weight=2", "quick=false", "data=a=b"])
    values = check_parameters(make_notebook(tmp_path), texts)
    assert values == {"epochs": 3, "weight": 2.0, "quick": False, "data": "a=b"}


@pytest.mark.parametrize("texts", [["epochs"], ["=3"], ["a-b=3"], ["a=1", "a=2"]])
def test_malformed_assignments_are_refused(texts):
    with pytest.raises(InputError):
        parse_assignments(texts)


def test_every_notebook_has_a_name_and_every_name_a_notebook():
    there = {path.name for path in find_notebook("quickstart").parent.glob("*.ipynb")}
    assert set(NOTEBOOKS.values()) == there
    for name in NOTEBOOKS:
        known = notebook_parameters(find_notebook(name))
        assert all(known[key] == "str" for key in ("data", "out") if key in known)


def test_a_notebook_that_writes_nothing_runs_too(tmp_path):
    path = make_notebook(tmp_path)
    notebook = nbformat.read(path, as_version=4)
    parameters = notebook.cells[0]
    lines = [line for line in parameters.source.splitlines() if not line.startswith("out:")]
    parameters.source = "\n".join(lines)
    notebook.cells = [parameters]
    nbformat.write(notebook, path)
    assert run_notebook(path, tmp_path / "results").is_file()


def test_the_command_refuses_an_unknown_parameter_before_anything_is_written(capsys, tmp_path):
    out = tmp_path / "results"
    with pytest.raises(SystemExit) as stopped:
        main(["reproduce", "quickstart", "--out", str(out), "-p", "epoch=3"])
    assert stopped.value.code == 2
    assert "no parameter 'epoch'" in capsys.readouterr().err
    assert not out.exists()
