"""The documentation site: `make docs` builds it into build/docs, with every warning an error."""

import os
import pathlib
import re
import textwrap
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from docutils import nodes
from docutils.parsers.rst import Directive, directives
from docutils.utils import new_document
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import pallas_conv

project = "pallas_conv"
author = "the authors of pallas_conv"
version = release = pallas_conv.__version__
html_title = f"{project} {version}"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["drawings"]
myst_enable_extensions = ["attrs_inline", "colon_fence"]
myst_heading_anchors = 3
highlight_language = "none"  # of blocks that name no language: drawings in text

html_theme = "furo"
html_static_path, html_css_files = ["_static"], ["site.css"]
html_show_copyright = False
html_copy_source = False
copybutton_prompt_text = r"^\$ "
copybutton_prompt_is_regexp = True

# ---------------------------------------------------------------- references

nitpicky = True
# Types of other libraries, and aliases that are spelled out where they matter: there is no page here to link to.
nitpick_ignore_regex = [
    ("py:.*", r"(jax|jaxlib|numpy|np|jnp|equinox|eqx|inox|collections|contextlib|typing)(\..*)?"),
    ("py:.*", r"(pallas_conv\..*)?(Array|Any|Ints|Padding|Implementation|Plan|Target|Report|Row|T)"),
    ("py:.*", r"(sequence|callable|optional|ContextDecorator|Ints|T)"),
]
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
autoclass_content = "both"


# ---------------------------------------------------------------- pages that lie beside the code

ROOT = pathlib.Path(__file__).resolve().parents[1]
BESIDE = {  # files of the repository, and the pages here that include them
    "CHANGELOG.md": "reference/changelog",
    "CONTRIBUTING.md": "reference/contributing",
    "LICENSES.md": "reference/licences",
    "bench/README.md": "reference/measurements",
    "bench/results/h100/README.md": "reference/h100",
    "bench/results/h100/profiles.md": "reference/h100_profiles",
    "bench/results/h200/README.md": "reference/h200",
    "tests/README.md": "reference/tests",
    "tests/emulator/README.md": "reference/emulator",
}
LINK = re.compile(r"\]\((?!\w+:|#|/)([^)#\s]+)")  # ](target, relative


def relinked(text: str, folder: pathlib.Path, page: pathlib.Path) -> str:
    """Markdown that was written in a folder of the repository, with its links as they are from a page of the site."""

    def moved(link: re.Match[str]) -> str:
        target = (folder / link[1]).resolve()
        beside = BESIDE.get(os.path.relpath(target, ROOT))
        target = ROOT / "docs" / f"{beside}.md" if beside else target
        return f"]({os.path.relpath(target, page)}"

    return LINK.sub(moved, text)


def on_source(app: Sphinx, docname: str, source: list[str]) -> None:
    folder = ROOT / "docs" / pathlib.Path(docname).parent
    source[0] = relinked(source[0], folder, folder)


def on_include(app: Sphinx, path: pathlib.Path, parent: str, source: list[str]) -> None:
    """Included files are those of BESIDE, all of whose pages lie in reference/."""
    source[0] = relinked(source[0], (ROOT / "docs" / path).parent, ROOT / "docs" / "reference")


# ---------------------------------------------------------------- docstrings in Markdown


class Markdown(Directive):
    """Parses what is in it as Markdown: our docstrings, and equinox's, are."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        document = new_document("docstring", self.state.document.settings)
        MystParser().parse("\n".join(self.content), document)
        return document.children


NOTE = re.compile(r"^!!! (\w+).*\n((?:\n|    .*\n)+)", re.MULTILINE)  # as equinox writes them


def as_markdown(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Replaces the lines of a docstring by a directive that parses them as Markdown."""
    if lines:
        text = NOTE.sub(
            lambda note: f"**{note[1].capitalize()}:**\n\n{textwrap.dedent(note[2])}", "\n".join([*lines, ""])
        )
        lines[:] = [".. markdown::", "", *textwrap.indent(text, "    ").splitlines(), ""]


# ---------------------------------------------------------------- drawings


class Drawing(SphinxDirective):
    """A drawing of `drawings/`, in the version for the theme that is shown, and a caption below it."""

    required_arguments, has_content = 1, True
    option_spec = {"alt": directives.unchanged_required}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        name, alt = self.arguments[0], self.options["alt"]
        figure = nodes.figure(classes=["drawing"])
        for theme in ("light", "dark"):
            figure += nodes.image(uri=f"/drawings/{name}-{theme}.svg", alt=alt, classes=[f"only-{theme}"])
        caption = nodes.caption()
        self.state.nested_parse(self.content, self.content_offset, caption)
        figure += nodes.caption("", "", *caption.children[0].children) if caption.children else []
        self.env.note_dependency(f"drawings/{name}-light.svg")
        return [figure]


def setup(app: Sphinx) -> None:
    app.add_directive("markdown", Markdown)
    app.add_directive("drawing", Drawing)
    app.connect("autodoc-process-docstring", as_markdown)
    app.connect("source-read", on_source)
    app.connect("include-read", on_include)
