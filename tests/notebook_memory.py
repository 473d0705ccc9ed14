"""A pytest plugin: each notebook that nbval runs must stay below Binder's memory.

After a notebook's last cell the most memory that its kernel ever held is read from the system.
Loaded by `make test` (`-p tests.notebook_memory`); on a system without /proc the checks are skipped
and say so.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PROPERTY = "peak memory"
LIMIT = 1.5e9  # bytes; Binder gives 2 GB, Jupyter's server and a browser's connection take some


def peak_memory(pid: int) -> int | None:
    """The most memory a process ever held, in bytes; None where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


class MemoryCheck(pytest.Item):
    """The last item of a notebook: its kernel is still there, and has done all it does."""

    def runtest(self) -> None:
        peak = peak_memory(self.parent.kernel.km.provisioner.pid)
        if peak is None:
            pytest.skip("this system does not say how much memory a process held")
        self.user_properties.append((PROPERTY, peak))
        if peak > LIMIT:
            pytest.fail(
                f"the kernel held {peak / 1e9:.2f} GB, more than {LIMIT / 1e9:.1f}", pytrace=False
            )

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, f"{self.path.stem}: memory"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for i in range(len(items) - 1, -1, -1):
        parent = items[i].parent
        is_last = i + 1 == len(items) or items[i + 1].parent is not parent
        if type(parent).__name__ == "IPyNbFile" and is_last:
            items.insert(i + 1, MemoryCheck.from_parent(parent, name="memory"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    # Properties travel with the reports, also from the processes of pytest-xdist.
    shown = [
        f"{Path(report.location[0]).stem} {value / 1e9:.2f}"
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call"
        for name, value in report.user_properties
        if name == PROPERTY
    ]
    if shown:
        text = "peak memory of the notebooks' kernels in GB: " + ", ".join(sorted(shown))
        terminalreporter.write_line(text)
