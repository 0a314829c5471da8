import csv
import hashlib
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
from conftest import ROOT, heading_id

from collapse_nb.config import load_preset, named_config
from collapse_nb.cost import cost

NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
FIGURES = sorted((ROOT / "figures").glob("*.json"))


def module(name):
    if str(ROOT / "docs") not in sys.path: sys.path.insert(0, str(ROOT / "docs"))
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "The folder of the documentation, built as `make docs` builds it."
    out = tmp_path_factory.mktemp("docs")
    command = [sys.executable, ROOT / "docs" / "build.py", out]
    run = subprocess.run(command, cwd=out, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return out / "html"


@pytest.fixture(scope="module")
def pages(site):
    "{name without .html: text} of what Sphinx wrote: the explorer is tested elsewhere."
    files = [p for p in site.rglob("*.html") if p != site / "explorer.html"]
    return {str(p.relative_to(site).with_suffix("")): p.read_text() for p in files}


def words(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", page)).split())


@pytest.mark.slow
def test_every_notebook_module_and_page_of_docs_is_there(pages):
    names = [f"nbs/{p.stem}" for p in NOTEBOOKS] + [
        f"api/{p.stem}" for p in (ROOT / "collapse_nb").glob("[a-z]*.py")
    ]
    names += [p.stem for p in (ROOT / "docs").glob("*.md")]
    assert set(names) <= set(pages)
    assert "Greedy Selection (Algorithm 1)" in words(pages["nbs/05_selection"])
    tables = pages["notebooks"].split("<article", 1)[1].split("<h2")[1:]
    orders = [re.findall(r'href="nbs/(\d\w+)\.html"', table) for table in tables]
    assert sorted(sum(orders, [])) == [p.stem for p in NOTEBOOKS if p.stem[0].isdigit()]
    assert all(order == sorted(order) for order in orders)


@pytest.mark.slow
def test_parameters_are_told_with_default_and_comment(pages):
    text = words(pages["api/selection"])
    assert (
        "alpha: float = 0.95" in text
        and "first threshold, in units of the points; None: the largest from the start" in text
    )
    assert "Returns: int64 indices [n], in the order chosen" in text
    assert "Kozachenko and Leonenko 1987" in words(pages["api/entropy"])
    # a dataclass's field, from its help text
    assert "AdamW's peak learning rate, cosine to zero" in words(pages["api/config"])
    # names in docstrings are links
    assert 'href="neighbors.html#collapse_nb.neighbors.' in "".join(
        pages[n] for n in pages if n.startswith("api/")
    )
    companion, missing = module("companion"), []
    for name in ("selection", "entropy", "metrics", "neighbors", "cost", "sampling"):
        library, page = importlib.import_module(f"collapse_nb.{name}"), words(pages[f"api/{name}"])
        for each in library.__all__:
            if callable(f := getattr(library, each)) and getattr(f, "__module__", "") == library.__name__:
                missing += [
                    (name, each, c)
                    for c in companion.comments_of(f).values()
                    if words(c.replace("`", "")) not in page and "<" not in c
                ]
    assert not missing


@pytest.mark.slow
def test_a_page_loads_nothing_from_elsewhere(pages):
    for name, page in pages.items():
        loaded = re.findall(
            r"<(?:script|link|img|iframe|source|object)\b[^>]*?"
            r"\b(?:src|href|data)=[\"']?((?:https?:)?//[^\"'> ]*)",
            page,
        )
        assert not loaded, (name, loaded)
    assert "<math" in pages["nbs/04_entropy"]  # formulas are drawn by the browser


@pytest.mark.slow
def test_pictures_have_alternative_texts(pages):
    pictures = [
        (name, i)
        for name, page in pages.items()
        for i in re.findall(r"<img\b[^>]*>", page)
        if "_static/" not in i
    ]
    assert len(pictures) > 20
    assert not [
        (name, i[:200])
        for name, i in pictures
        if not re.search(r'\balt="[^"]{8,}"', i) or re.search(r'alt="[^"]*\.png"', i)
    ]
    said = re.search(r'<img\b[^>]*alt="([^"]*)"', pages["nbs/fig_demo"])[1]
    assert "Frechet distance of samples (classifier features); share of D_n. Horizontal: iteration n" in said


@pytest.mark.slow
def test_links_lead_somewhere(pages):
    "To a page that was built, at an anchor that is there; to GitHub for what is no page."
    for name, page in pages.items():
        for link in re.findall(
            r'<a\b[^>]*?href="([^"]+)"', page.split("<article", 1)[-1].split("</article", 1)[0]
        ):
            if re.match("https?:|mailto:", link): continue
            path, _, anchor = html.unescape(link).partition("#")
            parts = [p for p in (*name.split("/")[:-1], *path.split("/")) if p] if path else name.split("/")
            while ".." in parts: del parts[parts.index("..") - 1:parts.index("..") + 1]
            target = "/".join(parts).removesuffix(".html")
            if "_images" in parts or "_downloads" in parts or target == "explorer": continue
            assert target in pages, (name, link)
            assert not anchor or f'id="{anchor}"' in pages[target], (name, link)
    assert 'href="https://github.com/collapse-nb/collapse_nb/blob/main/settings.ini"' in pages["paper_scale"]
    assert (
        'href="10b_cost.html"' not in pages["paper_scale"]
        and 'href="nbs/10b_cost.html"' in pages["paper_scale"]
    )


def listed(page: str) -> list[tuple[str, str]]:  # page, words
    "What the sidebar of a page leads to."
    found = re.search(r'<nav class="groups".*?</nav>', page, re.S)[0]
    return [(link, words(text)) for link, text in re.findall(r'<a href="([^"]+)"[^>]*>(.*?)</a>', found)]


@pytest.mark.slow
def test_the_sidebar_has_every_page_under_its_title(pages):
    names = {n for n in pages if n not in ("index", "genindex", "py-modindex", "search")}
    home = dict(listed(pages["index"]))
    assert {link.removesuffix(".html") for link in home} == names
    assert home["nbs/04a_farthest.html"] == "04aFarthest points" and home["nbs/ledger.html"] == "The ledger"
    titles = [title for link, title in home.items() if link.startswith("nbs/")]
    assert not [t for t in titles if re.search(r"\d\w?_|fig_|run_", t)]
    groups = re.findall(r"<summary>([\w ]+)<", pages["index"])
    assert [g for g in groups if g in ("The paper", "Figures", "Library", "Tools")] and len(groups) == len(
        set(groups)
    )
    for name in names:
        assert len(listed(pages[name])) == len(home) and pages[name].count('aria-current="page"') == 1, name


@pytest.mark.slow
def test_the_gallery_shows_every_figure(pages):
    "With a picture, a claim, a link to its notebook and to its records."
    cards = re.split(r'<div class="card docutils container">', pages["gallery"])[1:]
    names = [re.search(r'href="nbs/(fig_\w+)\.html"', card)[1] for card in cards]
    assert sorted(names) == [p.stem for p in NOTEBOOKS if p.stem.startswith("fig_")]
    claims = [re.search(r"^> (.+)", text, re.M)[1] for text in map(notebook_text, names)]
    for name, claim, card in zip(names, claims, cards):
        plain = re.sub(r"[`*]", "", claim)
        assert plain in words(card) and '<img alt="Figure: ' in card, name
        for table in records_of(name.removeprefix("fig_")):
            assert f"blob/main/{table}" in card and f"blob/main/{table}" in pages[f"nbs/{name}"], (
                name,
                table,
            )
        assert card.count('class="provenance') == pages[f"nbs/{name}"].count('class="provenance') == 1, name


@pytest.mark.slow
def test_the_landing_page_leads_on(pages):
    article = pages["index"].split("<article", 1)[1].split("</article", 1)[0]
    assert "make demo" in words(article) and "{" not in words(article)
    assert "<img" in article.split("Two commands")[0] and article.count('class="provenance') == 1
    for page in ("findings", "notebooks", "gallery", "parameters", "report"):
        assert f'href="{page}.html"' in article
    before = re.search(r"What we found.*?Two commands", article, re.S)[0]
    assert len(re.findall("<li>", before)) >= 3 or "<!-- found -->" in "".join(PAGES.values())


def notebook_text(name: str) -> str:
    cells = json.loads((ROOT / "nbs" / f"{name}.ipynb").read_text())["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def records_of(stem: str) -> list[str]:
    records = json.loads((ROOT / "figures" / f"{stem}.json").read_text())["sha256"]["records"]
    return [file for file in records if file.endswith(".csv")]


def sha256(file) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "no such file"


@pytest.mark.parametrize("path", FIGURES, ids=lambda p: p.stem)
def test_a_figure_agrees_with_its_records(path):
    "The digests in the JSON beside it are those of the files that are committed."
    again = (
        f"{path.stem} is older than its records, or was changed by hand: make figures, and commit figures/"
    )
    said = json.loads(path.read_text()).get("sha256")
    assert said, again
    assert set(said["pictures"]) == {f"{path.stem}.png", f"{path.stem}.svg"}
    digests = {path.parent / name: digest for name, digest in said["pictures"].items()}
    digests |= {ROOT / name: digest for name, digest in said["records"].items()}
    other = [str(file.relative_to(ROOT)) for file, digest in digests.items() if sha256(file) != digest]
    assert not other, f"{again} ({', '.join(other)})"


def test_every_committed_picture_has_its_json():
    drawn = {p.stem for p in (ROOT / "figures").iterdir() if p.suffix in (".png", ".svg")}
    assert drawn == {p.stem for p in FIGURES}


def test_the_files_that_a_figure_was_drawn_from():
    from collapse_nb.saving import record_files
    names = lambda **about: [p.relative_to(ROOT).as_posix() for p in record_files(about)]
    folder = "figures/records"
    assert names() == names(records="nowhere") == names(run="x", config=dict(seed=1)) == []
    assert names(records=f"{folder}/demo.csv", studies=["demo"]) == [
        f"{folder}/demo-pictures.npz",
        f"{folder}/demo.csv",
    ]
    assert names(records=folder, studies=["digits", "none"], selection="max-entropy.csv") == [
        f"{folder}/digits-pictures.npz", f"{folder}/digits.csv", f"{folder}/max-entropy.csv"]
    claims = f"{folder}/paper_claims.csv"
    assert names(records=f"{folder}/real-sizes.csv", claims=claims) == [claims, f"{folder}/real-sizes.csv"]


def ledger(path, rows, columns=("claim", "title", "figure", "regime", "verdict")):
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(columns)
        table.writerows(rows)
    return path


def test_badges_count_the_verdicts_of_the_ledger(tmp_path):
    gallery = module("gallery")
    rows = [("c1", "t", "one", "paper", "same direction")]
    rows += [("c2", "t", "three", regime, "same direction") for regime in "ab"]
    rows += [("c3", "t", "three", "a", "inconclusive"), ("c4", "t", "against", "a", "opposite")]
    rows += [("c5", "t", "both", "a", "opposite"), ("c5", "t", "both", "b", "same direction")]
    rows += [
        ("c6", "t", "none", "a", "not tested"),
        ("c7", "t", "none", "a", "one seed"),
        ("c8", "t", "", "a", "opposite"),
    ]
    found = gallery.verdicts(ledger(tmp_path / "ledger.csv", rows))
    badges = {figure: gallery.badge(counts) for figure, counts in found.items()}
    assert {figure: words(text) for figure, text in badges.items()} == {
        "one": "same direction", "three": "2 of 3 same direction", "against": "opposite",
        "both": "1 of 2 same direction, 1 opposite", "none": "1 of 2 not tested"}
    looks = {figure: re.search(r'class="badge (\w+)"', text)[1] for figure, text in badges.items()}
    assert looks == {"one": "same", "three": "same", "against": "opposite", "both": "mixed", "none": "quiet"}
    assert 'title="2 same direction, 1 inconclusive"' in badges["three"] and gallery.badge(None) == ""
    columns = ("claim", "title", "figure", "regime", "verdict", "reading")
    readings = [("c1", "t", "one", "a", "opposite", r) for r in ("last", "last three")]
    found = gallery.verdicts(ledger(tmp_path / "readings.csv", readings, columns))
    assert words(gallery.badge(found["one"])) == "opposite"
    older = ledger(
        tmp_path / "older.csv", [("c1", "FID over iterations", "x")], ("claim", "figure", "verdict")
    )
    assert gallery.verdicts(older) == gallery.verdicts(tmp_path / "none.csv") == {}


def test_the_landing_page_takes_its_pieces_from_the_readme():
    from_readme = module("landing").from_readme
    findings = (ROOT / "docs" / "findings.md").read_text()
    pieces = {name: text for name, (text, _) in from_readme(README, findings).items()}
    assert pieces["intro"] and "(figures/" in pieces["picture"] and "make demo" in pieces["commands"]
    block = "<!-- found --> ... <!-- /found --> in docs/findings.md"
    assert pieces["found"], f"the landing page needs numbered findings in the README, or {block}"
    short = "# x\n\n[![b](c)](d)\n\nWords.\n\n![p](figures/p.png)\n\n*Caption.*\n\n"
    short += "1. **A:** a\n   b\n2. **B**\n3. C\n4. D\n"
    assert from_readme(short, "") == dict(
        intro=("Words.", "README.md"), picture=("![p](figures/p.png)\n\n*Caption.*", "README.md"),
        found=("1. **A:** a\n   b\n2. **B**\n3. C", "README.md"), commands=("", "README.md"))
    block = "x\n<!-- found -->\nOne. Two.\n<!-- /found -->\n"
    assert from_readme(short, block)["found"] == ("One. Two.", "docs/findings.md")
    assert from_readme(short + block, "")["found"] == ("One. Two.", "README.md")


def test_a_notebook_finds_its_part():
    "By its name, by what imports it, or by a section of the index that says what a tool is."
    sections = module("sections")
    names = "index ledger 01_a 02_b 02c_new fig_x run_y other".split()
    notebooks = [sections.Notebook(n, n, "", 1) for n in names]
    order = [("02_b", "The library"), ("01_a", "The library"), ("fig_x", "Figures")]
    told = lambda *more: {title: [n.name for n in some] for title, _, some in more}
    found = told(*sections.parts(notebooks, order, {"01_a", "02_b"}))
    assert found == {
        "Start here": ["index"],
        "The paper": ["ledger"],
        "Figures": ["fig_x"],
        "Library": ["01_a", "02_b"],
        "Tools": ["02c_new"],
        "Run": ["run_y"],
        "More": ["other"],
    }
    found = told(*sections.parts(notebooks, [*order, ("01_a", "Tools")], {"01_a"}))
    assert found["Library"] == ["02_b", "02c_new"] and found["Tools"] == ["01_a"]
    library = sections.needed(ROOT / "collapse_nb", [ROOT / "nbs" / "fig_demo.ipynb"])
    assert {"05_selection", "10_loop", "11_plots"} <= library and not {"09b_copies", "12d_cli"} & library
    rows = "## A\n| [x](x.ipynb) | b |\n| x | [y](y.ipynb) |\n## B\n| [x](x.ipynb) | c |"
    assert sections.index_sections(rows) == [("x", "A"), ("x", "B")]


def test_the_explorer_is_linked_where_the_build_made_one(tmp_path):
    link_explorer = module("landing").link_explorer
    for name in ("index", "gallery"): (tmp_path / f"{name}.html").write_text("<p>a</p><!-- explorer -->")
    assert not link_explorer(tmp_path) and "href" not in (tmp_path / "index.html").read_text()
    (tmp_path / "explorer.html").write_text("")
    assert link_explorer(tmp_path)
    assert all(
        'href="explorer.html"' in (tmp_path / f"{name}.html").read_text() for name in ("index", "gallery")
    )


def test_provenance_stands_below_a_figure_and_its_caption():
    below = module("gallery").with_provenance
    findings = ROOT / "docs" / "findings.md"
    text = "![a](../figures/demo.png)\n\n*Caption.*\n\nWords.\n\n![b](../figures/gs.png)\n\n**Bold.**"
    parts = below(text, findings, ROOT).split("\n\n")
    assert [p[:12] for p in parts] == [
        "![a](../figu",
        "*Caption.*",
        ":::{containe",
        "Words.",
        "![b](../figu",
        ":::{containe",
        "**Bold.**",
    ]
    assert (
        "[fig_demo](../nbs/fig_demo.ipynb)" in parts[2]
        and "[JSON with digests](../figures/gs.json)" in parts[5]
    )
    assert below("![a](other.png)", findings, ROOT) == "![a](other.png)"


CUT_OFF = """
const hidden = e => getComputedStyle(e).overflowX != 'visible';
const cut = e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0 && hidden(e);
return {page: document.documentElement.scrollWidth - innerWidth,
        code: [...document.querySelectorAll('article pre, article .highlight')].filter(cut).length,
        wrapped: [...document.querySelectorAll('article div.cell_input pre')].filter(e => {
            const line = parseFloat(getComputedStyle(e).lineHeight), box = getComputedStyle(e);
            const inside = e.clientHeight - parseFloat(box.paddingTop) - parseFloat(box.paddingBottom);
            return Math.round(inside / line) > e.textContent.trimEnd().split('\\n').length}).length};"""


@pytest.mark.slow
def test_no_code_is_cut_off_and_no_page_is_wider_than_its_window(site):
    "In a browser: at 1,300 pixels lines of code are whole; at 400 nothing sticks out."
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service
    from test_jupyterlab import FLAGS, find_browser
    binary, driver_path = find_browser()
    options = Options()
    options.binary_location = binary
    for flag in FLAGS.split(): options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options=options, service=Service(driver_path))
    try:
        for width in (1300, 1100, 400):
            size = dict(width=width, height=900, deviceScaleFactor=1, mobile=width < 500)
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            for page in (
                "index",
                "gallery",
                "findings",
                "nbs/fig_frechet",
                "nbs/11_plots",
                "api/selection",
                "notebooks",
            ):
                driver.get(f"file://{site}/{page}.html")
                seen = driver.execute_script(CUT_OFF)
                assert seen["page"] <= 0 and seen["code"] == 0, (width, page, seen)
                assert width < 1300 or seen["wrapped"] == 0, (width, page, seen)
    finally:
        driver.quit()


def test_rewritten_links(tmp_path):
    build, origin = module("build"), ROOT / "nbs" / "05_selection.ipynb"
    (tmp_path / "pictures").mkdir()
    rewrite = lambda text: build.rewrite(text, origin, "nbs/05_selection.ipynb", tmp_path)
    assert (
        rewrite("[a](04_entropy.ipynb#x) [`b`](../docs/paper_scale.md)")
        == "[a](04_entropy.ipynb#x) [`b`](../paper_scale.md)"
    )
    assert (
        rewrite("[s](../settings.ini)")
        == "[s](https://github.com/collapse-nb/collapse_nb/blob/main/settings.ini)"
    )
    assert (
        rewrite("![d](../figures/demo.png)") == "![d](../pictures/demo.png)"
        and (tmp_path / "pictures" / "demo.png").exists()
    )
    for same in ("[w](https://example.org/x)", "[h](#heading)", "`f[0](nowhere)`", "```\n[a](nowhere)\n```"):
        assert rewrite(same) == same
    for broken in ("[a](nowhere.ipynb)", "[a](../../outside)"):
        with pytest.raises(ValueError, match="05_selection.ipynb.*leads nowhere"): rewrite(broken)


def test_alternative_texts_of_its_own():
    own_alt = module("build").own_alt
    assert own_alt(dict(source=["#| fig-alt: Two lines that cross\n", "plot()"])) == "Two lines that cross"
    assert (
        own_alt(dict(source=["plot()"], outputs=[dict(metadata={"image/png": dict(alt="A cloud")})]))
        == "A cloud"
    )
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
    assert "``tau_0``" in as_rst("`tau_0` * 2", "collapse_nb.selection") and r"\* 2" in as_rst(
        "`tau_0` * 2", "collapse_nb.selection"
    )


def spoken(node) -> str:
    "MathML as one line: msub(c in) for an index; rows and styles left out."
    inside = "".join(f"{spoken(c)} " for c in node if not c.tag.endswith("mspace")).strip() or (
        node.text or ""
    ).strip(" \u2061\n")
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
    bills = [
        cost(
            load_preset(preset, strategy="greedy", paradigm=p),
            train_images_per_second=1000.0,
            sample_images_per_second=1.0,
        )
        for p in ("accumulate", "replace")
    ]
    disk = [f"{bill.disk_bytes / 2**30:.2f}" for bill in bills]
    assert (
        row[2:] == [f"{bills[0].gpu_bytes / 2**30:.2f} GiB", f"{disk[0]} GiB ({disk[1]})"]
        and bills[0].gpu_bytes == bills[1].gpu_bytes
    )
    for bill, n in zip(bills, sampled, strict=True):
        assert bill.iterations == 8 and math.isclose(bill.iteration_hours, trained / 3600 / 1000 + n / 3600)


def test_the_commands_at_paper_scale_are_accepted(capsys):
    (code,) = re.findall(r"```python\n(.+?)```", PAPER_SCALE, re.S)
    exec(code.replace("paper-cifar10", "smoke").replace(", 50)", ", 4)"), {})
    assert re.search(r"\d hours, \d.*GiB on the device", capsys.readouterr().out)
    from collapse_nb.config import parse_more
    for more in re.findall(r'-p more "([^"]+)"', PAPER_SCALE):
        load_preset("paper-cifar10", **parse_more(more))
    for name in re.findall(r"-m (collapse_nb\.\w+)", PAPER_SCALE): assert importlib.util.find_spec(name)
