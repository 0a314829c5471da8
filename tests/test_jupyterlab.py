"""A reader's JupyterLab: a real server, a real browser, notebooks opened, edited, run by the menu, and saved.

JupyterLab writes what it saves, so it serves a copy of the parts of the checkout that notebooks read (`project_root` finds the copy). Its settings
are its own, not those of whoever runs the tests. Screenshots, and what a failure left behind, go to runs/jupyterlab/."""

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import nbformat
import psutil
import pytest
from conftest import ROOT

pytestmark = pytest.mark.slow
SHOTS = ROOT / "runs" / "jupyterlab"
PATIENCE = 300  # seconds for a notebook, on a slow machine
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},  # else a question about news from the network
    "notebook-extension/tracker": {"windowingMode": "none"},  # every cell on the page, also those that are out of sight
}
FLAGS = ("headless=new no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-component-update "
         "disable-sync disable-dev-shm-usage window-size=1300,1700")
TAB = "#jp-main-dock-panel .lm-TabBar-tab"
STATE = """
const root = document.querySelector('.jp-NotebookPanel:not(.lm-mod-hidden)');
if (!root) return null;
const shown = [...root.querySelectorAll('img')].filter(e => ['', location.host].includes(new URL(e.src).host));  // no badges
return {
  prompts: [...root.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(e => e.textContent),
  kernel: root.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status,
  name: root.querySelector('.jp-KernelName')?.textContent,
  errors: [...root.querySelectorAll('[data-mime-type$="stderr"], [data-mime-type$="error"]')].map(e => e.innerText).filter(t => /^-{20}/.test(t)),
  pictures: shown.filter(e => e.naturalWidth > 0 && e.closest('.jp-OutputArea')).length,
  illustrations: shown.filter(e => e.naturalWidth > 0 && e.closest('.jp-MarkdownOutput')).length,
  dialogs: [...document.querySelectorAll('.jp-Dialog')].map(e => e.innerText),
};"""


def find_browser() -> tuple[str, str]:
    "Paths of a browser and its driver; without them the test is skipped, or fails where CI or COLLAPSE_NB_BROWSER=1 says that it must run."
    names, given = ["chromium", "chromium-browser", "google-chrome"], os.environ.get("CHROMEWEBDRIVER")  # a folder, on GitHub: Chrome's driver
    binary = next(filter(None, map(shutil.which, names[::-1] if given else names)), None)
    driver = shutil.which("chromedriver", path=given) if given else shutil.which("chromedriver")
    if binary and driver: return binary, driver
    reason = "no Chromium with its driver: apt-get install chromium chromium-driver, or Google Chrome with chromedriver on the PATH"
    (pytest.fail if os.environ.get("CI") or os.environ.get("COLLAPSE_NB_BROWSER") == "1" else pytest.skip)(reason)


class Lab:
    "A server, a browser, and what a reader does with them."

    def __init__(self, folder: Path, driver, server, url: str, token: str):
        self.folder, self.driver, self.server, self.url, self.token = folder, driver, server, url, token

    def until(self, condition, what: str, seconds: float = 120):
        "What `condition` returns once it is true; asked ten times a second."
        from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
        from selenium.webdriver.support.ui import WebDriverWait
        wait = WebDriverWait(self.driver, seconds, 0.1, ignored_exceptions=[StaleElementReferenceException, WebDriverException])
        return wait.until(lambda _: condition(), f"waited {seconds:.0f} s for {what}")

    def click(self, selector: str, text: str = "", double: bool = False):
        "Click the one visible element of this CSS selector that shows this text."
        from selenium.webdriver import ActionChains
        from selenium.webdriver.common.by import By

        def act():
            found = [e for e in self.driver.find_elements(By.CSS_SELECTOR, selector) if e.is_displayed() and text in ("", e.text.strip())]
            if not found: return False
            chain = ActionChains(self.driver).move_to_element(found[0])
            (chain.double_click if double else chain.click)().perform()
            return True
        self.until(act, f"{selector} {text!r} to click on")

    def menu(self, name: str, entry: str):
        self.click(".lm-MenuBar-itemLabel", name)
        self.click(".lm-Menu-itemLabel", entry)

    def state(self) -> dict | None:  # None where no notebook is open yet
        return self.driver.execute_script(STATE)

    def ready(self, tab: str):
        "Wait until the notebook of this tab is in front and its kernel is up. A page opened by its address has no keyboard before a click."
        self.click(f"{TAB}.lm-mod-current .lm-TabBar-tabLabel", tab)
        def up():
            state = self.state()
            return state and (state["dialogs"] or (state["kernel"] == "idle" and (state["name"] or "").startswith("Python 3"))) and state
        state = self.until(up, f"the kernel of {tab}", PATIENCE)
        assert not state["dialogs"], state["dialogs"]  # nobody is asked for a kernel

    def open(self, name: str):
        self.driver.get(f"{self.url}lab/tree/nbs/{name}.ipynb?reset&token={self.token}")
        self.ready(f"{name}.ipynb")

    def run_all(self, cells: int) -> dict:  # the page's state
        "Run > Run All Cells, until each code cell has its number, or one has failed. None of them has one before."
        self.until(lambda: self.state()["prompts"] == ["[ ]:"] * cells, f"{cells} code cells that did not run")
        self.menu("Run", "Run All Cells")
        def done():
            state = self.state()
            ran = state["prompts"] == [f"[{i + 1}]:" for i in range(cells)]
            return state["kernel"] == "idle" and (ran or state["errors"]) and state
        return self.until(done, "all cells", PATIENCE)

    def save(self, name: str):
        "File > Save Notebook; the file's content once it is written."
        path = self.folder / "nbs" / f"{name}.ipynb"
        before = path.stat().st_mtime_ns
        self.menu("File", "Save Notebook")
        dirty = f"return !!document.querySelector('{TAB}.lm-mod-current.jp-mod-dirty')"
        self.until(lambda: path.stat().st_mtime_ns > before and not self.driver.execute_script(dirty), f"{path.name} to be saved")
        return nbformat.read(path, 4)

    def shoot(self, name: str):
        "A screenshot, of the last picture in an output, or where there is none of the first page."
        seen = "[...document.querySelectorAll('.jp-OutputArea img')].at(-1) ?? document.querySelector('.jp-NotebookPanel:not(.lm-mod-hidden) h1')"
        self.driver.execute_script(f"({seen})?.scrollIntoView({{block: 'center'}})")
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.driver.save_screenshot(str(SHOTS / f"{name}.png"))

    @contextmanager
    def telling(self, name: str):
        "Whatever goes wrong inside is raised with the page's errors, the browser's console and the end of the server's log."
        try: yield
        except Exception as e:
            self.shoot(f"{name}-failed")
            console = "\n".join(f"{line['level']} {line['message']}" for line in self.driver.get_log("browser"))
            log = (self.folder / "server.log").read_text()
            (SHOTS / f"{name}-failed.log").write_text(f"{console}\n\n{log}")
            said = "\n".join((self.state() or {}).get("errors", []))
            where = f"runs/jupyterlab/{name}-failed.png and .log"
            raise AssertionError(f"{e}\nON THE PAGE\n{said}\nCONSOLE\n{console[-2000:]}\nSERVER\n{log[-2000:]}\nSEE {where}") from e


@contextmanager
def server(folder: Path):
    "Plain `jupyter lab` in `folder`, on the first free port, with the token that it makes; yields its process, address and token."
    own = {f"JUPYTER_{kind}_DIR": str(folder / "jupyter" / kind) for kind in ("CONFIG", "DATA", "RUNTIME")}
    settings = folder / "jupyter" / "settings"
    for name, values in SETTINGS.items():
        path = settings / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    own |= dict(JUPYTERLAB_SETTINGS_DIR=str(settings), JUPYTERLAB_WORKSPACES_DIR=str(folder / "jupyter" / "workspaces"),
                JUPYTER_PATH="", PATH=f"{sys.prefix}/bin{os.pathsep}{os.environ['PATH']}")
    command = ["jupyter", "lab", "--no-browser", "--allow-root"]
    with open(folder / "server.log", "w") as log:
        process = subprocess.Popen(command, cwd=folder, env=os.environ | own, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline, info = time.monotonic() + PATIENCE, folder / "jupyter" / "RUNTIME" / f"jpserver-{process.pid}.json"
        while not (info.exists() and info.read_text().endswith("}")):
            assert process.poll() is None and time.monotonic() < deadline, (folder / "server.log").read_text()
            time.sleep(0.1)
        about = json.loads(info.read_text())
        yield process, about["url"], about["token"]
    finally:
        family = [process, *psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []
        for p in family: p.terminate()  # kernels, too
        psutil.wait_procs(family[1:], 20)
        try: process.wait(20)
        except subprocess.TimeoutExpired: process.kill()


@contextmanager
def browser(binary: str, driver: str, profile: Path):
    "Headless Chromium with a profile of its own."
    from selenium import webdriver
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in [*FLAGS.split(), f"user-data-dir={profile}"]: options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.unhandled_prompt_behavior = "accept"  # leaving a page with unsaved changes
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try: yield opened
    finally: opened.quit()


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    binary, driver = find_browser()
    shutil.rmtree(SHOTS, ignore_errors=True)
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("nbs", "figures", "collapse_nb"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("local", "__pycache__", ".ipynb_checkpoints"))
    for name in ("settings.ini", "pyproject.toml", "README.md"): shutil.copy(ROOT / name, folder)
    with server(folder) as (process, url, token), browser(binary, driver, folder / "profile") as opened:
        yield Lab(folder, opened, process, url, token)


def test_the_index_opens_from_the_file_browser_and_its_links_open_notebooks(lab):
    with lab.telling("browse"):
        lab.driver.get(f"{lab.url}lab?token={lab.token}")
        for name in ("nbs", "index.ipynb"): lab.click(".jp-DirListing-itemName", name, double=True)
        lab.ready("index.ipynb")
        lab.click(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-MarkdownOutput a", "00_config")
        lab.ready("00_config.ipynb")
        lab.shoot("browse")
        kernels = [p.cmdline() for p in psutil.Process(lab.server.pid).children(recursive=True) if "ipykernel_launcher" in p.cmdline()]
        assert len(kernels) == 2 and all(Path(k[0]).parent.samefile(f"{sys.prefix}/bin") for k in kernels), kernels


def use_smoke(lab):
    "Type into the cell of parameters, as a reader would."
    from selenium.webdriver import ActionChains, Keys
    first = 'preset = "demo"  # a section of settings.ini; None below keeps what it says'
    lab.click(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-CodeCell .cm-line", first)
    typed = ActionChains(lab.driver).send_keys(Keys.HOME).key_down(Keys.SHIFT).send_keys(Keys.END).key_up(Keys.SHIFT)
    typed.send_keys('preset = "smoke"').perform()


@pytest.mark.parametrize("name, pictures, illustrations", [("index", 0, 1), ("04_entropy", 3, 0), ("run_loop", 2, 0)])
def test_a_notebook_runs_and_is_saved_as_it_should_be(lab, name, pictures, illustrations):
    committed = nbformat.read(ROOT / "nbs" / f"{name}.ipynb", 4)
    with lab.telling(name):
        lab.open(name)
        if name == "run_loop": use_smoke(lab)
        state = lab.run_all(sum(c.cell_type == "code" for c in committed.cells))
        assert not state["errors"] and not state["dialogs"], state
        lab.until(lambda: (s := lab.state())["pictures"] == pictures and s["illustrations"] == illustrations,
                  f"{pictures} pictures in outputs and {illustrations} in the text")
        saved = lab.save(name)
        lab.shoot(name)

        code = [c for c in saved.cells if c.cell_type == "code"]
        assert [c.execution_count for c in code] == [*range(1, len(code) + 1)]
        assert not [o for c in code for o in c.outputs if o.output_type == "error"]
        drawn = [o for c in code for o in c.outputs if {"image/png", "image/svg+xml"} & set(o.get("data", {}))]
        assert len(drawn) == pictures and any(c.outputs for c in code)
        assert {"name": "python3", "language": "python"}.items() <= saved.metadata.kernelspec.items()
        assert [c.metadata.get("tags") for c in saved.cells] == [c.metadata.get("tags") for c in committed.cells]
        if name == "run_loop":
            (parameters,) = [c for c in saved.cells if c.metadata.get("tags") == ["parameters"]]
            assert parameters.source.startswith('preset = "smoke"\n') and "preset='smoke'" in str(code[2].outputs)
            assert len(list((lab.folder / "runs").glob("*/metrics.csv"))) == 1
            assert "IProgress" not in str(code)  # import_diffusers hushes it, in a kernel that has not imported diffusers before

        # a contributor's next step, `make export`, leaves nothing but outputs, and what was edited
        subprocess.run([f"{sys.prefix}/bin/nbdev-clean", "--fname", f"nbs/{name}.ipynb"], cwd=lab.folder, check=True)
        cleaned = nbformat.read(lab.folder / "nbs" / f"{name}.ipynb", 4)
        for c in committed.cells + cleaned.cells:
            c.pop("outputs", None)
            if c.metadata.get("tags") == ["parameters"]: del c["source"]
        assert cleaned.cells == committed.cells and cleaned.metadata.kernelspec == committed.metadata.kernelspec
