"""The gates that every notebook in notebooks/ has to pass, and proof that each of them can fail.

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
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
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


def check_size(path):
    size = path.stat().st_size
    return [f"is {size / 1e6:.1f} MB, over {MAX_BYTES / 1e6:.0f}"] if size >= MAX_BYTES else []


def check_partners(folder):
    """Every .ipynb has its source beside it, and every source its .ipynb."""
    stems = {s: {p.stem for p in folder.glob(f"*{s}")} for s in (".ipynb", ".py")}
    return [f"{stem}.py has no .ipynb" for stem in sorted(stems[".py"] - stems[".ipynb"])] + [
        f"{stem}.ipynb has no .py" for stem in sorted(stems[".ipynb"] - stems[".py"])
    ]


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


def test_there_are_notebooks():
    assert NOTEBOOKS, f"no notebook in {FOLDER}"


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook(path, gate):
    assert gate(nbformat.read(path, as_version=4)) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_small(path):
    assert check_size(path) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_what_its_py_says(path, tmp_path):
    assert check_pairing(path, tmp_path) == []


def test_every_notebook_has_its_py():
    assert check_partners(FOLDER) == []


# --- each gate can fail ---


@pytest.fixture
def good():
    """A notebook that passes every gate."""
    return new_notebook(
        metadata={
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
        },
        cells=[
            new_markdown_cell("# A lesson"),
            new_code_cell(
                "epochs: int = 20  # passes over the training set\n"
                'folder: str = "phantom"  # where the images are',
                execution_count=1,
                metadata={"tags": ["parameters"]},
            ),
            new_code_cell(
                "%matplotlib inline\nprint(epochs)",
                execution_count=2,
                outputs=[new_output("stream", text="20\n")],
            ),
        ],
    )


@pytest.mark.parametrize("gate", GATES)
def test_good_notebook_passes(good, gate):
    assert gate(good) == []


def spoil_count(notebook):
    notebook.cells[2].execution_count = None


def spoil_order(notebook):
    notebook.cells[2].execution_count = 7


def spoil_output(notebook):
    notebook.cells[2].outputs = [new_output("error", ename="ValueError", evalue="no", traceback=[])]


def spoil_stream(notebook):
    notebook.cells[2].outputs = [new_output("stream", name="stderr", text="/tmp/x.py: Warning")]


def spoil_everything(notebook):
    notebook.cells = notebook.cells[:1]


def spoil_tag(notebook):
    notebook.cells[1].metadata.tags = []


def spoil_second_tag(notebook):
    notebook.cells[2].metadata.tags = ["parameters"]


def spoil_type(notebook):
    notebook.cells[1].source = "epochs = 20  # passes over the training set"


def spoil_comment(notebook):
    notebook.cells[1].source = "epochs: int = 20"


def spoil_value(notebook):
    notebook.cells[1].source = "epochs: int  # passes over the training set"


def spoil_statement(notebook):
    notebook.cells[1].source += "\nimport torch  # not a parameter"


def spoil_listing(notebook):
    # papermill silently leaves out a parameter whose type has a bar in it
    notebook.cells[1].source += "\nseed: int | None = None  # where chance starts"


def spoil_kernel(notebook):
    notebook.metadata.kernelspec.name = "my-env"


def spoil_kernel_missing(notebook):
    del notebook.metadata["kernelspec"]


def spoil_length(notebook):
    notebook.cells[2].source = "\n".join(["x = 1"] * MAX_LINES)


def spoil_class(notebook):
    notebook.cells[2].source = "%matplotlib inline\nif True:\n    class Model:\n        pass"


@pytest.mark.parametrize(
    ("gate", "spoil", "words"),
    [
        (check_execution, spoil_count, "not run once"),
        (check_execution, spoil_order, "not run once"),
        (check_execution, spoil_output, "ValueError"),
        (check_execution, spoil_stream, "stderr"),
        (check_execution, spoil_everything, "no code"),
        (check_parameters, spoil_everything, "not tagged"),
        (check_parameters, spoil_tag, "not tagged"),
        (check_parameters, spoil_second_tag, "more than one"),
        (check_parameters, spoil_type, "not of the form"),
        (check_parameters, spoil_comment, "cannot list"),
        (check_parameters, spoil_value, "not of the form"),
        (check_parameters, spoil_statement, "not of the form"),
        (check_parameters, spoil_listing, "cannot list"),
        (check_kernel, spoil_kernel, "my-env"),
        (check_kernel, spoil_kernel_missing, "None"),
        (check_code, spoil_length, "lines of code"),
        (check_code, spoil_class, "class Model"),
    ],
)
def test_bad_notebook_is_found(good, gate, spoil, words):
    spoil(good)
    problems = gate(good)
    assert len(problems) == 1
    assert words in problems[0]


def test_large_notebook_is_found(tmp_path):
    path = tmp_path / "large.ipynb"
    path.write_bytes(b" " * (MAX_BYTES - 1))
    assert check_size(path) == []
    path.write_bytes(b" " * MAX_BYTES)
    assert len(check_size(path)) == 1


def test_missing_partner_is_found(tmp_path):
    for name in ("a.py", "a.ipynb", "b.py", "c.ipynb"):
        (tmp_path / name).touch()
    assert check_partners(tmp_path) == ["b.py has no .ipynb", "c.ipynb has no .py"]


@pytest.fixture
def pair(good, tmp_path):
    """A notebook and its .py in a folder, and an empty folder to compare in."""
    folder, scratch = tmp_path / "pair", tmp_path / "scratch"
    folder.mkdir()
    scratch.mkdir()
    path = folder / "lesson.ipynb"
    nbformat.write(good, path)
    jupytext(["--quiet", "--set-formats", "ipynb,py:percent", str(path)])
    assert check_pairing(path, scratch) == []
    return path, scratch


def edit(path, before, after):
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after), encoding="utf-8")


@pytest.mark.parametrize(
    ("suffix", "before", "after"),
    [
        (".py", "print(epochs)", "print(epochs + 1)"),
        (".ipynb", "print(epochs)", "print(epochs + 1)"),
        (".py", "# # A lesson", "# # Another lesson"),
        (".py", '# %% tags=["parameters"]', "# %%"),
        (".py", "name: python3", "name: my-env"),
        (".py", "print(epochs)", "print(epochs)\n\n# %%\nprint(folder)"),
    ],
)
def test_drift_is_found(pair, suffix, before, after):
    path, scratch = pair
    edit(path.with_suffix(suffix), before, after)
    assert len(check_pairing(path, scratch)) == 1


def test_other_jupytext_version_is_no_drift(pair):
    path, scratch = pair
    text = path.with_suffix(".py").read_text(encoding="utf-8")
    older = re.sub(r"jupytext_version: .*", "jupytext_version: 1.16.0", text)
    assert older != text
    path.with_suffix(".py").write_text(older, encoding="utf-8")
    assert check_pairing(path, scratch) == []


def test_outputs_are_no_drift(pair):
    path, scratch = pair
    edit(path, "20\\n", "21\\n")
    assert check_pairing(path, scratch) == []
