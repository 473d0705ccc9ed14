"""The sliders of the dual-space lesson, moved by keyboard in a real browser.

JupyterLab runs the notebook as a reader would; Chromium is looked for on this machine and never
downloaded. Every wait is for a condition and has a limit.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "notebooks" / "04_dual_space.py"
SLIDERS = ("place", "height", "noise", "learners")
START = 60_000  # ms for the page and its first picture, on a busy machine
MOVE = 20_000  # ms for a slider's new picture


def found_browser() -> str | None:
    """Chromium or Chrome on this machine, or what the variable CHROMIUM names."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


@pytest.fixture(scope="module")
def chromium():
    """A headless browser."""
    reason = "the sliders are moved with the package playwright, which is not installed"
    driver = pytest.importorskip("playwright.sync_api", reason=reason)
    executable = found_browser()
    if not executable:
        pytest.skip("no Chromium or Chrome was found to move the sliders in")
    quiet = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
    quiet += ("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage")
    with driver.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=executable, args=list(quiet))
        yield browser
        browser.close()


def sliders_alone(target: Path) -> None:
    """The notebook without the cells on images and scores, which the sliders do not need."""
    jupytext, nbformat = pytest.importorskip("jupytext"), pytest.importorskip("nbformat")
    notebook = jupytext.read(SOURCE)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    last = max(i for i, cell in enumerate(code) if "interactive_output(" in cell.source)
    unneeded = ("toy_views(", "effects")  # eleven seeds, and pictures of other trainings
    notebook.cells = [c for c in code[: last + 1] if not any(u in c.source for u in unneeded)]
    notebook.metadata["kernelspec"] = dict(
        name="python3", display_name="Python 3", language="python"
    )
    nbformat.write(notebook, target)


@pytest.fixture
def lab(tmp_path):
    """The address of JupyterLab with the notebook open; it ends with its kernels."""
    pytest.importorskip("jupyterlab", reason="the sliders are moved in JupyterLab: not installed")
    pytest.importorskip("ipywidgets", reason="the sliders are made by ipywidgets: not installed")
    work = tmp_path / "work"
    work.mkdir()
    sliders_alone(work / "lesson.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    own = {"JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"}
    settings = {name: str(tmp_path / name.lower()) for name in own}
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        "ServerApp.root_dir": work,
        "ServerApp.open_browser": False,
        "IdentityProvider.token": token,
        "LabApp.extension_manager": "readonly",
        # Should the tests be killed before they end the server, it ends by itself.
        "ServerApp.shutdown_no_activity_timeout": 300,
        "MappingKernelManager.cull_idle_timeout": 120,
        "MappingKernelManager.cull_interval": 60,
    }
    root = "--allow-root" if hasattr(os, "geteuid") and os.geteuid() == 0 else "--no-browser"
    log = tmp_path / "server.log"
    search = [str(SOURCE.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    with log.open("wb") as written:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyter", "lab", root]
            + [f"--{name}={value}" for name, value in options.items()],
            stdout=written,
            stderr=subprocess.STDOUT,
            env={**os.environ, **settings, "PYTHONPATH": os.pathsep.join(search)},
            start_new_session=True,  # so that its kernels can be ended with it
        )
    try:
        here = f"http://127.0.0.1:{port}"
        answered(f"{here}/api/status?token={token}", log)
        yield f"{here}/lab/tree/lesson.ipynb?token={token}&reset"
    finally:
        end(server)


def answered(address: str, log: Path) -> None:
    """Wait until the server answers, at most about 45 seconds."""
    urllib3 = pytest.importorskip("urllib3")  # part of every JupyterLab
    again = urllib3.Retry(100, read=0, backoff_factor=0.2, backoff_max=0.45)
    try:
        response = urllib3.PoolManager().request("GET", address, retries=again, timeout=30)
    except urllib3.exceptions.HTTPError:
        pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")
    assert response.status == 200


def end(server: subprocess.Popen) -> None:
    """End the server and its kernels: asked first, then made to."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if server.poll() is None:
            try:
                os.killpg(server.pid, number)
                server.wait(timeout=10)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


def test_every_slider_draws_a_new_picture(chromium, lab):
    # Tall enough for the whole notebook: JupyterLab leaves out cells that are not in sight.
    page = chromium.new_page(viewport={"width": 1400, "height": 4000})
    page.set_default_timeout(START)
    try:
        page.goto(lab)
        page.locator(".jp-Notebook .jp-Cell").first.wait_for()
        # Before its kernel is there, a notebook that is run asks for one.
        page.locator("#jp-main-statusbar").get_by_text("| Idle").wait_for()
        page.locator("#jp-MainMenu").get_by_text("Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()
        picture = page.locator(".widget-output img")
        picture.wait_for()
        handles = page.get_by_role("slider")
        assert handles.count() == len(SLIDERS)
        for name, handle in zip(SLIDERS, handles.all(), strict=True):
            before = picture.get_attribute("src")
            value = handle.get_attribute("aria-valuenow")
            handle.focus()
            page.keyboard.press("ArrowRight")
            # The old picture stays until the new one is there.
            page.wait_for_function(
                """before => {
                    const shown = document.querySelector(".widget-output img");
                    return shown !== null && shown.src !== before;
                }""",
                arg=before,
                timeout=MOVE,
            )
            assert handle.get_attribute("aria-valuenow") != value, name
        assert not page.locator(".jp-RenderedText[data-mime-type*=stderr]").count()
    finally:
        page.close()
