"""Build the documentation: `python docs/build.py [OUT]` reads nbs/, docs/ and the docstrings, and writes
OUT/html (default: _docs/html).

Pages are found, not listed: a new notebook or a new docs/*.md appears by itself. Links are rewritten on the
way: to the page of a notebook or of a
Markdown file of docs/, to a copy of a picture, to GitHub for every other file of the repository. A link
that leads nowhere stops the build."""

import ast
import json
import os
import re
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from companion import as_rst  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
GITHUB = "https://github.com/collapse-nb/collapse_nb"
PICTURES = {".png", ".svg", ".jpg"}
GROUPS = [  # names of notebooks, heading, what they are
    (r"index", "Start here", "The table of contents."),
    (
        r"\d",
        "Library",
        "One idea each, and the source of the package. Each runs in under a minute on two CPU cores; nothing "
        "is downloaded.",
    ),
    (
        r"run_",
        "Computing",
        "Entry points for papermill. With the demo preset a loop takes minutes on two CPU cores, "
        "with `-p preset smoke` seconds.",
    ),
    (
        r"fig_|ledger",
        "Figures and findings",
        "Drawn in seconds from figures/records/: what the paper claims, and what our numbers say.",
    ),
    (r"demo_", "Demos", "For Colab or a terminal: one GPU, or a CPU."),
    (r"", "More", "Other notebooks."),
]


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
        if not path.exists() or not path.is_relative_to(root):
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


def words_of(notebook: dict) -> tuple[str, str, int]:
    """Title, the idea (the line after >), and minutes to read: 200 words of text, or 20 lines of code, a
    minute."""
    text = "\n\n".join("".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "markdown")
    code = [
        line for c in notebook["cells"] if c["cell_type"] == "code" for line in c["source"] if line.strip()
    ]
    title, idea = re.search(r"^# (.+)", text, re.M), re.search(r"^> (.+)", text, re.M)
    return (
        title[1] if title else "",
        idea[1] if idea else "",
        max(1, round(len(text.split()) / 200 + len(code) / 20)),
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


def stage_notebook(path: Path, stage: Path) -> tuple[str, str, str, int]:  # name, title, idea, minutes
    """Write a notebook with its links rewritten and its own alternative texts told to MyST-NB. The front
    matter is for nbdev, not for readers."""
    notebook = json.loads(path.read_text())
    notebook["cells"] = [c for c in notebook["cells"] if c["cell_type"] != "raw"]
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = rewrite("".join(cell["source"]), path, f"nbs/{path.name}", stage).splitlines(
                keepends=True
            )
        elif alt := own_alt(cell): cell["metadata"]["mystnb"] = dict(image=dict(alt=alt))
    (stage / "nbs" / path.name).write_text(json.dumps(notebook))
    return path.stem, *words_of(notebook)


def reading_order(rows: list[tuple[str, str, str, int]]) -> str:
    "The page of notebooks: a table and a toctree for each group. Minutes are counted from the text."
    text = [
        "# Notebooks, in reading order",
        "Data flows down this list: a notebook uses only those above it. Minutes are for reading, "
        "at 200 words of text or 20 lines of code a minute; how long a notebook runs is said above its "
        "table.",
    ]
    left = list(rows)
    for pattern, heading, what in GROUPS:
        group, left = (
            [r for r in left if re.match(pattern, r[0])],
            [r for r in left if not re.match(pattern, r[0])],
        )
        if not group: continue
        table = [
            f"| [{name}](nbs/{name}.ipynb) | {title}: {idea.replace('|', '&#124;')} | {minutes} |"
            for name, title, idea, minutes in group
        ]
        tree = [
            "```{toctree}",
            ":hidden:",
            f":caption: {heading}",
            "",
            *(f"{name} <nbs/{name}>" for name, *_ in group),
            "```",
        ]
        text += [
            f"## {heading}",
            what,
            "\n".join(["| notebook | the idea | minutes |", "|---|---|--:|", *table]),
            "\n".join(tree),
        ]
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


def stage_pages(stage: Path) -> None:
    "Everything that Sphinx reads, written anew into `stage`."
    shutil.rmtree(stage, ignore_errors=True)
    for folder in ("nbs", "api", "pictures"): (stage / folder).mkdir(parents=True)
    rows = [stage_notebook(p, stage) for p in sorted((ROOT / "nbs").glob("*.ipynb"))]
    (stage / "notebooks.md").write_text(reading_order(rows))
    modules = [p for p in sorted((ROOT / "collapse_nb").glob("*.py")) if not p.stem.startswith("_")]
    # the order of the notebooks
    modules.sort(key=lambda p: re.search(r"File to edit: (\S+)", p.read_text())[1])
    for path in modules: (stage / "api" / f"{path.stem}.rst").write_text(api_page(path))
    rows = [
        f"| [{p.stem}](api/{p.stem}.rst) | "
        f"{(ast.get_docstring(ast.parse(p.read_text())) or '').replace('|', '&#124;')} |"
        for p in modules
    ]
    tree = ["```{toctree}", ":hidden:", "", *(f"{p.stem} <api/{p.stem}>" for p in modules), "```"]
    order = "In the order of the notebooks that export them."
    (stage / "api.md").write_text(
        "\n".join(
            ["# API, by module", "", order, "", "| module | the idea |", "|---|---|", *rows, "", *tree, ""]
        )
    )
    for path in sorted((ROOT / "docs").glob("*.md")):
        text = rewrite(path.read_text(), path, path.name, stage)
        if path.stem == "index":
            text = text.replace(
                "{pages}", "\n".join(p.stem for p in sorted((ROOT / "docs").glob("*.md")) if p != path)
            )
        (stage / path.name).write_text(text)


def build(out: Path) -> int:  # Sphinx's exit status
    "Stage the pages and run Sphinx on them; a warning is an error."
    from sphinx.cmd.build import main

    from collapse_nb.explorer import write_explorer

    stage_pages(out / "source")
    shutil.rmtree(out / "html", ignore_errors=True)
    write_explorer(ROOT / "figures" / "records", out / "html" / "explorer.html", home="index.html")
    strict = ["-E", "-W", "--keep-going", "-q"]
    return main(
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


if __name__ == "__main__":
    if len(sys.argv) > 2: sys.exit("usage: python docs/build.py [OUT]")
    where = Path(sys.argv[1] if len(sys.argv) == 2 else ROOT / "_docs").resolve()
    status = build(where)
    if status == 0: print(f"The documentation: {where / 'html' / 'index.html'}")
    sys.exit(status)
