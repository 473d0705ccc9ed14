import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.notebook_memory import LIMIT, peak_memory

HOLD = "import sys; held = bytearray(200_000_000); del held; print(flush=True); sys.stdin.read()"

linux_only = pytest.mark.skipif(
    not os.path.exists("/proc/self/status"), reason="this system has no /proc"
)


@linux_only
def test_what_was_held_once_counts_to_the_end():
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        peak = peak_memory(process.pid)
        process.stdin.close()
    assert 200_000_000 < peak < 300_000_000


def test_a_process_that_is_gone_held_nothing_we_know_of():
    assert peak_memory(2**30) is None


@linux_only
@pytest.mark.parametrize(("held", "outcome"), [(1, "2 passed"), (int(LIMIT), "1 failed, 1 passed")])
def test_a_notebook_over_the_limit_fails(tmp_path, held, outcome):
    """nbval with the plugin, on a notebook of one cell that takes so many bytes."""
    from nbformat import v4, write

    cell = v4.new_code_cell(f"held = b'x' * {held}", execution_count=1)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel})
    write(notebook, tmp_path / "page.ipynb")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "tests.notebook_memory",
        "-c",
        os.devnull,
    ]
    command += ["--rootdir", str(tmp_path), "--nbval-lax", "--nbval-current-env", str(tmp_path)]
    root = Path(__file__).parents[1]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=root)
    assert outcome in found.stdout and "kernels in GB: page " in found.stdout
    assert found.returncode == ("failed" in outcome)
