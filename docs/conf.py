"""Sphinx settings. docs/build.py puts the pages together and calls Sphinx with them; nothing is executed
and nothing is fetched."""

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

project, author = "collapse_nb", "The collapse_nb maintainers"
version = release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
copyright = "The collapse_nb maintainers, Apache-2.0"

extensions = ["sphinx.ext.autodoc", "myst_nb", "companion"]
nb_execution_mode = "off"  # pages show the outputs that are committed
nb_ipywidgets_js = {}  # no output is a widget; the default would load scripts from elsewhere
nb_merge_streams = True
myst_enable_extensions = ["colon_fence", "dollarmath", "fieldlist"]
myst_heading_anchors = 3
html_math_renderer = "mathml"  # drawn by the browser itself, see companion.py
highlight_language = "none"
smartquotes = False  # shapes such as [N, ...] stay as they are typed

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # torch's are not ours
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 90
python_use_unqualified_type_names = True
add_module_names = False

html_theme = "furo"
templates_path = [str(ROOT / "docs" / "templates")]
html_static_path = [str(ROOT / "docs" / "static")]
html_css_files = ["site.css"]
html_title = "collapse_nb"
html_show_sourcelink = False
html_copy_source = False
html_theme_options = dict(
    source_repository="https://github.com/collapse-nb/collapse_nb/", top_of_page_buttons=[], footer_icons=[]
)
