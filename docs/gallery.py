"""The gallery of figures: what each claims, whether our numbers agree, and what it was drawn from."""

import csv
import json
import os
import re
from collections import Counter
from pathlib import Path

from PIL import Image

from sections import Notebook

GITHUB = "https://github.com/collapse-nb/collapse_nb"
LEDGER_COLUMNS = {"claim", "title", "figure", "regime", "verdict"}
SAME = "same direction"
LOOKS = {SAME: "same", "opposite": "opposite"}  # verdict -> class of its badge; others are quiet


def verdicts(ledger: Path) -> dict[str, Counter]:  # figure -> verdict -> how often
    "What the ledger says of each figure; nothing where it has no such columns."
    if not ledger.is_file(): return {}
    found = {}
    with ledger.open(newline="") as file:
        table = csv.DictReader(file)
        if not LEDGER_COLUMNS <= set(table.fieldnames or ()): return {}
        for row in table:
            if row.get("reading", "last") == "last":  # another reading of the same rows is no second verdict
                found.setdefault(row["figure"], Counter())[row["verdict"]] += 1
    return {figure: counts for figure, counts in found.items() if figure}


def badge(
    counts: Counter | None,  # verdict -> how often
) -> str:  # HTML; empty without a verdict
    "One verdict as it stands; of several how many say the same direction, and how many the opposite."
    if not counts: return ""
    total, every = counts.total(), ", ".join(f"{n} {verdict}" for verdict, n in counts.most_common())
    kind = SAME if counts[SAME] else counts.most_common(1)[0][0]
    words, look = kind if total == 1 else f"{counts[kind]} of {total} {kind}", LOOKS.get(kind, "quiet")
    if kind != "opposite" and counts["opposite"]:
        words, look = f"{words}, {counts['opposite']} opposite", "mixed"
    elif 2 * counts[kind] <= total: look = "quiet"  # no majority
    return f'<span class="badge {look}" title="{every}">{words}</span>'


def _commit(name: str) -> str:  # Markdown
    "A commit, short, with a link; changes that were not committed have none."
    digits, _, dirty = name.partition("-")
    return f"{digits[:7]}-{dirty}" if dirty else f"[{digits[:7]}]({GITHUB}/commit/{digits})"


def provenance(
    stem: str,  # of the picture: frechet
    origin: Path,  # the file that the words stand in
    root: Path,
) -> str:  # Markdown, with links as they are meant in `origin`; empty for a picture without a JSON
    "What a figure was drawn from: notebook, tables, commits of the runs; and the files that say so."
    file = root / "figures" / f"{stem}.json"
    if not file.is_file(): return ""
    about, up = json.loads(file.read_text()), Path(os.path.relpath(root, origin.parent)).as_posix()
    records = about.get("sha256", {}).get("records", {})
    tables = [f for f in records if f.endswith(".csv") and (root / f).is_file()]
    source = f"nbs/fig_{stem}.ipynb"
    said = []
    if (root / source).is_file(): said.append(f"Notebook: [fig_{stem}]({up}/{source})")
    if tables: said.append("Records: " + ", ".join(f"[{Path(f).name}]({up}/{f})" for f in tables))
    if commits := about.get("commits"):
        said.append("Runs of commit" + "s" * (len(commits) > 1) + " " + ", ".join(map(_commit, commits)))
    said.append(f"Files: [SVG]({up}/figures/{stem}.svg), [JSON with digests]({up}/figures/{stem}.json)")
    return "\n".join([":::{container} provenance", ". ".join(said) + ".", ":::"])


def with_provenance(text: str, origin: Path, root: Path) -> str:  # Markdown
    "Markdown whose pictures of figures/ are followed, after their caption, by what they were drawn from."
    paragraphs, out, waiting = text.split("\n\n"), [], ""
    for paragraph, following in zip(paragraphs, [*paragraphs[1:], ""]):
        out.append(paragraph)
        shown = re.fullmatch(r"!\[[^\]]*\]\((?:\.\./)?figures/(\w+)\.png\)\s*", paragraph)
        if shown: waiting = provenance(shown[1], origin, root)
        has_caption = shown and re.match(r"\*[^*]", following)
        if waiting and not has_caption:
            out.append(waiting)
            waiting = ""
    return "\n\n".join(out)


def thumbnail(picture: Path, out: Path, width: int = 900) -> None:
    "The upper part of a picture, five wide and three high, small enough for a page of them."
    image = Image.open(picture).convert("RGB")
    height = min(image.height, image.width * 3 // 5)
    part = image.crop((0, 0, image.width, height))
    part = part.resize((width, round(width * height / image.width)), Image.Resampling.LANCZOS)
    part.quantize(64, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(out, optimize=True)


def card(notebook: Notebook, counts: Counter | None, origin: Path, root: Path) -> str:  # Markdown
    "A figure's card, with links as they are meant in `origin`."
    stem = notebook.name.removeprefix("fig_")
    page, shown = f"../nbs/{notebook.name}.ipynb", (root / "figures" / f"{stem}.png").is_file()
    picture = f"[![Figure: {notebook.title}](../figures/{stem}.png)]({page})"
    return "\n\n".join(
        [
            "::::{container} card",
            picture if shown else "*Not drawn yet.*",
            f"[{notebook.title}]({page}) {badge(counts)}",
            notebook.idea,
            provenance(stem, origin, root),
            "::::",
        ]
    )


def gallery_page(
    notebooks: list[Notebook],  # of figures, in order
    sections: list[tuple[str, str]],  # as `sections.index_sections`
    root: Path,
) -> str:  # Markdown, with links as they are meant in docs/gallery.md
    "A card for each figure, under those headings of the index that list nothing but figures."
    origin, found = root / "docs" / "gallery.md", verdicts(root / "figures" / "records" / "ledger.csv")
    mixed = {heading for name, heading in sections if not name.startswith("fig_")}
    homes = {name: heading for name, heading in sections if heading not in mixed}
    out = [
        "# All figures",
        "Each is drawn by a notebook from small tables of records. A card leads to the notebook, which says "
        "what the paper claims and prints what our numbers say of it.",
        "<!-- explorer -->",
    ]
    if found: out.append("Badges count the [ledger](../nbs/ledger.ipynb)'s verdicts on a figure's claims.")
    for heading in dict.fromkeys([*homes.values(), "More"]):
        mine = [n for n in notebooks if homes.get(n.name, "More") == heading]
        if not mine: continue
        cards = [card(n, found.get(n.name.removeprefix("fig_")), origin, root) for n in mine]
        out += [f"## {heading}", ":::::{container} gallery", *cards, ":::::"]
    return "\n\n".join(out) + "\n"
