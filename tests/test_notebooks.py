"""The gates that every notebook in notebooks/ has to pass.

A gate is a function that returns what is wrong, as a list of sentences; an empty list means that
all is well. That a notebook still runs, and prints what it printed, is for nbval (`make test`).
"""

import ast
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from jupytext.cli import jupytext
from papermill.translators import PythonTranslator

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

MAX_BYTES = 2_000_000
MAX_LINES = 90


# --- the gates ---


def code_cells(notebook):
    return [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]


def python_of(cell):
    """The cell without the lines that only IPython understands."""
    return re.sub(r"^(\s*)[%!].*$", r"\1pass", cell.source, flags=re.MULTILINE)


def check_execution(notebook):
    """Run once from top to bottom, without an error; nbval compares nothing in a cell never run."""
    problems = []
    counts = [cell.execution_count for cell in code_cells(notebook)]
    if not counts:
        problems.append("has no code")
    if counts != list(range(1, len(counts) + 1)):
        problems.append(f"was not run once from top to bottom: execution counts {counts}")
    for cell in code_cells(notebook):
        problems += [
            f"cell {cell.execution_count} ends in {output.ename}: {output.evalue}"
            for output in cell.outputs
            if output.output_type == "error"
        ]
        problems += [  # warnings are for those who run a page, and name places on one machine
            f"cell {cell.execution_count} keeps what went to stderr: {output.text[:80]}"
            for output in cell.outputs
            if output.output_type == "stream" and output.name == "stderr"
        ]
    return problems


def check_parameters(notebook):
    """The first code cell holds the parameters, each typed and explained, for papermill to list."""
    cells = code_cells(notebook)
    if not cells or "parameters" not in cells[0].metadata.get("tags", []):
        return ["its first code cell is not tagged 'parameters'"]
    problems = []
    if sum("parameters" in cell.metadata.get("tags", []) for cell in cells) > 1:
        problems.append("more than one cell is tagged 'parameters'")
    listed = {p.name: p for p in PythonTranslator.inspect(cells[0])}
    for line in filter(str.strip, cells[0].source.splitlines()):
        match line_of_code(line):
            case [ast.AnnAssign(target=ast.Name(id=name), value=ast.expr())]:
                parameter = listed.get(name)
                if not parameter or not parameter.inferred_type_name or not parameter.help:
                    problems.append(f"papermill cannot list this parameter: {line}")
            case _:
                problems.append(f"not of the form 'name: type = value  # comment': {line}")
    return problems


def line_of_code(line):
    try:
        return ast.parse(line).body
    except SyntaxError:
        return None


def check_kernel(notebook):
    name = notebook.metadata.get("kernelspec", {}).get("name")
    return [] if name == "python3" else [f"its kernel is {name!r}, not 'python3'"]


def check_code(notebook):
    """Little code and no class: logic belongs in d2ue/, where it is tested."""
    problems = []
    lines = sum(bool(line.strip()) for c in code_cells(notebook) for line in c.source.splitlines())
    if lines > MAX_LINES:
        problems.append(f"has {lines} lines of code, more than {MAX_LINES}")
    for cell in code_cells(notebook):
        problems += [
            f"defines class {node.name}"
            for node in ast.walk(ast.parse(python_of(cell)))
            if isinstance(node, ast.ClassDef)
        ]
    return problems


GATES = [check_execution, check_parameters, check_kernel, check_code]


def check_pairing(path, scratch):
    """The notebook is what jupytext makes of its .py today.

    `jupytext --sync` would go by file times and `--test` misses drift, so a copy is brought up to
    date and compared with the notebook as it is.
    """
    copy = Path(shutil.copy(path, scratch))
    source = Path(shutil.copy(path.with_suffix(".py"), scratch))
    jupytext(["--quiet", "--to", "ipynb", "--update", str(source)])
    now, made = parts(path), parts(copy)
    if len(now) != len(made):
        return [f"has {len(now) - 1} cells, its .py has {len(made) - 1}"]
    return [
        f"{'metadata' if i == 0 else f'cell {i}'} is not that of the .py: {a!r} / {b!r}"
        for i, (a, b) in enumerate(zip(now, made, strict=True))
        if a != b
    ]


def parts(path):
    """What both files of a pair hold: metadata, then type, source and metadata of each cell."""
    notebook = nbformat.read(path, as_version=4)
    metadata = dict(notebook.metadata)
    metadata["jupytext"] = dict(metadata.get("jupytext", {}))
    # Which jupytext wrote it last is no difference.
    metadata["jupytext"].pop("text_representation", None)
    return [metadata] + [(c.cell_type, c.source, c.metadata) for c in notebook.cells]


# --- our notebooks pass them ---


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook(path, gate):
    assert gate(nbformat.read(path, as_version=4)) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_small_and_what_its_py_says(path, tmp_path):
    assert path.stat().st_size < MAX_BYTES
    assert check_pairing(path, tmp_path) == []


def test_every_notebook_has_its_py_and_every_py_its_notebook():
    assert NOTEBOOKS and {p.stem for p in NOTEBOOKS} == {p.stem for p in FOLDER.glob("*.py")}
