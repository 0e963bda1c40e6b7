"""What all pictures share: colours, style, panels, and how a figure is written, as a file or into a page."""

import html
import io
import math
import re
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.files import finished_file

matplotlib.use("Agg")  # no screen is needed

BLUE, ORANGE, GREEN, PINK, SKY, RED, YELLOW = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442",
)  # fmt: skip
COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, RED, YELLOW)
GREY, INK, GRID, PAPER = "#767676", "#222222", "#E4E4E4", "#FFFFFF"
# The CSS variables that stand for the colours where a picture is part of a page, which may be dark.
VARIABLES = {
    BLUE: "--blue", ORANGE: "--orange", GREEN: "--green", PINK: "--pink", SKY: "--sky", RED: "--red",
    YELLOW: "--yellow", GREY: "--muted", INK: "--ink", GRID: "--line", PAPER: "--paper",
}  # fmt: skip
CALIBRATION = {"gold": ("gold answers", (0, (5, 2))), "empty": ("empty answers", (0, (1, 1.5)))}
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLE = {
    "svg.hashsalt": "plumbline",
    "text.parse_math": False,  # a name with a dollar sign is a name
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


def panels_of(count: int, height: float, width: float = 3.7) -> tuple[Figure, list[Axes]]:
    across = min(count, 2 if count in (2, 4) else 3)
    down = math.ceil(count / across)
    figure, axes = plt.subplots(
        down,
        across,
        figsize=(max(4.4, width * across), 0.4 + height * down),
        squeeze=False,
    )
    for spare in axes.flat[count:]:
        spare.set_visible(False)
    return figure, list(axes.flat[:count])


def save(figure: Figure, path: Path) -> None:
    """Write a figure as SVG or PNG, by the file's ending, without dates."""
    kind = path.suffix[1:]
    metadata = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}
    if kind not in metadata:
        raise PlumblineError(f"{path}: pictures are .svg or .png")
    with finished_file(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=150, metadata=metadata[kind])
    plt.close(figure)


def inline_svg(figure: Figure, name: str, label: str) -> str:
    """Return a figure as SVG markup for a page and close it; `label` says in words what it shows.

    Text stays text, colours are the page's CSS variables, ids open with `name`, which no other picture of the page
    has. Labels are escaped by the SVG writer: the markup is safe whatever a policy or a column is called.
    """
    buffer = io.StringIO()
    with plt.rc_context({"svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    text = buffer.getvalue()
    text = text[text.index("<svg ") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = text.replace("font-family: 'DejaVu Sans'", "font-family: var(--sans)")
    for colour, variable in VARIABLES.items():
        text = text.replace(colour.lower(), f"var({variable})")
    return text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(label)}" ', 1)
