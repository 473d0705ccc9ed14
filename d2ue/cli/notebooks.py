"""Runs the project's notebooks through papermill, with parameters that are checked first.

papermill itself only warns about a mistyped parameter and writes the output notebook in place.
Here unknown names and wrong types are refused, and the output notebook appears when it is whole.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from d2ue.errors import D2UEError, InputError
from d2ue.lessons.pages import checked, declared
from d2ue.progress import PLAIN_BARS
from d2ue.store.files import making, write_file, writing

#: Notebook by the name that `d2ue reproduce` takes.
NOTEBOOKS = {
    "quickstart": "00_quickstart.ipynb",
    "overview": "01_overview.ipynb",
    "redundancy": "02_redundancy.ipynb",
    "repulsion": "03_repulsion.ipynb",
    "dual_space": "04_dual_space.ipynb",
    "heat_maps": "05_heat_maps.ipynb",
    "diversity": "06_diversity.ipynb",
    "exercises": "07_exercises.ipynb",
    "solutions": "08_solutions.ipynb",
    "baselines": "09_baselines.ipynb",
    "table1": "11_table1.ipynb",
    "table2": "12_table2.ipynb",
    "table3": "13_table3.ipynb",
    "ablations": "14_ablations.ipynb",
    "audit": "20_audit.ipynb",
    "own_data": "21_own_data.ipynb",
}
#: Those that draw tables, all that `d2ue reproduce all` runs.
TABLE_NOTEBOOKS = ("table1", "table2", "table3", "ablations")


def find_notebook(name: str) -> Path:
    """The notebook that `d2ue reproduce NAME` runs.

    Raises:
        InputError: on an unknown name, or if the package was installed without its notebooks.
    """
    if name not in NOTEBOOKS:
        raise InputError(f"There is no notebook {name!r}: take one of {', '.join(NOTEBOOKS)}.")
    source = Path(__file__).resolve().parents[2] / "notebooks" / NOTEBOOKS[name]
    if not source.is_file():
        raise InputError(
            "The notebooks are not part of the installed package: clone the project and install "
            "it from there with 'pip install -e .[notebooks]'."
        )
    return source


def check_papermill() -> None:
    """Make sure that notebooks can be run.

    Raises:
        D2UEError: if papermill is not installed.
    """
    if importlib.util.find_spec("papermill") is None:
        raise D2UEError(
            "Running notebooks needs papermill: install the package with its extra [notebooks]."
        )


def run_notebook(
    source: Path,
    out: str | os.PathLike[str],
    parameters: Mapping[str, Any] | None = None,
    *,
    progress: bool = True,
) -> Path:
    """Execute one notebook with some parameters changed.

    Args:
        source: the notebook; it stays as it is.
        out: folder for the executed notebook and all that it writes; made if need be.
        parameters: values, or texts as a command line gives them; `out` is set by itself where
            the notebook has it.
        progress: whether what the cells write to standard error, their progress bars, is passed
            on as it comes.

    Returns:
        The path of the executed notebook, named as the source.

    Raises:
        InputError: on an unknown parameter, a value of the wrong type, or a folder that cannot be
            written.
        D2UEError: if papermill is not installed, or a cell fails; the sentence names the error.
    """
    check_papermill()
    import papermill
    from jupyter_client.kernelspec import NoSuchKernel
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    folder = Path(out).resolve()
    values = check_parameters(source, parameters or {})
    if "out" in notebook_parameters(source):
        values["out"] = str(folder)
    target = folder / source.name
    os.environ[PLAIN_BARS] = "1"  # the kernel inherits it
    # papermill writes as it goes: elsewhere, so that a killed run leaves nothing in the folder.
    with making(folder), tempfile.TemporaryDirectory(prefix="d2ue-") as aside, _unlogged():
        unfinished = Path(aside, source.name)
        try:
            papermill.execute_notebook(
                str(source),
                str(unfinished),
                values,
                progress_bar=False,
                cwd=os.getcwd(),  # relative paths are the caller's
                stderr_file=sys.stderr if progress else None,
                # What it logs of itself is not the reader's: that it is reached over TCP, or that
                # the interrupt before its end found it idle. What fails in a cell comes otherwise.
                extra_arguments=["--IPKernelApp.log_level=50"],
            )
        except PapermillExecutionError as error:
            # The traceback of the cell goes with the notebook; the reader gets its last line.
            raise D2UEError(
                f"{source.name} stopped in cell {error.exec_count}: {_last_line(error)}"
            ) from error
        except DeadKernelError as error:
            raise D2UEError(
                f"{source.name} stopped: its process was ended from outside. Is the memory full?"
            ) from error
        except (NoSuchKernel, RuntimeError) as error:  # absent, or dead before it answered
            raise D2UEError(
                f"{source.name} was not run: Jupyter could not start its kernel "
                f"({' '.join(str(error).split()):.200}). Install ipykernel into this environment."
            ) from error
        _drop_bars(unfinished)
        with writing(target):
            folder.mkdir(parents=True, exist_ok=True)  # another run that stopped may remove it
            write_file(target, unfinished.read_bytes())
    return target


@contextlib.contextmanager
def _unlogged() -> Iterator[None]:
    """Without papermill's log: what stops a page is raised, and would be said twice."""
    log = logging.getLogger("papermill")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


def notebook_parameters(source: Path) -> dict[str, str]:
    """The type of every parameter of a notebook by name, from its cell tagged `parameters`."""
    import nbformat

    for cell in nbformat.read(source, as_version=4).cells:
        if "parameters" in cell.metadata.get("tags", []):
            return declared(cell.source)
    return {}


def check_parameters(source: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Values of the declared types.

    Raises:
        InputError: on an unknown name or a value that is not of its type.
    """
    known = notebook_parameters(source)
    return {name: checked(name, value, known) for name, value in given.items()}


def parse_assignments(texts: Sequence[str]) -> dict[str, str]:
    """`NAME=VALUE` texts as a mapping.

    Raises:
        InputError: on a text of another form, or a name given twice.
    """
    values: dict[str, str] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name.isidentifier():
            raise InputError(f"A parameter is given as NAME=VALUE, not {text!r}.")
        if name in values:
            raise InputError(f"The parameter {name!r} was given twice.")
        values[name] = value
    return values


def _drop_bars(path: Path) -> None:
    """Take progress bars out of an executed notebook: they were for the one who waited."""
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if not _is_bar(o)]
    nbformat.write(notebook, path)


def _is_bar(output: Mapping[str, Any]) -> bool:
    text = output.get("text", "")
    return output.get("name") == "stderr" and ("%|" in text or not text.strip())


def _last_line(error: Any) -> str:
    value = re.sub(r"\x1b\[[0-9;]*m", "", str(error.evalue)).strip().splitlines()
    text = value[0] if value else "no message"
    return text if error.ename.endswith("InputError") else f"{error.ename}: {text}"
