"""Build the documentation: `python docs/build.py [OUT]` reads nbs/, docs/ and the docstrings, and writes
OUT/html (default: _docs/html).

Pages are found, not listed: a new notebook or a new docs/*.md appears by itself. Links are rewritten on the
way: to the page of a notebook or of a
Markdown file of docs/, to a copy of a picture, to GitHub for every other file of the repository. A link
that leads nowhere stops the build."""

import ast
import base64
import json
import os
import re
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import sections  # noqa: E402
from companion import as_rst  # noqa: E402
from gallery import GITHUB, gallery_page, provenance, thumbnail, with_provenance  # noqa: E402
from landing import fill, from_readme, link_explorer  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
PICTURES = {".png", ".svg", ".jpg"}
MADE = {"notebooks.md", "gallery.md", "api.md"}  # pages beside those of docs/ that are written here


def page_of(path: Path, root: Path = ROOT) -> str | None:  # a name relative to the staged source
    "The page that a file of the repository becomes; None where it becomes none."
    if path.suffix == ".ipynb" and path.parent == root / "nbs": return f"nbs/{path.name}"
    if path.suffix == ".md" and path.parent == root / "docs": return path.name
    return None


def rewrite(
    text: str,  # Markdown
    origin: Path,  # the file that it stands in
    page: str,  # the page that this file becomes
    stage: Path,  # the staged source, which receives pictures
    root: Path = ROOT,
) -> str:
    """Relative links, as GitHub and JupyterLab follow them, for the page. Raises ValueError for a link
    that leads nowhere."""
    def target(match):
        link, _, fragment = match[1].partition("#")
        if not link or re.match(r"[a-z]+:", link): return match[0]
        path = Path(os.path.normpath(origin.parent / link))
        made = path.parent == root / "docs" and path.name in MADE
        if not (made or path.exists()) or not path.is_relative_to(root):
            raise ValueError(
                f"{origin.relative_to(root)}: the link {match[1]!r} leads nowhere (allowed: a file of the "
                f"repository)"
            )
        found = page_of(path, root)
        if found is None and path.suffix in PICTURES:
            found = f"pictures/{path.name}"
            shutil.copyfile(path, stage / found)
        kind = "tree" if path.is_dir() else "blob"
        if found is None:
            return f"]({GITHUB}/{kind}/main/{path.relative_to(root)}{fragment and '#' + fragment})"
        return f"]({os.path.relpath(found, Path(page).parent)}{fragment and '#' + fragment})"

    parts = re.split(r"(```.*?```|`[^`\n]*`)", text, flags=re.S)  # code stays as it is
    return "".join(
        part if i % 2 else re.sub(r"\]\(([^)\s]+)\)", target, part) for i, part in enumerate(parts)
    )


def own_alt(cell: dict) -> str | None:
    """The alternative text that a cell gives its figure: a line `#| fig-alt: TEXT`, or `alt` in the
    metadata of the output (IPython's Image)."""
    if line := re.search(r"^#\| fig-alt: *(.+)", "".join(cell["source"]), re.M): return line[1]
    found = [
        m["alt"]
        for o in cell.get("outputs", [])
        for m in o.get("metadata", {}).values()
        if isinstance(m, dict) and m.get("alt")
    ]
    return found[0] if found else None


def is_picture(cell: dict) -> bool:
    "Whether the output of a cell holds a picture."
    return any("image/png" in output.get("data", {}) for output in cell.get("outputs", []))


def show_committed(cells: list[dict], stem: str, origin: Path) -> list[dict]:
    """The cells of a figure's notebook, with the committed picture, which is larger, in place of the first
    output, and what it was drawn from below."""
    at = next((i for i, cell in enumerate(cells) if is_picture(cell)), None)
    said = provenance(stem, origin, ROOT)
    if at is None or not said: return cells
    picture = base64.b64encode((ROOT / "figures" / f"{stem}.png").read_bytes()).decode()
    for output in cells[at]["outputs"]:
        if "image/png" in output.get("data", {}): output["data"]["image/png"] = picture
    below = dict(cell_type="markdown", id=f"from-{stem}"[:64], metadata={}, source=said)
    return [*cells[: at + 1], below, *cells[at + 1 :]]


def without_directives(cells: list[dict]) -> list[dict]:
    "Lines such as `#| export` are for nbdev, not for readers; a cell of nothing else goes."
    for cell in cells:
        if cell["cell_type"] == "code":
            lines = "".join(cell["source"]).splitlines(keepends=True)
            cell["source"] = [line for line in lines if not line.startswith("#|")]
    return [cell for cell in cells if "".join(cell["source"]).strip()]


def stage_notebook(path: Path, stage: Path) -> None:
    """Write a notebook with its links rewritten and its own alternative texts told to MyST-NB. The front
    matter is for nbdev, not for readers."""
    notebook = json.loads(path.read_text())
    cells = [c for c in notebook["cells"] if c["cell_type"] != "raw"]
    if path.stem.startswith("fig_"): cells = show_committed(cells, path.stem.removeprefix("fig_"), path)
    for cell in cells:
        if cell["cell_type"] == "markdown":
            text = with_provenance("".join(cell["source"]), path, ROOT)
            cell["source"] = rewrite(text, path, f"nbs/{path.name}", stage).splitlines(keepends=True)
        elif alt := own_alt(cell): cell["metadata"]["mystnb"] = dict(image=dict(alt=alt))
    notebook["cells"] = without_directives(cells)
    (stage / "nbs" / path.name).write_text(json.dumps(notebook))


def reading_order(parts: list) -> str:  # as `sections.parts` returns
    "The page of notebooks: a table for each part. Minutes are counted from the text."
    text = [
        "# All notebooks, in reading order",
        "Minutes are for reading, at 200 words of text or 20 lines of code a minute; how long a notebook "
        "runs is said in [Where to begin](nbs/index.ipynb).",
    ]
    for heading, what, notebooks in parts:
        numbered = any(n.number for n in notebooks)
        table = ["| | notebook | the idea | minutes |", "|---|---|---|--:|"]
        for n in notebooks:
            title, idea = (words.replace("|", "&#124;") for words in (n.title, n.idea))
            table.append(f"| {n.number} | [{title}](nbs/{n.name}.ipynb) | {idea} | {n.minutes} |")
        if not numbered: table = [re.sub(r"^\|[^|]*", "", row) for row in table]
        text += [f"## {heading}", what, "\n".join(table)]
    return "\n\n".join(text) + "\n"


def api_page(path: Path) -> str:  # reStructuredText
    """A module's page: everything in its __all__, in the order of the source. Read without importing;
    autodoc imports."""
    source = path.read_text()
    tree, name = ast.parse(source), f"collapse_nb.{path.stem}"
    public = next(
        ast.literal_eval(n.value)
        for n in tree.body
        if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "__all__"
    )
    notebook = re.search(r"File to edit: \.\./(nbs/\w+)\.ipynb", source)[1]
    title = path.stem.replace("_", r"\_")
    out = [
        title,
        "=" * len(title),
        "",
        f".. py:module:: {name}",
        "",
        as_rst(ast.get_docstring(tree) or "", ""),
        "",
    ]
    out += [f"Exported from the notebook :doc:`{Path(notebook).name} </{notebook}>`.", ""]
    for node in tree.body:
        if getattr(node, "name", None) in public:
            kind = "class" if isinstance(node, ast.ClassDef) else "function"
            out += [f".. auto{kind}:: {name}.{node.name}", *["   :members:"] * (kind == "class"), ""]
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            pairs = (
                list(zip(target.elts, node.value.elts))
                if isinstance(target, ast.Tuple)
                else [(target, node.value)]
            )
            comment = source.splitlines()[node.lineno - 1].partition("  # ")[2]
            each_own = comment.split("; ")
            for i, (each, value) in enumerate(pairs):
                if getattr(each, "id", None) not in public: continue
                said = as_rst(each_own[i] if len(each_own) == len(pairs) else comment, "")
                out += [f".. py:data:: {each.id}"]
                if value.end_lineno == value.lineno and len(ast.unparse(value)) < 100:
                    out += [f"   :value: {ast.unparse(value)}"]
                out += ["", f"   {said[:1].upper() + said[1:]}", ""]
    return "\n".join(out)


def stage_api(stage: Path) -> list[str]:  # pages, in the order of the notebooks that export them
    "A page for each module, and one that lists them."
    modules = [p for p in (ROOT / "collapse_nb").glob("*.py") if not p.stem.startswith("_")]
    modules.sort(key=lambda p: re.search(r"File to edit: (\S+)", p.read_text())[1])
    text = [
        "# API, by module",
        "In the order of the notebooks that export them.",
        "| module | the idea |\n|---|---|",
    ]
    for path in modules:
        (stage / "api" / f"{path.stem}.rst").write_text(api_page(path))
        idea = ast.get_docstring(ast.parse(path.read_text())) or ""
        text[-1] += f"\n| [{path.stem}](api/{path.stem}.rst) | {idea.replace('|', '&#124;')} |"
    (stage / "api.md").write_text("\n\n".join(text) + "\n")
    return [f"api/{p.stem}" for p in modules]


def stage_text(text: str, origin: Path, name: str, stage: Path) -> str:  # as it was written
    "Write a Markdown page with its links rewritten, and provenance below its figures."
    text = rewrite(with_provenance(text, origin, ROOT), origin, name, stage)
    (stage / name).write_text(text)
    return text


def stage_gallery(notebooks: list, order: list[tuple[str, str]], stage: Path) -> None:
    "The gallery, its pictures made small."
    text = stage_text(gallery_page(notebooks, order, ROOT), ROOT / "docs" / "gallery.md", "gallery.md", stage)
    for name in re.findall(r"\]\(pictures/(\w+\.png)\)", text):
        thumbnail(stage / "pictures" / name, stage / "pictures" / f"thumb-{name}")
    (stage / "gallery.md").write_text(re.sub(r"(\]\(pictures/)(\w+\.png\))", r"\1thumb-\2", text))


def groups_of(parts: list, guides: list[tuple[str, str]], api: list[str]) -> list[dict]:  # of the sidebar
    "Title, whether it stands open, and [page, number, title] of its pages."
    titles, found = dict(guides), {title: notebooks for title, _, notebooks in parts}
    before = {"The paper": [["findings", "", titles["findings"]], ["gallery", "", "All figures"]]}
    after = {"Start here": [["notebooks", "", "All notebooks, in reading order"]]}
    groups = []
    for _, title, _ in sections.KINDS:
        notebooks = [[f"nbs/{n.name}", n.number, n.title] for n in found.get(title, [])]
        pages = before.get(title, []) + notebooks + after.get(title, [])
        if pages: groups.append(dict(title=title, open=title in before | after, pages=pages))
    others = [[name, "", title] for name, title in guides if name != "findings"]
    modules = [["api", "", "All modules"], *([page, "", Path(page).name] for page in api)]
    more = {"Guides": others, "API": modules}
    return groups + [dict(title=title, open=False, pages=pages) for title, pages in more.items()]


def toctree(group: dict) -> str:  # Markdown
    "A group of the sidebar, for Sphinx: the order of next and previous."
    pages = "\n".join(page for page, *_ in group["pages"])
    return f"```{{toctree}}\n:hidden:\n:caption: {group['title']}\n\n{pages}\n```"


def stage_landing(groups: list[dict], stage: Path) -> None:
    "The landing page: docs/index.md, with pieces of the README."
    readme, findings = ((ROOT / name).read_text() for name in ("README.md", "docs/findings.md"))
    template = (ROOT / "docs" / "index.md").read_text()
    own = rewrite(template, ROOT / "docs" / "index.md", "index.md", stage)
    pieces = {"toctree": "\n\n".join(map(toctree, groups))}
    for name, (text, file) in from_readme(readme, findings).items():
        origin = ROOT / file
        pieces[name] = rewrite(with_provenance(text, origin, ROOT), origin, "index.md", stage)
    (stage / "index.md").write_text(fill(own, pieces))


def stage_pages(stage: Path) -> None:
    "Everything that Sphinx reads, written anew into `stage`."
    shutil.rmtree(stage, ignore_errors=True)
    for folder in ("nbs", "api", "pictures"): (stage / folder).mkdir(parents=True)
    notebooks, order = sections.read_notebooks(ROOT / "nbs")
    for notebook in notebooks: stage_notebook(ROOT / "nbs" / f"{notebook.name}.ipynb", stage)
    library = sections.needed(ROOT / "collapse_nb", sorted((ROOT / "nbs").glob("fig_*.ipynb")))
    parts = sections.parts(notebooks, order, library)
    (stage / "notebooks.md").write_text(reading_order(parts))
    figures = [n for title, _, some in parts if title == sections.FIGURES for n in some]
    stage_gallery(figures, order, stage)
    guides = []
    for path in sorted((ROOT / "docs").glob("*.md")):
        if path.stem == "index": continue
        text = stage_text(path.read_text(), path, path.name, stage)
        guides.append((path.stem, re.search(r"^# (.+)", text, re.M)[1]))
    groups = groups_of(parts, guides, stage_api(stage))
    (stage / "sidebar.json").write_text(json.dumps(groups))
    stage_landing(groups, stage)


def build(out: Path) -> int:  # Sphinx's exit status
    "Stage the pages and run Sphinx on them; a warning is an error."
    from sphinx.cmd.build import main

    from collapse_nb.explorer import write_explorer

    stage_pages(out / "source")
    shutil.rmtree(out / "html", ignore_errors=True)
    write_explorer(ROOT / "figures" / "records", out / "html" / "explorer.html", home="index.html")
    strict = ["-E", "-W", "--keep-going", "-q"]
    status = main(
        [
            "-b",
            "html",
            "-c",
            str(ROOT / "docs"),
            "-d",
            str(out / "doctrees"),
            *strict,
            str(out / "source"),
            str(out / "html"),
        ]
    )
    # what is no page of Sphinx is written into OUT/html before this line
    if status == 0: link_explorer(out / "html")
    return status


if __name__ == "__main__":
    if len(sys.argv) > 2: sys.exit("usage: python docs/build.py [OUT]")
    where = Path(sys.argv[1] if len(sys.argv) == 2 else ROOT / "_docs").resolve()
    status = build(where)
    if status == 0: print(f"The documentation: {where / 'html' / 'index.html'}")
    sys.exit(status)
