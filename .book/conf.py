"""How Sphinx sets the book; build.py lays its pages out first and then calls it with this file."""

from docutils import nodes
from latex2mathml.converter import convert

project = "D2UE"
html_title = "D2UE, the companion"
extensions = ["myst_nb"]
nb_execution_mode = "off"  # the pages carry the outputs of their last run
nb_merge_streams = True
nb_render_markdown_format = "gfm"  # the tables among the outputs
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
html_theme = "furo"
html_copy_source = False
html_show_copyright = False
exclude_patterns = ["extra"]
html_math_renderer = "mathml"


def mathml(self, node):
    """Set a formula as MathML, which browsers draw without a script and without the network."""
    is_block = isinstance(node, nodes.math_block)
    math = convert(node.astext(), display="block" if is_block else "inline")
    self.body.append(f'<div class="math">{math}</div>' if is_block else math)
    raise nodes.SkipNode


def setup(app):
    """Tell Sphinx of the renderer."""
    app.add_html_math_renderer("mathml", (mathml, None), (mathml, None))
