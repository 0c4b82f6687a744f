"""Drive the panel in a real browser: JupyterLab on 127.0.0.1, Chromium through playwright, nothing from outside.

`python -m tests.browser --screenshots images` draws the panel of each notebook into images/panel-*.png.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import functools
import importlib.util
import io
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
from PIL import Image, ImageOps

from tests.notebooks import ROOT, inject

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--no-proxy-server"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PATIENCE = 180.0  # seconds that anything may take on a busy core
SLOW = "[anywidget] Failed to initialize model."
"""What anywidget says where a busy core takes it more than two seconds; it goes on all the same."""


def missing() -> str:
    """What the machine lacks for a real browser; empty where it lacks nothing."""
    lacking = [
        name for name in ("playwright", "jupyterlab", "ipywidgets", "anywidget") if not importlib.util.find_spec(name)
    ]
    lacking += [] if CHROMIUM else ["chromium"]
    return f"needs {', '.join(lacking)} (pip install 'nmg[test,browser]', and a Chromium)" if lacking else ""


# ---------------------------------------------------------------- notebooks


PANEL = """\
from nmg.lab.panel import widgets

widgets.panel(pipe, examples.{}(pipe)["{}"], steps=STEPS)"""
TASKS = {
    "nmg_ptp.ipynb": ("prompt_to_prompt", "colour change"),
    "nmg_masactrl.ipynb": ("masactrl", "pose modification"),
    "nmg_pix2pix.ipynb": ("pix2pix_zero", "cat to dog"),
}
"""The example that the panel of each notebook's copy has."""


def shortened(path: Path, folder: Path, steps: int) -> Path:
    """A copy of a notebook that has the parameters, the cell that loads the model, and the panel over an example."""
    notebook = nbformat.read(path, as_version=4)
    wanted = "nmg.load(", "widgets.panel("
    notebook.cells = [
        cell
        for cell in notebook.cells
        if "parameters" in cell.metadata.get("tags", [])
        or (cell.cell_type == "code" and any(text in cell.source for text in wanted))
    ]
    for cell in notebook.cells:
        cell.outputs = []
    notebook.cells[-1].source = PANEL.format(*TASKS[path.name])
    inject(notebook, {"MODEL": "menagerie", "STEPS": steps})
    copy = folder / path.name
    nbformat.write(notebook, copy)
    return copy


# ---------------------------------------------------------------- server and browser


@contextlib.contextmanager
def lab(folder: Path, dark: bool = False) -> Iterator[Callable[[Path], str]]:
    """JupyterLab over a folder, with settings of its own; gives a notebook's address.

    Raises:
        RuntimeError: if it does not start, with the end of its log.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as own:
        _settings(Path(own) / "config", dark)
        token, port = secrets.token_hex(16), _free_port()
        places = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "run"}
        places = {name: str(Path(own) / place) for name, place in {**places, "IPYTHONDIR": "ipython"}.items()}
        settings = (
            "--ServerApp.ip=127.0.0.1",
            f"--ServerApp.port={port}",
            "--ServerApp.port_retries=0",
            f"--ServerApp.root_dir={folder}",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
            "--LabApp.extension_manager=readonly",
        )
        log = Path(own) / "log"
        with log.open("w") as out:
            server = subprocess.Popen(
                [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", *settings],
                env={**os.environ, **places, "JUPYTER_TOKEN": token, "HF_HUB_OFFLINE": "1"},
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        try:
            _await_server(f"http://127.0.0.1:{port}/api", server, log)
            yield lambda path: f"http://127.0.0.1:{port}/doc/tree/{path.relative_to(folder)}?token={token}"
        finally:
            # It ends its kernels first.
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()


@contextlib.contextmanager
def app(*arguments: str) -> Iterator[str]:
    """`nmg app` on a free port; gives its address.

    Raises:
        RuntimeError: if it does not start, with the end of its log.
    """
    port = _free_port()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as own:
        log = Path(own) / "log"
        with log.open("w") as out:
            server = subprocess.Popen(
                [sys.executable, "-m", "nmg", "app", *arguments, "--no-browser", "--port", str(port)],
                env={**os.environ, "HF_HUB_OFFLINE": "1", "JUPYTER_CONFIG_DIR": own, "JUPYTER_RUNTIME_DIR": own},
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        try:
            _await_server(f"http://127.0.0.1:{port}/voila/static/voila.js", server, log)
            yield f"http://127.0.0.1:{port}/"
        finally:
            # As the user ends it: the page's kernels end first.
            server.send_signal(signal.SIGINT)
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()


def _settings(config: Path, dark: bool) -> None:
    """Settings in which JupyterLab asks for no news, and is light or dark."""
    folder = config / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension"
    folder.mkdir(parents=True)
    news = {"fetchNews": "false", "checkForUpdates": False}
    (folder / "notification.jupyterlab-settings").write_text(json.dumps(news))
    theme = {"theme": f"JupyterLab {'Dark' if dark else 'Light'}"}
    (folder / "themes.jupyterlab-settings").write_text(json.dumps(theme))


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _await_server(address: str, server: subprocess.Popen, log: Path) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and server.poll() is None:
        try:
            return direct.open(address, timeout=5).close()
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"nothing answers at {address}:\n{log.read_text()[-2000:]}")


@contextlib.contextmanager
def chromium(scale: float = 1, size: tuple[int, int] = (1280, 1600)) -> Iterator[Callable[[], Page]]:
    """A browser without a window but with scroll bars; gives a new page of that size.

    Args:
        scale: device pixels to each of the page's own.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=FLAGS, ignore_default_args=["--hide-scrollbars"]
        )
        width, height = size
        yield lambda: browser.new_page(viewport={"width": width, "height": height}, device_scale_factor=scale)
        browser.close()


# ---------------------------------------------------------------- the panel on a page

COLOURS = """
const parts = colour => colour.match(/[\\d.]+/g)
    .map((part, i) => part * (colour.startsWith('color(') && i < 3 ? 255 : 1));
const over = ([r, g, b, a = 1], below) => [r, g, b].map((value, i) => a * value + (1 - a) * below[i]);
const behind = element => element
    ? over(parts(getComputedStyle(element).backgroundColor), behind(element.parentElement)) : [255, 255, 255];
const words = element => [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim())
    || (element.matches('input, textarea, select') && (element.value || element.placeholder));
const empty = element => element.matches('input, textarea') && !element.value;
const ink = element => over(
    parts(getComputedStyle(element, empty(element) ? '::placeholder' : null).color), behind(element));
const light = colour => [0.2126, 0.7152, 0.0722].reduce((sum, share, i) => {
    const value = colour[i] / 255;
    return sum + share * (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
}, 0);
const contrast = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
"""
"""JavaScript: an element's colour of words and of what is behind it, their luminance and contrast."""


class Panel:
    """The panel of a notebook, or of a page of its own, in a browser; its parts go by their CSS class without `nmg-`.

    Attributes:
        page: playwright's page.
        complaints: errors that the browser reported, and addresses beyond this machine that the page asked for.

    Raises:
        AssertionError: for a cell that fails, with what it says.
    """

    def __init__(self, page: Page, address: str):
        self.page = page
        self.complaints: list[str] = []
        page.set_default_timeout(1000 * PATIENCE)
        page.on("pageerror", lambda error: SLOW in str(error) or self.complaints.append(f"page: {error}"))
        page.on("console", self._heard)
        page.route(lambda url: not url.startswith((address.split("/doc/")[0], "blob:", "data:")), self._refused)
        page.goto(address)
        if "/doc/" in address:
            page.locator("#jp-main-statusbar").get_by_text("| Idle").wait_for()
            page.get_by_role("menuitem", name="Run", exact=True).click()
            page.get_by_text("Run All Cells", exact=True).click()
        error = page.locator(".jp-OutputArea-output").filter(has_text="Traceback (most recent call last)")
        self.part("panel").or_(error).first.wait_for()
        assert not error.count(), error.first.inner_text()

    def _heard(self, message: Any) -> None:
        if message.type == "error":
            self.complaints.append(f"console: {message.text} ({message.location['url']})")

    def _refused(self, route: Any) -> None:
        self.complaints.append(f"asked for {route.request.url}")
        route.abort()

    def part(self, name: str, inside: str = "") -> Locator:
        """The element of a class, or what a selector finds inside it."""
        return self.page.locator(f".nmg-{name} {inside}".strip())

    def text(self, name: str) -> str:
        return self.part(name).inner_text().strip()

    def picture(self, name: str) -> Image.Image:
        """What an image widget shows. Its address is a blob's and new each time, so that its bytes are asked for."""
        script = """async image => {
            const bytes = new Uint8Array(await (await fetch(image.src)).arrayBuffer());
            return btoa(Array.from(bytes, byte => String.fromCharCode(byte)).join(""));
        }"""
        encoded = self.page.locator(f"img.nmg-{name}, .nmg-{name} img").first.evaluate(script)
        return Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")

    def value(self, name: str) -> float:
        """A slider's value, as its readout says it."""
        return float(self.part(name, ".widget-readout").inner_text())

    def press(self, name: str, key: str, times: int = 1) -> None:
        """Move a slider by keyboard."""
        handle = self.part(name, ".noUi-handle")
        handle.focus()
        for _ in range(times):
            handle.press(key)

    def drag(self, name: str, share: float) -> None:
        """Move a slider by mouse, by a share of its length."""
        with self.dragging(name, share):
            pass

    @contextlib.contextmanager
    def dragging(self, name: str, share: float) -> Iterator[None]:
        """Inside the block a slider is held where it was drawn to."""
        self.part(name).scroll_into_view_if_needed()
        handle = self.part(name, ".noUi-handle").bounding_box()
        length = self.part(name, ".noUi-base").bounding_box()["width"]
        x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + share * length, y, steps=8)
        yield
        self.page.mouse.up()

    def stroke(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Drag over the main picture, between shares of its width and height."""
        self.part("view").scroll_into_view_if_needed()
        box = self.part("view").bounding_box()
        (x0, y0), (x1, y1) = ((box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end))
        self.page.mouse.move(x0, y0)
        self.page.mouse.down()
        self.page.mouse.move(x1, y1, steps=8)
        self.page.mouse.up()

    def drop(self, name: str, content: bytes) -> None:
        """Drop a file on the main picture."""
        script = """([name, encoded]) => {
            const data = new DataTransfer();
            const bytes = Uint8Array.from(atob(encoded), letter => letter.charCodeAt(0));
            data.items.add(new File([bytes], name, {type: "image/png"}));
            return data;
        }"""
        data = self.page.evaluate_handle(script, [name, base64.b64encode(content).decode()])
        self.part("view").dispatch_event("drop", {"dataTransfer": data})

    def scrolling(self) -> list[str]:
        """The parts of the panel that have a scroll bar, but for fields of text."""
        return self._found(
            "element => !element.matches('textarea') && [['X', 'Width'], ['Y', 'Height']].some(([axis, side]) => "
            "['auto', 'scroll'].includes(getComputedStyle(element)[`overflow${axis}`])"
            " && element[`scroll${side}`] > element[`client${side}`])"
        )

    def sticking_out(self) -> list[str]:
        """The parts that are wider than the cell."""
        return self._found(
            "element => element.offsetParent && element.getBoundingClientRect().right"
            " > element.closest('.jp-OutputArea-output, body').getBoundingClientRect().right + 0.5"
        )

    def nameless(self) -> list[str]:
        """Pictures without a text, and sliders, fields and buttons that a screen reader could not name."""
        return self._found(
            "element => element.matches('img') ? !element.hasAttribute('alt')"
            " : element.matches('input, select, textarea, button, [role=slider]') && element.type !== 'file'"
            " && !(element.ariaLabel || element.labels?.length || element.textContent.trim())"
        )

    def faint(self) -> list[str]:
        """The parts whose words, or placeholders, stand out from what is behind them by less than 4.5 to 1, which the
        Web Content Accessibility Guidelines ask for."""
        return self._found(
            f"element => {{ {COLOURS} return !element.disabled && words(element) && element.checkVisibility() &&"
            " contrast(ink(element), behind(element)) < 4.5; }"
        )

    def bright(self) -> list[str]:
        """The parts that are filled with a bright colour and are larger than a slider's handle."""
        return self._found(
            f"element => {{ {COLOURS} const box = element.getBoundingClientRect();"
            " return box.width > 24 && box.height > 8 && !element.matches('img') && light(behind(element)) > 0.4; }"
        )

    def _found(self, test: str) -> list[str]:
        script = (
            f"panel => [...panel.querySelectorAll('*')].filter({test}).map(element => element.outerHTML.slice(0, 200))"
        )
        return self.part("panel").evaluate(script)

    def colour(self, name: str) -> list[str]:
        """Red, green and blue of a part's words."""
        colour = self.part(name).evaluate("element => getComputedStyle(element).color")
        return re.findall(r"\d+", colour)[:3]

    def tabbed(self) -> list[list[str]]:
        """What Tab leads to, from the main picture to the panel's end: of each stop the parts that it is in."""
        script = """() => {
            const panel = document.activeElement.closest('.nmg-panel'), found = [];
            for (let e = panel && document.activeElement; e && e !== panel; e = e.parentElement)
                found.push(...[...e.classList].filter(name => name.startsWith('nmg-')).map(name => name.slice(4)));
            return panel && found;
        }"""
        stops: list[list[str]] = []
        self.part("view").focus()
        while found := self.page.evaluate(script):
            stops.append(found)
            self.page.keyboard.press("Tab")
        return stops

    def enter(self, name: str, value: float) -> None:
        """Set a slider by its readout."""
        readout = self.part(name, ".widget-readout")
        readout.fill(f"{value:g}")
        readout.press("Enter")

    def write(self, name: str, text: str) -> None:
        """Replace a text field's text, and leave the field."""
        field = self.part(name, ":is(input, textarea)")
        field.fill(text)
        field.press("Tab")

    def tried(self) -> int:
        """How many results the history holds."""
        return self.part("history", ".nmg-tried").count()

    def result(self, act: Callable[[], None] | None = None) -> Image.Image:
        """The edit that comes of an action, or the first one, once the panel has nothing more to do."""
        before = self.tried() if act else 0
        if act:
            act()
        self.until(lambda: self.tried() > before and self.text("status").startswith("done"), "a result")
        return self.picture("edit")

    def until(self, true: Callable[[], bool], what: str) -> None:
        """Wait until something holds.

        Raises:
            AssertionError: if it never does, with what the panel says.
        """
        end = time.monotonic() + PATIENCE
        while not true():
            assert time.monotonic() < end, f"{what}: not within {PATIENCE:g} s; the panel says {self.text('status')!r}"
            # Not time.sleep: the browser's events come in while playwright waits.
            self.page.wait_for_timeout(50)


# ---------------------------------------------------------------- screenshots

MARGIN = 24
"""Pixels around the panel, in the colour of its page."""


def photograph(panel: Panel, path: Path, limit: int = 300_000) -> None:
    """The panel alone, as a PNG of 256 colours, as large as `limit` bytes allow."""
    panel.page.mouse.move(0, 0)
    panel.page.wait_for_timeout(500)
    shot = Image.open(io.BytesIO(panel.part("panel").screenshot())).convert("RGB")
    # Most of the panel's edge is the page.
    _, page = max(shot.crop((shot.width - 1, 0, *shot.size)).getcolors(shot.height))
    shot = ImageOps.expand(shot, MARGIN, page)
    for share in (1, 0.85, 0.7, 0.6):
        small = shot.resize([round(share * side) for side in shot.size], Image.Resampling.LANCZOS)
        small.quantize(256, kmeans=3, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size <= limit:
            break


def try_out(panel: Panel, control: str) -> None:
    """Fill the history: turn both scales and a control of the editor's own, and go back to the first edit."""
    first = panel.result()
    for name, share in (("noise-map-scale", -0.2), ("text-scale", 0.2), (control, -0.3)):
        panel.result(functools.partial(panel.drag, name, share))
    panel.part("tried").first.click()
    panel.until(lambda: panel.picture("edit") == first, "the first edit is back")


def photograph_all(folder: Path, steps: int = 50) -> None:
    """The panel of each notebook after a few tries, each with another tab open."""
    shown = {"ptp": ("cross-replace", 0), "masactrl": ("start-step", 2), "pix2pix": ("amount", 1)}
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as copies, lab(Path(copies)) as address, chromium(scale=1.5) as page:
        for name, (control, tab) in shown.items():
            copy = shortened(ROOT / f"nmg_{name}.ipynb", Path(copies), steps)
            panel = Panel(page(), address(copy))
            try_out(panel, control)
            panel.part("panel", ".lm-TabBar-tab").nth(tab).click()
            photograph(panel, folder / f"panel-{name}.png")
            panel.page.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--screenshots", type=Path, required=True, metavar="FOLDER", help="where the pictures go")
    parser.add_argument("--steps", type=int, default=50, help="DDIM steps, 50 if not given")
    options = parser.parse_args()
    photograph_all(options.screenshots, options.steps)
