"""Drawing with Matplotlib: themes, fonts, rendering, and the figures that training and reports share.

Only this module imports Matplotlib; others import its names from here. It uses neither pyplot nor a backend:
the canvas of the output format draws the figure. The colours are those of Okabe & Ito (2008), which
colour-blind readers can tell apart; colour maps go from the background to a single hue.
"""

import contextlib
import dataclasses
import functools
import io
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np


@contextlib.contextmanager
def _without_backend() -> Iterator[None]:
    """Hide MPLBACKEND during Matplotlib's first import, then set the backend if it exists.

    A shell started from Jupyter or Colab inherits a backend that may not be installed here, and importing
    Matplotlib fails if the backend is missing.
    """
    name = None if "matplotlib" in sys.modules else os.environ.pop("MPLBACKEND", None)
    try:
        yield
    finally:
        if name is not None:
            os.environ["MPLBACKEND"] = name
    if name:
        # For pyplot in the same process, such as a notebook's.
        with contextlib.suppress(ValueError):
            sys.modules["matplotlib"].rcParams["backend"] = name


with _without_backend():
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.collections import LineCollection
    from matplotlib.colors import LinearSegmentedColormap, to_rgb
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties, fontManager, get_font
    from matplotlib.ticker import LogLocator, MaxNLocator, PercentFormatter

__all__ = [
    "DARK",
    "FORMATS",
    "LIGHT",
    "LINES",
    "Figure",
    "LineCollection",
    "LinearSegmentedColormap",
    "LogLocator",
    "MaxNLocator",
    "PercentFormatter",
    "Theme",
    "as_rgb",
    "confusion_figure",
    "drawable_names",
    "gallery_figure",
    "new_figure",
    "pixels",
    "render",
    "shorten",
    "undrawable",
]

DPI = 144
#: Formats by file name extension, with the metadata to omit so that equal figures give equal files.
FORMATS: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
#: Colours for several lines, in order; without black and yellow.
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#59636E")
#: Fonts for scripts that Matplotlib's default font does not cover, used if installed.
FONTS = (
    *(f"Noto Sans CJK {region}" for region in ("SC", "JP", "KR", "TC")), "Noto Serif CJK SC",
    "Noto Serif CJK JP", "Droid Sans Fallback", "WenQuanYi Zen Hei", "PingFang SC", "Hiragino Sans",
    "Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari", "Noto Sans Thai", "Noto Sans",
    "Arial Unicode MS", "FreeSans", "Unifont",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Theme:
    """The colours of a figure.

    Attributes:
        name: `light` or `dark`.
        background, text, muted, grid: colours of the background, of text, and of grid lines.
        first: colour for correct predictions, or the first line.
        second: colour for errors, or the second line.
        third: colour for the third line.
    """

    name: str
    background: str
    text: str
    muted: str
    grid: str
    first: str
    second: str
    third: str

    def legible_on(self, color: np.ndarray) -> str:
        """The text or background colour, whichever has more contrast to this RGB(A) colour."""
        here, text, behind = (_luminance(c) for c in (color, to_rgb(self.text), to_rgb(self.background)))
        return self.text if _contrast(here, text) >= _contrast(here, behind) else self.background

    def settings(self) -> dict[Any, Any]:
        """The theme as Matplotlib's settings."""
        return {
            "figure.facecolor": self.background,
            "savefig.facecolor": self.background,
            "axes.facecolor": self.background,
            "axes.edgecolor": self.muted,
            "axes.labelcolor": self.text,
            "axes.titlecolor": self.text,
            "axes.titlelocation": "left",
            "axes.titlesize": 11,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.axisbelow": True,
            "axes.grid": True,
            "grid.color": self.grid,
            "grid.linewidth": 0.8,
            "text.color": self.text,
            # Do not treat dollar signs in names of runs or classes as math.
            "text.parse_math": False,
            "xtick.color": self.muted,
            "ytick.color": self.muted,
            "xtick.labelcolor": self.text,
            "ytick.labelcolor": self.text,
            "legend.frameon": False,
            "lines.linewidth": 1.8,
            "font.size": 10,
            "font.family": ["DejaVu Sans", *_fallback_fonts()],
        }


def _luminance(color: Sequence[float] | np.ndarray) -> float:
    """Relative luminance of an sRGB colour (WCAG 2.2)."""
    channels = np.asarray(color, float)[:3]
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def _contrast(one: float, other: float) -> float:
    """Contrast ratio of two luminances (WCAG 2.2)."""
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


LIGHT = Theme("light", "#ffffff", "#1f2328", "#59636e", "#e1e5ea", "#0072B2", "#D55E00", "#009E73")
DARK = Theme("dark", "#161b22", "#e6edf3", "#9198a1", "#2d333b", "#56B4E9", "#F0A04B", "#3CC99A")


@functools.cache
def _fallback_fonts() -> tuple[str, ...]:
    """The fonts of `FONTS` that are installed."""
    installed = set(fontManager.get_font_names())
    return tuple(name for name in FONTS if name in installed)


@functools.cache
def _characters() -> frozenset[int]:
    """The code points of all characters that figures can draw."""
    names = ("DejaVu Sans", *_fallback_fonts())
    paths = (fontManager.findfont(FontProperties(family=[name])) for name in names)
    return frozenset(code for path in paths for code in get_font(path).get_charmap())


def _is_drawable(character: str) -> bool:
    # Shortcut for most names: inspecting the fonts takes time.
    return " " <= character <= "~" or ord(character) in _characters()


def undrawable(classes: Sequence[str]) -> dict[int, str]:
    """The class names, by label, with characters that no installed font has."""
    return {label: name for label, name in enumerate(classes) if not all(map(_is_drawable, name))}


def drawable_names(classes: Sequence[str]) -> list[str]:
    """The class names for figures: a name that no installed font can draw becomes, for example, `class 3`."""
    replaced = undrawable(classes)
    return [f"class {label}" if label in replaced else name for label, name in enumerate(classes)]


def shorten(name: str, length: int) -> str:
    """A drawable name of at most `length` characters; longer names end in an ellipsis."""
    drawable = "".join(c if _is_drawable(c) else "?" for c in name)
    return drawable if len(drawable) <= length else drawable[: length - 1] + "…"


@contextlib.contextmanager
def new_figure(theme: Theme, width: float, height: float) -> Iterator[Figure]:
    """Create a figure of width × height inches; drawing within the block uses the theme."""
    with matplotlib.rc_context(theme.settings()):
        yield Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def render(figure: Figure, form: str) -> bytes:
    """Render a figure to a file's bytes; `form` is one of `FORMATS`. Equal figures give equal bytes."""
    buffer = io.BytesIO()
    # In SVG, keep text as text, and use reproducible identifiers.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "cifar-trainer"}):
        figure.savefig(buffer, format=form, metadata=FORMATS[form], facecolor=figure.get_facecolor())
    return buffer.getvalue()


def pixels(figure: Figure) -> np.ndarray:
    """Render a figure to pixels: uint8 [H, W, 3]."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    rgba: np.ndarray = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return rgba[..., :3].copy()


#: Up to this many classes, the cells of a confusion matrix have numbers.
NUMBERED_CLASSES = 20
#: Up to this many classes, the axes name every class.
NAMED_CLASSES = 100


def confusion_figure(
    matrix: np.ndarray, classes: Sequence[str], theme: Theme, *, shares: bool = False
) -> Figure:
    """A confusion matrix, with correct predictions in one hue and errors in another.

    The shade of a diagonal cell is its share of the row. That of an error is relative to the largest error,
    so that rare errors are visible too. Above `NUMBERED_CLASSES`, the cells have no numbers, and the figure
    grows with the number of classes. Above `NAMED_CLASSES`, it stops growing, and names only some classes.

    Args:
        matrix: integer [classes, classes], counts by true class (row) and predicted class (column).
        classes: names by label.
        theme: the colours.
        shares: show percentages of the row instead of counts.
    """
    count = len(classes)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    diagonal = np.eye(count, dtype=bool)
    worst = max(float(share[~diagonal].max(initial=0.0)), 1e-9)
    shade = np.where(diagonal, share, share / worst)
    ramps = [
        LinearSegmentedColormap.from_list("", [theme.background, hue]) for hue in (theme.first, theme.second)
    ]
    cells = np.where(diagonal[..., None], ramps[0](shade), ramps[1](shade))
    width = min(6.0 + 0.08 * max(0, count - NUMBERED_CLASSES), 12.4)
    step = -(-count // NAMED_CLASSES)
    named = range(0, count, step)
    drawable = drawable_names(classes)
    names = [shorten(drawable[label], 18) for label in named]
    size = 10 if count <= 10 else 8 if count <= NUMBERED_CLASSES else 5
    with new_figure(theme, width, width - 0.4) as figure:
        axes = figure.add_subplot()
        axes.imshow(cells, interpolation="nearest")
        axes.grid(False)
        axes.set_xticks(named, names, rotation=45 if count <= NUMBERED_CLASSES else 90, size=size,
                        ha="right" if count <= NUMBERED_CLASSES else "center",
                        rotation_mode="anchor" if count <= NUMBERED_CLASSES else "default")  # fmt: skip
        axes.set_yticks(named, names, size=size)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        if count <= NUMBERED_CLASSES:
            for row, column in np.ndindex(count, count):
                text = f"{share[row, column] * 100:.1f}" if shares else f"{matrix[row, column]:,}"
                color = theme.muted if matrix[row, column] == 0 else theme.legible_on(cells[row, column])
                axes.text(column, row, text, ha="center", va="center", size=min(9.5, 95 / count), color=color)
    return figure


def gallery_figure(
    images: np.ndarray,
    true: np.ndarray,
    predicted: np.ndarray,
    confidence: np.ndarray,
    classes: Sequence[str],
    theme: Theme,
    *,
    columns: int = 5,
    files: Sequence[str] | None = None,
) -> Figure:
    """Images, each with its true class, predicted class, confidence, and file name below.

    Args:
        images: uint8 [K, H, W, C], of one or three channels.
        true, predicted: labels, integer [K].
        confidence: probability of the predicted class, float [K].
        classes: names by label.
        theme: the colours.
        columns: number of images per row.
        files: file names of the images; None omits them.
    """
    rows, names = max(1, -(-len(images) // columns)), drawable_names(classes)
    across, down = 40, 52 if files is None else 58
    with new_figure(theme, 1.25 * columns, 1.25 * down / across * rows) as figure:
        figure.set_layout_engine("none")
        # One set of axes for all images: separate axes would take ten times as long.
        axes = figure.add_axes((0, 0, 1, 1))
        for i, image in enumerate(images):
            left, top = across * (i % columns) + 4, down * (i // columns) + 4
            axes.imshow(as_rgb(image), extent=(left, left + 32, top + 32, top), interpolation="nearest")
            color = theme.first if true[i] == predicted[i] else theme.second
            below = [
                (shorten(names[true[i]], 16), theme.text),
                (f"{shorten(names[predicted[i]], 13)} {confidence[i]:.0%}", color),
                *([] if files is None else [(shorten(files[i], 18), theme.muted)]),
            ]
            for line, (text, color) in enumerate(below):
                axes.text(left + 16, top + 38.5 + 6 * line, text, ha="center", size=8.5, color=color)
        if not len(images):
            axes.text(across * columns / 2, down / 2, "none", ha="center", color=theme.muted)
        # imshow changes the limits, so set them last.
        axes.set_axis_off()
        axes.set_xlim(0, across * columns)
        axes.set_ylim(down * rows, 0)
    return figure


def as_rgb(image: np.ndarray) -> np.ndarray:
    """An image [H, W, C] with one or three channels as [H, W, 3]."""
    return np.broadcast_to(image, (*image.shape[:2], 3))
