"""Which part of the site a notebook belongs to, and the sidebar. A new notebook finds its place by itself: by
its name, by what imports it, and by the order of nbs/index.ipynb."""

import ast
import dataclasses
import html
import json
import re
from pathlib import Path

FIGURES = "Figures"
KINDS = [  # how a notebook's name begins, part, what is in it
    (r"index", "Start here", "In what order to read."),
    (r"ledger", "The paper", "Every published number that we know of, and what our runs say of it."),
    (
        r"\d",
        "Library",
        "One idea each, and the source of the package. Data flows down this list: a notebook uses only those "
        "above it. Each runs in under a minute on two CPU cores; nothing is downloaded.",
    ),
    (
        r"fig_",
        FIGURES,
        "Drawn in seconds from figures/records/: what the paper claims, and what our numbers say.",
    ),
    (
        r"tool",
        "Tools",
        "Exported to the package, too, but the loop and the figures do without them: more images, more "
        "networks, reports, costs, the command line, GPUs.",
    ),
    (
        r"run_|demo_",
        "Run",
        "Entry points for papermill, Colab or a terminal. With the demo preset a loop takes minutes on two "
        "CPU cores, with `-p preset smoke` seconds.",
    ),
    (r"", "More", "Other notebooks."),
]


@dataclasses.dataclass(frozen=True)
class Notebook:
    "What a reader is told of a notebook before opening it."

    name: str  # file name without suffix
    title: str
    idea: str  # the line after >
    minutes: int  # to read: 200 words of text, or 20 lines of code, a minute

    @property
    def number(self) -> str:
        "Its place in the order of the library: 04a; empty for others."
        return re.match(r"(\d+[a-z]?|)", self.name)[0]


def markdown_of(cells: list[dict]) -> str:
    "The text of a notebook."
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def about(name: str, cells: list[dict]) -> Notebook:
    "Title, idea and minutes, read from the cells."
    text = markdown_of(cells)
    code = [line for c in cells if c["cell_type"] == "code" for line in c["source"] if line.strip()]
    title, idea = re.search(r"^# (.+)", text, re.M), re.search(r"^> (.+)", text, re.M)
    minutes = max(1, round(len(text.split()) / 200 + len(code) / 20))
    return Notebook(name, title[1] if title else name, idea[1] if idea else "", minutes)


def index_sections(
    text: str,  # of nbs/index.ipynb
) -> list[tuple[str, str]]:  # notebook, heading of its section
    "What the tables of the index list, row by row. Where a notebook stands in two, the later one counts."
    found, heading = [], ""
    for line in text.splitlines():
        if line.startswith("## "): heading = line[3:]
        if row := re.match(r"\| \[(\w+)\]\(\1\.ipynb\)", line): found.append((row[1], heading))
    return found


def _uses(source: str) -> set[str]:
    "The modules of the package that this code imports."
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            inside = node.level == 1 or node.module.startswith("collapse_nb.")
            if inside: found.add(node.module.removeprefix("collapse_nb."))
    return found


def needed(
    package: Path,  # collapse_nb/
    notebooks: list[Path],  # that draw the figures
) -> set[str]:  # names of notebooks
    "Library notebooks that the loop and the figures use, directly or not. The others are tools."
    sources = {p.stem: p.read_text() for p in package.glob("*.py") if not p.stem.startswith("_")}
    todo = ["loop"]
    for path in notebooks: todo += re.findall(r"from collapse_nb\.(\w+) import", path.read_text())
    seen = set()
    while todo:
        module = todo.pop()
        if module in seen or module not in sources: continue
        seen.add(module)
        todo += _uses(sources[module])
    return {re.search(r"File to edit: \.\./nbs/(\S+)\.ipynb", sources[m])[1] for m in seen}


def parts(
    notebooks: list[Notebook],
    sections: list[tuple[str, str]],  # as `index_sections`
    library: set[str],  # as `needed`
) -> list[tuple[str, str, list[Notebook]]]:  # part, what is in it, its notebooks
    """Every notebook in one part, by number or in the order of the index, what that does not list last. A
    section of the index with "tool" in its heading says what a tool is; without one, `library` does."""
    place = {name: i for i, (name, _) in enumerate(sections)}
    tools = {name for name, heading in sections if "tool" in heading.lower()}
    found = {title: [] for _, title, _ in KINDS}
    def order(n): return (0 if n.number else place.get(n.name, len(sections)), n.name)
    for notebook in sorted(notebooks, key=order):
        name = notebook.name
        is_tool = notebook.number and (name in tools if tools else name not in library)
        title = next(t for pattern, t, _ in KINDS if re.match(pattern, "tool" if is_tool else name))
        found[title].append(notebook)
    return [(title, what, found[title]) for _, title, what in KINDS if found[title]]


def sidebar(
    groups: list[dict],  # title, open, pages: [[page, number, title], ...]
    here: str,  # the page that it stands on
) -> str:  # HTML
    "The groups of pages; that of this page is open, and this page is marked."
    up = "../" * here.count("/")
    out = ['<nav class="groups" aria-label="All pages">']
    for group in groups:
        is_open = group["open"] or any(page == here for page, *_ in group["pages"])
        count = "" if group["open"] else f'<span class="count">{len(group["pages"])}</span>'
        out.append(f"<details{' open' if is_open else ''}><summary>{group['title']}{count}</summary><ul>")
        for page, number, title in group["pages"]:
            mark = ' aria-current="page"' if page == here else ""
            number = f'<span class="number">{number}</span>' if number else ""
            words = html.escape(re.sub(r"[`*]", "", title))
            out.append(f'<li><a href="{up}{page}.html"{mark}>{number}{words}</a></li>')
        out.append("</ul></details>")
    return "\n".join([*out, "</nav>"])


def read_notebooks(
    folder: Path,
) -> tuple[list[Notebook], list[tuple[str, str]]]:  # notebooks, and as `index_sections`
    "All notebooks of a folder, and what its index says of their order."
    cells = {p.stem: json.loads(p.read_text())["cells"] for p in sorted(folder.glob("*.ipynb"))}
    return [about(name, c) for name, c in cells.items()], index_sections(markdown_of(cells["index"]))
