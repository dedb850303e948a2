"""How Sphinx builds the site: `make docs`.

Pages about layers, the reference and the interactive page's functions are written from the code
when a build begins, into folders that git ignores.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pathlib
import posixpath
import re
import sys
import tomllib
import urllib.parse
from typing import Any

import flax.nnx
from docutils import nodes
from sphinx import addnodes
from sphinx.util.nodes import make_refnode

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import tracetorch_jax  # noqa: E402
from generate import (  # noqa: E402
    charts,
    colors,
    family,
    figures,
    javascript,
    network,
    pages,
    reference,
    signatures,
)

project = "tracetorch_jax"
copyright = "the authors of tracetorch_jax, MIT licence"
release = version = tracetorch_jax.__version__
language = "en-GB"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinxext.opengraph",
    "generate.mathematics",
]
exclude_patterns = ["_build", "generate", "tutorials/data"]
html_theme = "furo"
html_title = "tracetorch_jax"
html_static_path = ["_static", "images/preview.png"]
html_css_files = ["interactive/colors.css", "site.css"]
html_copy_source = False
# It would be fetched, which browsers refuse to pages of a folder.
html_show_search_summary = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}

# What a link to a page shows elsewhere. Pictures are found by the site's address only.
with (HERE.parent / "pyproject.toml").open("rb") as file:
    ogp_site_url = tomllib.load(file)["project"]["urls"]["Documentation"]
ogp_image = "_static/preview.png"
ogp_social_cards = {"enable": False}
# A membrane potential that crosses its threshold. Within the page, since a page that is left while
# it loads a file of an icon reports a failed request.
ICON = f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><path
d="M2 28Q12 24 16 6L18 28Q26 25 30 16" fill="none" stroke="{colors.POSITIVE}" stroke-width="4"
stroke-linejoin="round"/></svg>"""

# The tutorials run when the site is built, with the library of this checkout. Their output is kept
# until the library, a tutorial, its data or the style of its pictures changes. What a tutorial
# prints on stderr, warnings too, is an error of the build.
STYLE = HERE / "generate/matplotlibrc"
os.environ["MATPLOTLIBRC"] = str(STYLE)
paths = [str(HERE.parent), os.environ.get("PYTHONPATH", "")]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
used = [STYLE, *(HERE.parent / "tracetorch_jax").rglob("*.py")]
used += (HERE / "tutorials/data").iterdir()
CODE = b"".join(path.read_bytes() for path in sorted(used))
nb_execution_mode = "cache"
nb_execution_cache_path = str(
    HERE / "_build/tutorials" / hashlib.sha256(CODE).hexdigest()[:16]
)
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_output_stderr = "error"
nb_merge_streams = True

myst_enable_extensions = [
    "colon_fence",
    "deflist",
    "attrs_block",
    "attrs_inline",
    "dollarmath",
]
myst_heading_anchors = 4
copybutton_prompt_text = ">>> |... "
copybutton_prompt_is_regexp = True

nitpicky = True
default_role = "py:obj"
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 72
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Attributes", "params_style")]
napoleon_use_rtype = False
napoleon_preprocess_types = False


_SHORT_LINK = r":py:obj:`\1 <tracetorch_jax.\1>`"


def literal_blocks(
    app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """Indented lines of a docstring's text are code, as they are in `help`."""
    text = reference.quote_arguments("\n".join(lines), _arguments(what, thing))
    text = re.sub(r"(?<![`:\w])`tracetorch_jax\.([\w.]+)`(?!`)", _SHORT_LINK, text)
    lines[:] = text.split("\n")
    found: list[str] = []
    inside = False
    for number, line in enumerate(lines):
        if line.startswith((":", ".. rubric")):  # arguments and examples follow
            found += lines[number:]
            break
        starts = line.startswith("    ") and not (found and found[-1].strip())
        if starts and not inside and not _in_list(found):
            found += [".. code-block:: python", ""]
            inside = True
        elif line.strip() and not line.startswith("    "):
            inside = False
        found.append(line)
    lines[:] = found


def _arguments(what: str, thing: Any) -> set[str]:
    if what not in ("class", "function", "method"):
        return set()
    return set(signatures.arguments(thing))


def _in_list(lines: list[str]) -> bool:
    """Whether indented lines would go on with the item of a list or a directive."""
    before = next((line for line in reversed(lines) if line.strip()), "")
    starts = re.match(r" *(- |\* |\.\. |>>> )", before)
    return bool(starts) or before.rstrip().endswith("::")


def our_signature(
    app: Any,
    what: str,
    name: str,
    thing: Any,
    options: Any,
    arguments: str,
    returned: str,
) -> tuple[str, str | None] | None:
    """Functions with types as the code writes them; classes without, which say them in words."""
    if not name.startswith("tracetorch_jax."):
        return None
    if what == "class":
        return signatures.untyped(thing), None
    return signatures.typed(thing) if what in ("function", "method") else None


def run_on(app: Any, domain: str, kind: str, content: Any) -> None:
    """Lists of many arguments without types are one paragraph, not a line for each."""
    for lists in content.parent.findall(addnodes.desc_parameterlist):
        typed = any(
            len(argument) > 1 and ":" in argument.astext() for argument in lists
        )
        if kind == "class" and not typed and lists.parent.parent is content.parent:
            lists["multi_line_parameter_list"] = False


def prepare(app: Any, document: str, content: list[str]) -> None:
    """Links to other files of the repository, and pictures that pages draw themselves."""
    generated = document in pages.SOURCES or document.startswith(
        ("family/", "reference/")
    )
    if not generated:
        content[0] = pages.relink(content[0], f"docs/{document}.md")
        if app.config.pictures:
            content[0] = figures.draw(content[0], document, HERE / "figures")
            content[0] = charts.draw(content[0], HERE / "figures")


def find_our_own(app: Any, env: Any, node: Any, content: Any) -> Any:
    """What docstrings call by a short name: `functional.split` or, in its module, `split`.

    Other names in single backticks are arguments and names of JAX and Flax: shown as code.
    """
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"].removeprefix("tracetorch_jax.")
    objects = env.domains["py"].objects
    within = (
        (node.get("py:module") or "")
        .removeprefix("tracetorch_jax")
        .strip(".")
        .split(".")
    )
    inner = ".".join((*within, target)).strip(".")
    places = [f"tracetorch_jax.{inner}", f"tracetorch_jax.{target}"]
    if target[:1].isupper():
        # A class of another module; of the two front ends, linen's.
        others = [name for name in objects if name.endswith(f".{target}")]
        places += others if len(others) == 1 else [f"tracetorch_jax.snn.{target}"]
    for place in places:
        if place in objects and node["reftype"] != "class":
            return make_refnode(
                app.builder,
                node["refdoc"],
                objects[place].docname,
                objects[place].node_id,
                content,
            )
    first = target.partition(".")[0]
    ours = node["reftarget"].startswith("tracetorch_jax.") or (
        "." in target and first in tracetorch_jax.__all__
    )
    theirs = first == "nnx" and hasattr(flax.nnx, target.partition(".")[2])
    return None if ours and not theirs and node["reftype"] != "class" else content


def add_icon(
    app: Any, page: str, template: str, context: dict[str, Any], document: Any
) -> None:
    """An icon for the browser's tab."""
    context["favicon_url"] = "data:image/svg+xml," + urllib.parse.quote(ICON)


def lead_back(
    app: Any, page: str, template: str, context: dict[str, Any], document: Any
) -> None:
    """Links from the source of public names to where each is documented.

    Sphinx takes one module for all names of a source, which is wrong for some of them.
    """
    if not page.startswith("_modules/"):
        return
    objects = app.env.domains["py"].objects

    def right(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(page), match[2]))
        there = [name for name in objects if objects[name].docname == target]
        parts = match[3].split(".")
        ends = (".".join(parts[i:]) for i in range(len(parts)))  # the longest first
        found = (
            name for end in ends for name in there if f".{name}".endswith(f".{end}")
        )
        return f"{match[1]}{match[2]}.html#{next(found, match[3])}"

    context["body"] = re.sub(
        r'(class="viewcode-back" href=")([^"#]+)\.html#([\w.]+)', right, context["body"]
    )


def thumbnails(app: Any, doctree: Any, document: str) -> None:
    """The table of tutorials as a gallery: of each the last picture, or that tagged `thumbnail`."""
    if document != "tutorials/index":
        return
    (table,) = doctree.findall(nodes.table)
    table["classes"].append("gallery")
    for link in list(table.findall(nodes.reference)):
        page = app.env.get_doctree(f"tutorials/{pathlib.Path(link['refuri']).stem}")
        cells = (
            cell for cell in page.findall(nodes.container) if "cell_metadata" in cell
        )
        tagged = [c for c in cells if "thumbnail" in c["cell_metadata"].get("tags", ())]
        pictures = [
            image for place in (page, *tagged) for image in place.findall(nodes.image)
        ]
        for picture in pictures[-1:]:  # of none if the tutorials did not run
            shown = picture.deepcopy()
            shown["alt"] = f"A picture of the tutorial {link.astext()!r}"
            link.insert(0, shown)


def write(app: Any) -> None:
    """Everything that comes from the code."""
    # A style of Pygments turns all logs on.
    logging.getLogger().setLevel(logging.WARNING)
    pages.write(HERE)
    family.write(HERE / "family", drawn=app.config.pictures)
    reference.write(HERE / "reference")
    javascript.write(HERE / "_static")
    network.write(HERE / "_static")


def setup(app: Any) -> None:
    # Without pictures, a build takes little time.
    app.add_config_value("pictures", True, "env", bool)
    app.connect("builder-inited", write)
    app.connect("html-page-context", add_icon)
    app.connect("html-page-context", lead_back)
    app.connect("source-read", prepare)
    # After napoleon.
    app.connect("autodoc-process-docstring", literal_blocks, priority=900)
    app.connect("autodoc-process-signature", our_signature)
    app.connect("object-description-transform", run_on)
    app.connect("missing-reference", find_our_own)
    app.connect("doctree-resolved", thumbnails)
