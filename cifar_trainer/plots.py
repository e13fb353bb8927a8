"""Pictures of figures: how they look, and the two that training shows as well.

Matplotlib is used without pyplot: no window system, and no current figure that another
call could find. The colours are Okabe & Ito's (2008), which colour-blind readers can
tell apart; ramps go from the background to one hue.
"""

import contextlib
import dataclasses
import io
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure

DPI = 144
#: For several lines, in turn; black and yellow are left out.
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#59636E")


@dataclasses.dataclass(frozen=True)
class Theme:
    """The colours of a picture.

    Attributes:
        name: `light` or `dark`.
        background, text, muted, grid: of the paper and what stands on it.
        first: what is right, or the first of several lines.
        second: what is wrong, or the second line.
        third: the third line.
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
        """Of the text's and the paper's colour the one that stands out more on an RGB(A) colour."""
        here, text, paper = (_luminance(c) for c in (color, to_rgb(self.text), to_rgb(self.background)))
        return self.text if _contrast(here, text) >= _contrast(here, paper) else self.background

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
            # A dollar in the name of a run or a class is a dollar.
            "text.parse_math": False,
            "xtick.color": self.muted,
            "ytick.color": self.muted,
            "xtick.labelcolor": self.text,
            "ytick.labelcolor": self.text,
            "legend.frameon": False,
            "lines.linewidth": 1.8,
            "font.size": 10,
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


@contextlib.contextmanager
def new_figure(theme: Theme, width: float, height: float) -> Iterator[Figure]:
    """A figure of width × height inches; what is drawn inside the block has the theme's colours."""
    with matplotlib.rc_context(theme.settings()):
        yield Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG."""
    buffer = io.BytesIO()
    # Without a date or version in it, the same figures give the same bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None}, facecolor=figure.get_facecolor())
    return buffer.getvalue()


def pixels(figure: Figure) -> np.ndarray:
    """A figure as uint8 [H, W, 3]."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    rgba: np.ndarray = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return rgba[..., :3].copy()


def confusion_matrix_image(matrix: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """A confusion matrix for a screen: uint8 [H, W, 3]. See `confusion_figure`."""
    return pixels(confusion_figure(matrix, classes, LIGHT))


def confusion_figure(
    matrix: np.ndarray, classes: Sequence[str], theme: Theme, *, shares: bool = False
) -> Figure:
    """A confusion matrix, what is right in one hue and what is wrong in another.

    The shade of a right cell is its share of the row, that of a wrong one its share
    beside the largest wrong share: so the mistakes can be told apart where they are few.

    Args:
        matrix: integer [classes, classes], counts by true class, then by predicted class.
        classes: the names, by label.
        theme: the colours.
        shares: write percentages of the row instead of counts.
    """
    count = len(classes)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    right = np.eye(count, dtype=bool)
    worst = max(float(share[~right].max(initial=0.0)), 1e-9)
    shade = np.where(right, share, share / worst)
    ramps = [
        LinearSegmentedColormap.from_list("", [theme.background, hue]) for hue in (theme.first, theme.second)
    ]
    with new_figure(theme, 6.0, 5.6) as figure:
        axes = figure.add_subplot()
        cells = np.where(right[..., None], ramps[0](shade), ramps[1](shade))
        axes.imshow(cells)
        axes.grid(False)
        axes.set_xticks(range(count), classes, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(count), classes)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        for row in range(count):
            for column in range(count):
                text = f"{share[row, column] * 100:.1f}" if shares else f"{matrix[row, column]:,}"
                color = theme.muted if matrix[row, column] == 0 else theme.legible_on(cells[row, column])
                axes.text(column, row, text, ha="center", va="center", size=9.5, color=color)
    return figure


def gallery_image(
    images: np.ndarray,
    true: np.ndarray,
    predicted: np.ndarray,
    confidence: np.ndarray,
    classes: Sequence[str],
) -> np.ndarray:
    """Pictures with what they are and what they were taken for: uint8 [H, W, 3]. See `gallery_figure`."""
    return pixels(gallery_figure(images, true, predicted, confidence, classes, LIGHT))


def gallery_figure(
    images: np.ndarray,
    true: np.ndarray,
    predicted: np.ndarray,
    confidence: np.ndarray,
    classes: Sequence[str],
    theme: Theme,
    columns: int = 5,
) -> Figure:
    """Pictures, and below each its true class, the predicted one, and how sure the model was.

    Args:
        images: uint8 [K, 32, 32, 3].
        true, predicted: labels, integer [K].
        confidence: the predicted class's probability, float [K].
        classes: the names, by label.
        theme: the colours.
        columns: pictures a row.
    """
    rows = max(1, -(-len(images) // columns))
    across, down = 40, 52
    with new_figure(theme, 1.25 * columns, 1.25 * down / across * rows) as figure:
        figure.set_layout_engine("none")
        # One pair of axes for all: one a picture would take ten times as long to draw.
        axes = figure.add_axes((0, 0, 1, 1))
        for i, image in enumerate(images):
            left, top = across * (i % columns) + 4, down * (i // columns) + 4
            axes.imshow(image, extent=(left, left + 32, top + 32, top), interpolation="nearest")
            sure = f"{classes[predicted[i]]} {confidence[i]:.0%}"
            axes.text(left + 16, top + 38.5, classes[true[i]], ha="center", size=8.5, color=theme.text)
            color = theme.first if true[i] == predicted[i] else theme.second
            axes.text(left + 16, top + 44.5, sure, ha="center", size=8.5, color=color)
        if not len(images):
            axes.text(across * columns / 2, down / 2, "none", ha="center", color=theme.muted)
        # imshow sets limits of its own, so ours come last.
        axes.set_axis_off()
        axes.set_xlim(0, across * columns)
        axes.set_ylim(down * rows, 0)
    return figure
