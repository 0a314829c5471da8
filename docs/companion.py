"""What these pages need of Sphinx: comments of parameters, alternative texts of figures, formulas without
scripts, no remote pictures."""

import ast
import dataclasses
import functools
import html
import inspect
import io
import json
import re
import sys
import textwrap
import tokenize
from pathlib import Path
from xml.etree import ElementTree

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from pygments.lexers.special import TextLexer
from sphinx.transforms import SphinxTransform
from sphinx.util import logging

from sections import sidebar

log = logging.getLogger(__name__)


def _signature(obj) -> tuple[ast.AST, dict[int, str], int] | None:
    """Syntax tree, comments by line, and the line of the colon that ends the signature; None for what has
    no source of its own."""
    try: source = textwrap.dedent(inspect.getsource(inspect.unwrap(obj)))
    except (OSError, TypeError): return None
    node, comments, colon, depth, seen = ast.parse(source).body[0], {}, 0, 0, False
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT: comments[token.start[0]] = token.string.lstrip("# ")
        if token.string in ("def", "class"): seen = True
        if token.type == tokenize.OP: depth += (token.string in "([{") - (token.string in ")]}")
        if seen and not colon and token.string == ":" and depth == 0: colon = token.start[0]
    return node, comments, colon


def comments_of(
    obj,  # a function, method, property or class
) -> dict[str, str]:  # parameter or field -> comment; "return" -> what is said of the result
    """The trailing comments of a signature, one parameter a line (docments), or of a dataclass's fields,
    where a field's own help text comes first."""
    if isinstance(obj, property): return comments_of(obj.fget)
    if isinstance(obj, functools.cached_property): return comments_of(obj.func)
    if inspect.isclass(obj) and not dataclasses.is_dataclass(obj):
        return comments_of(obj.__init__) if "__init__" in vars(obj) else {}
    found = _signature(obj)
    if found is None: return {}
    node, comments, colon = found
    if isinstance(node, ast.ClassDef):
        lines = {
            n.target.id: comments.get(n.end_lineno, "") for n in node.body if isinstance(n, ast.AnnAssign)
        }
        said = {
            f.name: f.metadata.get("help") or lines.get(f.name, "") for f in dataclasses.fields(obj) if f.init
        }
    elif isinstance(node, ast.FunctionDef):
        a = node.args
        every = [*a.posonlyargs, *a.args, a.vararg, *a.kwonlyargs, a.kwarg]
        said = {n.arg: comments.get(n.end_lineno, "") for n in every if n and n.end_lineno != colon}
        if node.body[0].lineno > colon: said["return"] = comments.get(colon, "")
    else: return {}
    return {name: comment for name, comment in said.items() if comment}


def as_rst(
    text: str,  # of a docstring or comment: plain words, `code` in backticks
    module: str,  # where it stands: names are looked up there
) -> str:
    """reStructuredText: code as a literal, or as a link where it is a public name of ours; everything else
    as it stands."""
    def code(match):
        obj = getattr(sys.modules.get(module), match[1], None)
        home = sys.modules.get(getattr(obj, "__module__", None) or "")
        ours = home and home.__name__.startswith("collapse_nb.") and match[1] in getattr(home, "__all__", ())
        return rf"\ :py:obj:`~{home.__name__}.{match[1]}`\ " if ours else rf"\ ``{match[1]}``\ "
    parts = re.split(r"(`+[^`]+`+)", text)
    return "".join(
        re.sub(r"`+([^`]+)`+", code, p) if i % 2 else re.sub(r"([\\*_|`])", r"\\\1", p)
        for i, p in enumerate(parts)
    )


def process_docstring(app, what, name, obj, options, lines):
    "autodoc-process-docstring: paragraphs as they are, then the parameters with their comments."
    module = ".".join(name.split(".")[:2])
    lines[:] = [as_rst(line.strip(), module) for line in lines]
    fields = [
        f":{'returns' if k == 'return' else f'param {k}'}: {as_rst(v, module)}"
        for k, v in comments_of(obj).items()
    ]
    if fields: lines[:] = [*lines, "", *fields, ""]


def skip_member(app, what, name, obj, skip, options):
    "autodoc-skip-member: a method or property that says what it returns is documented, docstring or not."
    function = inspect.isfunction(obj) or isinstance(obj, (property, functools.cached_property))
    return False if function and not name.startswith("_") and comments_of(obj) else None


class Pictures(SphinxTransform):
    """Every picture gets an alternative text; a remote one (a badge) becomes its text, so that a page loads
    nothing from elsewhere.

    A figure's own text comes first (`#| fig-alt:` in its cell, or `alt` in the output's metadata, see
    build.py). Without one it is the heading
    above and the first sentence of the last paragraph before; in a figure notebook that is the title and the
    line that says what is claimed."""

    default_priority = 420

    def apply(self, **kwargs):
        titles, claim, said = [], "", ""
        for node in list(self.document.findall()):
            if isinstance(node, nodes.title): titles, said = [*titles, node.astext()], ""
            elif isinstance(node, nodes.block_quote): claim = claim or node.astext()
            elif isinstance(node, nodes.paragraph): said = said if _is_badge(node) else node.astext()
            elif isinstance(node, nodes.image):
                if re.match("https?:", node["uri"]):
                    node.replace_self(nodes.Text(node.get("alt") or node["uri"]))
                elif not node.get("alt"):
                    words = (
                        claim
                        if len(titles) == 1 and claim
                        else re.split(r"(?<=[.:?!])\s", " ".join(said.split()))[0].rstrip(":")
                    )
                    node["alt"] = ": ".join(part for part in (*titles[-1:], words) if part)


def _is_badge(paragraph: nodes.paragraph) -> bool:
    return any(
        re.match("https?:", i["uri"]) for i in paragraph.findall(nodes.image)
    ) or paragraph.astext().startswith("On Colab, first run")


ACCENTS = "^~¯ˆˇ˘˙¨→ˉ˜"


def as_mathml(
    tex: str,  # a formula, without dollar signs
    block: bool = False,  # on a line of its own
) -> str:
    """MathML of docutils' converter, which here lacks \\big and digits without braces, and sets an index
    below an accented letter. Raises MathError."""
    tex = re.sub(r"\\([bB]igg?)([(\[)\]])", lambda m: rf"\{m[1]}{'l' if m[2] in '([' else 'r'}{m[2]}", tex)
    tex = re.sub(r"\\([td]?frac) ?(\d)(\d)", r"\\\1{\2}{\3}", tex)
    named = re.sub(
        r"&(?!lt;|gt;|amp;)\w+;", lambda m: html.unescape(m[0]), latex2mathml.tex2mathml(tex, as_block=block)
    )
    tree = ElementTree.fromstring(re.sub(r' xmlns="[^"]*"', "", named))
    for node in list(tree.iter("munderover")):
        base, index, accent = node
        if accent.tag == "mo" and (accent.text or "").strip() in ACCENTS:
            node.tag, node[:] = "msub", [ElementTree.Element("mover"), index]
            node[0].extend([base, accent])
    tree.set("xmlns", "http://www.w3.org/1998/Math/MathML")
    return ElementTree.tostring(tree, encoding="unicode")


def visit_math(self, node):
    "MathML, which browsers draw themselves."
    block = isinstance(node, nodes.math_block)
    try: drawn = as_mathml(node.astext(), block)
    except MathError as e:
        log.warning("no MathML for %r: %s", node.astext(), e, location=node)
        drawn = f"<code>{self.encode(node.astext())}</code>"
    self.body.append(f'<div class="math">{drawn}</div>' if block else drawn)
    raise nodes.SkipNode


def read_groups(app):
    "builder-inited: the groups of the sidebar, as build.py wrote them."
    app.config.sidebar_groups = json.loads((Path(app.srcdir) / "sidebar.json").read_text())


def put_sidebar(app, page, template, context, doctree):
    "html-page-context: our sidebar. The theme's is a tree of all headings, and takes half of the build."
    context["toctree"] = lambda **options: ""
    context["sidebar"] = sidebar(app.config.sidebar_groups, page)


def setup(app):
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math, None))
    # a diagram for JupyterLab and GitHub, drawn by a script; as text it can be read, too
    app.add_lexer("mermaid", TextLexer)
    app.add_transform(Pictures)
    app.connect("autodoc-process-docstring", process_docstring)
    app.add_config_value("sidebar_groups", [], "")
    app.connect("builder-inited", read_groups)
    app.connect("html-page-context", put_sidebar, priority=400)  # before the theme asks for it
    app.connect("autodoc-skip-member", skip_member)
    return dict(version="1", parallel_read_safe=True, parallel_write_safe=True)
