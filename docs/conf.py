"""How Sphinx builds the documentation site: `sphinx-build -b html docs site`.

Why Sphinx: Material for MkDocs is in maintenance mode, its successor Zensical is at 0.1, and MkDocs itself has had no
release since 2024, while Sphinx, MyST-Parser and Furo make regular releases. Napoleon reads Google-style docstrings as
they are, and Furo brings search, dark mode and a layout for phones, all without a request to another server.
"""

import os
import re

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # autodoc imports the package, and so TensorFlow

import keras_bucketing

project = "keras-bucketing"
release = version = keras_bucketing.__version__
html_title = f"keras-bucketing {release}"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
html_theme = "furo"
pygments_dark_style = "monokai"  # the theme's own underlines names as if they were links
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/favicon.svg"

myst_heading_anchors = 3  # headings have the anchors that repository hosts give them in their view of Markdown

smartquotes = False  # what is quoted is code or the text of an error, and may be copied
default_role = "code"  # `single backticks` in docstrings
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say the types, with shapes and units
napoleon_numpy_docstring = False
# Attributes as a list, like arguments: as entries of their own, properties would be described twice. Long lists of
# arguments are in groups, which `help()` shows by the same names.
_LISTS = ["Attributes", "Call arguments", "Data arguments", "Batch size arguments", "Bucket arguments"]
_LISTS += ["Padding and label arguments", "Order and epoch arguments", "Host arguments"]
napoleon_custom_sections = [(name, "params_style") for name in _LISTS]

copybutton_exclude = ".linenos, .gp, .go"  # the prompts and the output of the docstrings' examples


def setup(app):
    """Called by Sphinx."""
    app.connect("autodoc-skip-member", _skip_refused)
    app.connect("autodoc-process-docstring", _link_pages)


def _skip_refused(app, what, name, member, skip, options):
    """Leaves out the constructors of `tf.data.Dataset` that the datasets refuse."""
    return True if (getattr(member, "__doc__", None) or "").startswith("Refused: ") else None


def _link_pages(app, what, name, obj, options, lines):
    """Makes links of the pages that docstrings name by their files: docs/glossary.md."""
    lines[:] = [re.sub(r"\bdocs(/[\w/-]+)\.md\b", r":doc:`\1`", line) for line in lines]
