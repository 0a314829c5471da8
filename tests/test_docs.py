import html
import importlib.util
import json
import math
import os
import re
import shlex
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from conftest import ROOT

from collapse_nb.config import load_preset, named_config
from collapse_nb.cost import cost

NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))


def module(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    "The documentation, built as `make docs` builds it; {name without .html: text}."
    out = tmp_path_factory.mktemp("docs")
    run = subprocess.run([sys.executable, ROOT / "docs" / "build.py", out], cwd=out, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return {str(p.relative_to(out / "html").with_suffix("")): p.read_text() for p in (out / "html").rglob("*.html")}


def words(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", page)).split())


@pytest.mark.slow
def test_every_notebook_module_and_page_of_docs_is_there(pages):
    names = [f"nbs/{p.stem}" for p in NOTEBOOKS] + [f"api/{p.stem}" for p in (ROOT / "collapse_nb").glob("[a-z]*.py")]
    names += [p.stem for p in (ROOT / "docs").glob("*.md")]
    assert set(names) <= set(pages)
    assert "Greedy Selection (Algorithm 1)" in words(pages["nbs/05_selection"])
    order = [pages["notebooks"].index(f'href="nbs/{p.stem}.html"') for p in NOTEBOOKS if p.stem[0].isdigit()]
    assert order == sorted(order)


@pytest.mark.slow
def test_parameters_are_told_with_default_and_comment(pages):
    text = words(pages["api/selection"])
    assert "alpha: float = 0.95" in text and "first threshold, in units of the points; None: the largest from the start" in text
    assert "Returns: int64 indices [n], in the order chosen" in text
    assert "Kozachenko and Leonenko 1987" in words(pages["api/entropy"])
    assert "AdamW's peak learning rate, cosine to zero" in words(pages["api/config"])  # a dataclass's field, from its help text
    assert 'href="neighbors.html#collapse_nb.neighbors.' in "".join(pages[n] for n in pages if n.startswith("api/"))  # names in docstrings are links
    companion, missing = module("companion"), []
    for name in ("selection", "entropy", "metrics", "neighbors", "cost", "sampling"):
        library, page = importlib.import_module(f"collapse_nb.{name}"), words(pages[f"api/{name}"])
        for each in library.__all__:
            if callable(f := getattr(library, each)) and getattr(f, "__module__", "") == library.__name__:
                missing += [(name, each, c) for c in companion.comments_of(f).values() if words(c.replace("`", "")) not in page and "<" not in c]
    assert not missing


@pytest.mark.slow
def test_a_page_loads_nothing_from_elsewhere(pages):
    for name, page in pages.items():
        loaded = re.findall(r"<(?:script|link|img|iframe|source|object)\b[^>]*?\b(?:src|href|data)=[\"']?((?:https?:)?//[^\"'> ]*)", page)
        assert not loaded, (name, loaded)
    assert "<math" in pages["nbs/04_entropy"]  # formulas are drawn by the browser


@pytest.mark.slow
def test_pictures_have_alternative_texts(pages):
    pictures = [(name, i) for name, page in pages.items() for i in re.findall(r"<img\b[^>]*>", page) if "_static/" not in i]
    assert len(pictures) > 20
    assert not [(name, i[:200]) for name, i in pictures if not re.search(r'\balt="[^"]{8,}"', i) or re.search(r'alt="[^"]*\.png"', i)]
    said = re.search(r'<img\b[^>]*alt="([^"]*)"', pages["nbs/fig_demo"])[1]
    assert "Frechet distance of E_n (classifier features); share of D_n. Horizontal: iteration n" in said


@pytest.mark.slow
def test_links_lead_somewhere(pages):
    "To a page that was built, at an anchor that is there; to GitHub for what is no page."
    for name, page in pages.items():
        for link in re.findall(r'<a\b[^>]*?href="([^"]+)"', page.split("<article", 1)[-1].split("</article", 1)[0]):
            if re.match("https?:|mailto:", link): continue
            path, _, anchor = html.unescape(link).partition("#")
            parts = [p for p in (*name.split("/")[:-1], *path.split("/")) if p] if path else name.split("/")
            while ".." in parts: del parts[parts.index("..") - 1:parts.index("..") + 1]
            target = "/".join(parts).removesuffix(".html")
            if "_images" in parts or "_downloads" in parts: continue
            assert target in pages, (name, link)
            assert not anchor or f'id="{anchor}"' in pages[target], (name, link)
    assert 'href="https://github.com/collapse-nb/collapse_nb/blob/main/settings.ini"' in pages["paper_scale"]
    assert 'href="10b_cost.html"' not in pages["paper_scale"] and 'href="nbs/10b_cost.html"' in pages["paper_scale"]


def test_rewritten_links(tmp_path):
    build, origin = module("build"), ROOT / "nbs" / "05_selection.ipynb"
    (tmp_path / "pictures").mkdir()
    rewrite = lambda text: build.rewrite(text, origin, "nbs/05_selection.ipynb", tmp_path)
    assert rewrite("[a](04_entropy.ipynb#x) [`b`](../docs/paper_scale.md)") == "[a](04_entropy.ipynb#x) [`b`](../paper_scale.md)"
    assert rewrite("[s](../settings.ini)") == "[s](https://github.com/collapse-nb/collapse_nb/blob/main/settings.ini)"
    assert rewrite("![d](../figures/demo.png)") == "![d](../pictures/demo.png)" and (tmp_path / "pictures" / "demo.png").exists()
    for same in ("[w](https://example.org/x)", "[h](#heading)", "`f[0](nowhere)`", "```\n[a](nowhere)\n```"): assert rewrite(same) == same
    for broken in ("[a](nowhere.ipynb)", "[a](../../outside)"):
        with pytest.raises(ValueError, match="05_selection.ipynb.*leads nowhere"): rewrite(broken)


def test_alternative_texts_of_its_own():
    own_alt = module("build").own_alt
    assert own_alt(dict(source=["#| fig-alt: Two lines that cross\n", "plot()"])) == "Two lines that cross"
    assert own_alt(dict(source=["plot()"], outputs=[dict(metadata={"image/png": dict(alt="A cloud")})])) == "A cloud"
    assert own_alt(dict(source=["plot()"], outputs=[dict(metadata={}), dict()])) is None


def test_comments_of_signatures():
    from collapse_nb import selection
    comments_of, as_rst = module("companion").comments_of, module("companion").as_rst

    def one(x, y=1):  # the result
        return x  # not of the signature

    def two(
        x: tuple = (1, 2),  # a pair
        *args,
        key=None,  # a key
    ) -> dict:
        return x

    assert comments_of(one) == {"return": "the result"}
    assert comments_of(two) == {"x": "a pair", "key": "a key"}
    assert comments_of(selection.SelectionInfo)["swaps"] == "points exchanged after greedy (max_entropy)"
    assert comments_of(selection.greedy)["return"] == "int64 indices [n], in the order chosen"
    assert ":py:obj:`~collapse_nb.neighbors.nearest`" in as_rst("see `nearest`", "collapse_nb.selection")
    assert "``tau_0``" in as_rst("`tau_0` * 2", "collapse_nb.selection") and r"\* 2" in as_rst("`tau_0` * 2", "collapse_nb.selection")


def spoken(node) -> str:
    "MathML as one line: msub(c in) for an index; rows and styles left out."
    inside = "".join(f"{spoken(c)} " for c in node if not c.tag.endswith("mspace")).strip() or (node.text or "").strip(" \u2061\n")
    tag = node.tag.rpartition("}")[2]
    return f"{tag}({inside})" if tag in ("mfrac", "msub", "msup", "mover", "munderover") else inside


@pytest.mark.parametrize("tex, words", [
    (r"\hat H_k", "msub(mover(H ˆ) k)"),
    (r"\sum_{i=1}^{B}", "munderover(∑ i = 1 B)"),
    (r"\tfrac14\sigma", "mfrac(1 4) σ"),
    (r"F\big(c_\text{in}\,x\big)", "F ( msub(c in) x )"),
    (r"\lVert a\rVert^2 < 1", "‖ a msup(‖ 2) < 1"),
])
def test_formulas(tex, words):
    assert spoken(ElementTree.fromstring(module("companion").as_mathml(tex, True))) == words


README = (ROOT / "README.md").read_text()
PAGES = {p.name: p.read_text() for p in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))}


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 120 and len(README.encode()) <= 9 * 1024
    assert len(re.findall(r"^\d\. \*\*", README, re.M)) == 5


def heading_id(heading: str) -> str:
    "As GitHub makes it."
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_anchors_lead_to_headings():
    for name, text in PAGES.items():
        for page, anchor in re.findall(r"\]\((?:docs/)?(\w*\.?m?d?)#([^)]+)\)", text):
            headings = re.findall(r"^#+ (.+)", PAGES[page or name], re.M)
            assert anchor in map(heading_id, headings), (name, page, anchor)


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "library.md"])
def test_code_runs_as_it_is_written(page, tmp_path):
    "With the preset smoke for demo, in a folder of its own."
    blocks = re.findall(r"```python\n(.+?)```", PAGES[page], re.S)
    assert blocks
    for code in blocks:
        code = code.replace('load_preset("demo")', 'load_preset("smoke")')
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
                              env=os.environ | dict(PYTHONPATH=str(ROOT)))
        assert done.returncode == 0, done.stderr


def commands(first: str) -> list[list[str]]:
    "The command lines of the README and of docs that begin so, as a shell splits them."
    lines = [line for text in PAGES.values() for line in text.splitlines() if line.startswith(first + " ")]
    return [shlex.split(line, comments=True) for line in lines]


def test_commands_are_accepted():
    "Notebooks take the parameters that they are given; the command line knows its options."
    from collapse_nb.cli import parser
    for _, *arguments in commands("collapse-nb"):
        parser().parse_args(arguments)
    asked = commands("papermill")
    assert len(asked) > 5
    for _, notebook, out, *options in asked:
        cells = json.loads((ROOT / notebook).read_text())["cells"]
        (known,) = ["".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", [])]
        given = dict(zip(options[1::3], options[2::3], strict=True))
        assert out.endswith(".ipynb") and set(options[::3]) <= {"-p"}
        assert set(given) <= set(re.findall(r"^(\w+) = ", known, re.M)), (notebook, given)
        if "run_loop" in notebook and "plugins" not in given and "loners" not in given.values():
            named_config(**given)


PAPER_SCALE = (ROOT / "docs" / "paper_scale.md").read_text()


@pytest.mark.parametrize("preset", ["paper-cifar10", "paper-ffhq", "paper-mnist", "paper-mnist-cfg"])
def test_the_table_at_paper_scale_is_what_cost_says(preset):
    "And in brackets: under replace."
    row = re.search(rf"^\| {preset} \| (.+) \|$", PAPER_SCALE, re.M)[1].split(" | ")
    trained, *sampled = (int(n.replace(",", "")) for cell in row[:2] for n in re.findall(r"[\d,]+", cell))
    bills = [cost(load_preset(preset, strategy="greedy", paradigm=p), train_images_per_second=1000.0, sample_images_per_second=1.0)
             for p in ("accumulate", "replace")]
    disk = [f"{bill.disk_bytes / 2**30:.2f}" for bill in bills]
    assert row[2:] == [f"{bills[0].gpu_bytes / 2**30:.2f} GiB", f"{disk[0]} GiB ({disk[1]})"] and bills[0].gpu_bytes == bills[1].gpu_bytes
    for bill, n in zip(bills, sampled, strict=True):
        assert bill.iterations == 8 and math.isclose(bill.iteration_hours, trained / 3600 / 1000 + n / 3600)


def test_the_commands_at_paper_scale_are_accepted(capsys):
    (code,) = re.findall(r"```python\n(.+?)```", PAPER_SCALE, re.S)
    exec(code.replace("paper-cifar10", "smoke").replace(", 50)", ", 4)"), {})
    assert re.search(r"\d hours, \d.*GiB on the device", capsys.readouterr().out)
    from collapse_nb.config import parse_more
    for more in re.findall(r'-p more "([^"]+)"', PAPER_SCALE): load_preset("paper-cifar10", **parse_more(more))
    for name in re.findall(r"-m (collapse_nb\.\w+)", PAPER_SCALE): assert importlib.util.find_spec(name)
