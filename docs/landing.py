"""What the landing page takes from the README, so that nothing is said twice."""

import re
from pathlib import Path


def _block(name: str, *texts: str) -> str:
    "What stands between <!-- NAME --> and <!-- /NAME --> in the first text that has it."
    for text in texts:
        if found := re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", text, re.S): return found[1].strip()
    return ""


def from_readme(
    readme: str,
    findings: str,  # docs/findings.md
) -> dict[str, tuple[str, str]]:  # piece -> Markdown, the file that its links are meant in
    """Pieces of the landing page; an empty one where the README has nothing of that kind.

    intro: the first paragraph. picture: the first picture of figures/, with its caption. found: a block
    between <!-- found --> and <!-- /found --> in docs/findings.md or the README, else the first three
    numbered findings. commands: the first block of commands with `make demo`."""
    paragraphs = readme.split("\n\n")
    words = [p for p in paragraphs if re.match(r"[A-Za-z*]", p)]
    shown = [i for i, p in enumerate(paragraphs) if re.match(r"!\[[^\]]*\]\(figures/", p)]
    picture = []
    if shown:
        picture = paragraphs[shown[0] : shown[0] + 2]
        if not re.match(r"\*[^*]", picture[-1]): del picture[1:]
    numbered = re.findall(r"^\d\. .+(?:\n {2,}.+)*", readme, re.M)[:3]
    commands = re.search(r"^```\w*\n[^`]*make demo.*?^```$", readme, re.M | re.S)
    own = _block("found", findings)
    found = own or _block("found", readme) or "\n".join(numbered)
    return dict(
        intro=("\n\n".join(words[:1]), "README.md"),
        picture=("\n\n".join(picture), "README.md"),
        found=(found, "docs/findings.md" if own else "README.md"),
        commands=(commands[0] if commands else "", "README.md"),
    )


def fill(template: str, pieces: dict[str, str]) -> str:
    "The template with each {piece} in place."
    for name, text in pieces.items(): template = template.replace(f"{{{name}}}", text)
    return template


def link_explorer(
    html: Path,  # the folder of the built pages
) -> bool:  # whether there is an explorer to lead to
    "The landing page and the gallery lead to explorer.html where the build has put it beside them."
    if not (html / "explorer.html").is_file(): return False
    link = (
        '<p class="explorer"><a href="explorer.html">Open the explorer</a><span>Slide through the iterations '
        "of our runs, two strategies side by side: samples over what they may copy, and numbers.</span></p>"
    )
    for name in ("index.html", "gallery.html"):
        page = html / name
        page.write_text(page.read_text().replace("<!-- explorer -->", link))
    return True
