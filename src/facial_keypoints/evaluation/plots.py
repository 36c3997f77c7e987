"""Figures of faces, errors and training (matplotlib, extra ``train``).

Every ``plot_*`` returns a :class:`matplotlib.figure.Figure` made without pyplot: it uses no global
state, and nothing needs closing. People with any common kind of colour blindness can tell the colours
apart; truth and prediction differ in shape as well. Knows arrays, not reports.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from facial_keypoints.errors import MissingExtraError
from facial_keypoints.evaluation.metrics import rmse, rmse_per_face
from facial_keypoints.evaluation.scores import FAILURE_THRESHOLD
from facial_keypoints.files import atomic_path
from facial_keypoints.inference.measure.measures import TURNED_DEG, Measurements
from facial_keypoints.types import FaceDataset, FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "THEMES",
    "Theme",
    "keypoint_label",
    "order_by_error",
    "pick_faces",
    "plot_ced",
    "plot_keypoint_errors",
    "plot_keypoints_grid",
    "plot_learning_curves",
    "plot_measurements",
    "plot_missing_labels",
    "plot_worst_best",
    "require_figures",
    "save_figure",
]


@dataclass(frozen=True)
class Theme:
    """Colours of a figure.

    Args:
        background: Behind everything; "none" is transparent.
        ink: Text.
        muted: Axes, ticks, secondary text.
        grid: Grid lines.
        series: One colour per recipe, in order.
    """

    background: str
    ink: str
    muted: str
    grid: str
    series: tuple[str, ...]


# Series after Okabe & Ito's colour-blind-safe set, darkened (lightened) so that text in these
# colours keeps a contrast of at least 4.5 on white (on near-black).
THEMES = {
    "light": Theme(
        "#ffffff", "#1c2024", "#60646c", "#e4e6ea",
        ("#0b66b0", "#b85c00", "#0a7d5f", "#a8438f", "#60646c", "#7d6600"),
    ),
    "dark": Theme(
        "none", "#eceef2", "#a4a9b3", "#34383f",
        ("#62b2f5", "#f2a155", "#4cc9a4", "#e592d0", "#a4a9b3", "#d8c05a"),
    ),
}  # fmt: skip

ThemeName = Literal["light", "dark"]

# On faces, in any theme: light enough to stand out on skin and hair with a dark halo.
TRUTH_COLOR, PREDICTION_COLOR = "#4cc3ff", "#ff9d2e"
_HALO = "#101418"
_PREDICTION: dict[str, Any] = {
    "marker": "o",
    "linestyle": "none",
    "markerfacecolor": PREDICTION_COLOR,
    "markeredgecolor": _HALO,
    "markeredgewidth": 0.5,
}
_UNLABELLED = {**_PREDICTION, "markeredgewidth": 0.3, "alpha": 0.6}
_TEXT, _SMALL, _TITLE = 9.5, 8.5, 12.5  # points


def require_figures() -> None:
    """Refuse before the work whose figures could not be drawn.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "train", "Drawing figures")


def _figure(width: float, height: float, theme: Theme, **layout: float) -> Figure:
    """An empty figure, size in inches."""
    require_figures()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor=theme.background, layout="constrained")
    engine: Any = figure.get_layout_engine()
    engine.set(**{"w_pad": 0.04, "h_pad": 0.05, **layout})
    return figure


def _axes(
    figure: Figure,
    theme: Theme,
    *,
    grid: Literal["x", "y"],
    place: tuple[int, int, int] = (1, 1, 1),
) -> Axes:
    """One despined axes with grid lines across the value axis; place is rows, columns, which."""
    axes = figure.add_subplot(*place)
    axes.set_facecolor("none")
    for side, spine in axes.spines.items():
        spine.set_visible(side == ("left" if grid == "x" else "bottom"))
        spine.set_color(theme.grid)
    axes.tick_params(colors=theme.muted, labelsize=_SMALL, length=0)
    axes.grid(axis=grid, color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    return axes


def _chart(
    theme: Theme,
    height: float,
    *,
    grid: Literal["x", "y"],
    title: str,
    note: str,
    x_label: str = "",
) -> tuple[Figure, Axes]:
    """A figure of one chart with its title, a note below that, and the name of the x axis."""
    figure = _figure(7.2, height, theme)
    axes = _axes(figure, theme, grid=grid)
    axes.set_title(title, loc="left", color=theme.ink, fontsize=_TITLE, fontweight="bold", pad=24)
    _write(axes, note, (0, 1), (0, 9), theme.muted)
    axes.set_xlabel(x_label, color=theme.muted, fontsize=_SMALL)
    return figure, axes


def _write(
    axes: Axes,
    text: str,
    place: tuple[float, float],
    offset: tuple[float, float],
    color: str,
    *,
    xycoords: str | tuple[str, str] = "axes fraction",
    **style: Any,
) -> None:
    """Text at a place of the axes, moved by an offset in points."""
    style = {"fontsize": _SMALL, **style}
    axes.annotate(
        text, place, offset, xycoords=xycoords, textcoords="offset points", color=color, **style
    )


def _name_rows(axes: Axes, theme: Theme, names: Sequence[str]) -> None:
    """Names of rows 0, 1, ... on the y axis, the first one on top."""
    axes.set_yticks(range(len(names)), names, color=theme.ink, fontsize=_SMALL)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.spines["left"].set_visible(False)


def _legend(figure: Figure, theme: Theme, handles: Sequence[Any]) -> None:
    """A legend below everything else, unless there is nothing to explain."""
    if handles:
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=min(len(handles), 5),
            frameon=False,
            fontsize=_TEXT,
            labelcolor=theme.ink,
            handletextpad=0.3,
        )


def keypoint_label(name: str) -> str:
    """A keypoint's name for people: underscores become spaces."""
    return name.replace("_", " ")


def _spread(positions: Sequence[float], gap: float) -> list[float]:
    """Positions moved apart until neighbours are ``gap`` apart; order and mean of each cluster stay."""
    order = np.argsort(positions, kind="stable")
    clusters: list[list[int]] = []

    def centre(members: list[int]) -> float:
        return float(np.mean([positions[i] for i in members]))

    for i in order:
        members = [int(i)]
        while (
            clusters
            and centre(members) - centre(clusters[-1])
            < gap * (len(clusters[-1]) + len(members)) / 2
        ):
            members = clusters.pop() + members
        clusters.append(members)
    result = [0.0] * len(positions)
    for members in clusters:
        for place, i in enumerate(members):
            result[i] = centre(members) + gap * (place - (len(members) - 1) / 2)
    return result


def _label_lines(axes: Axes, ends: Sequence[tuple[str, float, str]]) -> None:
    """Names right of the axes at the height where lines end, moved apart where they would overlap.

    Args:
        axes: Its y limits must be final.
        ends: Name, height of the line's end in axes fraction, and colour of each line.
    """
    height_points = axes.get_figure(root=True).get_figheight() * 72 * 0.72  # type: ignore[union-attr]
    places = _spread([height for _, height, _ in ends], 14 / height_points)
    overshoot = max([0.0, *(y - 0.98 for y in places)])  # no name above the axes
    style: Any = {"fontsize": _TEXT, "fontweight": "bold", "annotation_clip": False}
    for (name, _, color), y in zip(ends, places, strict=True):
        _write(axes, name, (1, y - overshoot), (6, 0), color, va="center", **style)


def _color(theme: Theme, index: int) -> str:
    return theme.series[index % len(theme.series)]


def plot_learning_curves(
    histories: Mapping[str, Mapping[str, Sequence[float]]], *, theme: ThemeName = "light"
) -> Figure:
    """RMSE in pixels per epoch: validation as a full line, training as a thin dashed one.

    A dot and the number beside the name are the kept epoch: the one of the lowest error.

    Args:
        histories: Recipe -> ``rmse_px`` and ``val_rmse_px`` (either may be missing), one value per
            epoch; NaN leaves a gap. Lengths may differ.
        theme: "light" or "dark".
    """
    from matplotlib.ticker import MaxNLocator

    colors = THEMES[theme]
    figure, axes = _chart(
        colors, 4.2, grid="y", title="Learning curves", x_label="epoch",
        note="RMSE in pixels (log scale) · full line: validation · dashed: training · dot: the kept epoch",
    )  # fmt: skip
    drawn: list[tuple[str, float, str]] = []
    values: list[float] = []
    longest = 1
    for i, (name, history) in enumerate(histories.items()):
        color = _color(colors, i)
        curves = {k: np.asarray(history.get(k, ()), float) for k in ("rmse_px", "val_rmse_px")}
        main = curves["val_rmse_px"] if curves["val_rmse_px"].size else curves["rmse_px"]
        for key, curve in curves.items():
            epochs = np.arange(1, len(curve) + 1)
            style: dict[str, Any] = (
                {"linewidth": 2.0} if key == "val_rmse_px" else {"linewidth": 1.1, "dashes": (3, 2)}
            )
            axes.plot(epochs, curve, color=color, solid_capstyle="round", **style)
            values += curve[np.isfinite(curve) & (curve > 0)].tolist()
            longest = max(longest, len(curve))
        finite_main = np.flatnonzero(np.isfinite(main))
        if finite_main.size and main[finite_main[-1]] > 0:
            end = float(main[finite_main[-1]])
            kept = int(np.nanargmin(main))  # the first epoch of the lowest error, as in training
            axes.plot(kept + 1, main[kept], "o", color=color, markersize=5, clip_on=False)
            drawn.append((f"{name}  {main[kept]:.2f}", end, color))
    axes.set_xlim(1, max(longest, 2))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if values:
        low, high = _pixel_axis(axes, values)
        limits = np.log((low, high))
        ends = [(n, float(np.interp(np.log(y), limits, (0, 1))), color) for n, y, color in drawn]
        _label_lines(axes, ends)
    return figure


def _pixel_axis(axes: Axes, values: Sequence[float]) -> tuple[float, float]:
    """A log y axis around positive pixel values with plain numbers as ticks; returns its limits.

    The first epochs are often tens of times worse than the rest, which would flatten a linear axis.
    """
    from matplotlib.ticker import FixedLocator, NullLocator

    positive = np.asarray(values, float)
    low, high = positive.min() / 1.08, positive.max() * 1.08
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    candidates = np.array([m * 10.0**e for e in range(-4, 5) for m in (1, 1.5, 2, 3, 4, 5, 7)])
    ticks = candidates[(candidates >= low) & (candidates <= high)]
    if len(ticks) < 3:
        ticks = np.round(np.geomspace(positive.min(), max(positive.max(), low * 1.2), 4), 2)
    axes.yaxis.set_major_locator(FixedLocator(ticks.tolist()))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")
    return float(low), float(high)


def plot_keypoint_errors(
    keypoint_names: Sequence[str],
    errors: Mapping[str, tuple[FloatArray, FloatArray]],
    *,
    num_labels: Sequence[int],
    theme: ThemeName = "light",
) -> Figure:
    """RMSE of every keypoint with its interval, one dot per recipe, best keypoints on top.

    Args:
        keypoint_names: K names.
        errors: Recipe -> (K,) RMSE in px and (K, 2) ends of the intervals; NaN is not drawn.
        num_labels: K counts of labels, written beside the names.
        theme: "light" or "dark".
    """
    colors = THEMES[theme]
    k, m = len(keypoint_names), max(len(errors), 1)
    figure, axes = _chart(
        colors, 1.5 + k * (0.14 + 0.1 * m), grid="x", title="Error per keypoint",
        note="bars: 95 % bootstrap intervals · in brackets: labels", x_label="RMSE in pixels",
    )  # fmt: skip
    means = np.array([np.asarray(e, float) for e, _ in errors.values()]).reshape(-1, k)
    best = np.where(np.isnan(means), np.inf, means).min(axis=0, initial=np.inf)
    order = np.argsort(best, kind="stable")
    rows = np.arange(k, dtype=float)
    offsets = (np.arange(m) - (m - 1) / 2) * (0.62 / m)
    for i, (name, (error, interval)) in enumerate(errors.items()):
        color = _color(colors, i)
        y = rows + offsets[i]
        ends = np.asarray(interval, float)[order]
        axes.hlines(y, ends[:, 0], ends[:, 1], color=color, linewidth=1.6, alpha=0.55)
        axes.plot(np.asarray(error, float)[order], y, "o", color=color, markersize=5, label=name)
    labels = [f"{keypoint_label(keypoint_names[j])}  ({num_labels[j]:,})" for j in order]
    _name_rows(axes, colors, labels)
    for boundary in rows[:-1] + 0.5:
        axes.axhline(boundary, color=colors.grid, linewidth=0.5)
    axes.set_xlim(left=0)
    _legend(figure, colors, axes.get_legend_handles_labels()[0])
    return figure


def plot_ced(
    thresholds: FloatArray,
    curves: Mapping[str, FloatArray],
    *,
    theme: ThemeName = "light",
) -> Figure:
    """Cumulative error distribution: the share of faces below each normalised error.

    Args:
        thresholds: (T,) NME, fractions.
        curves: Recipe -> (T,) shares of faces; all NaN is not drawn.
        theme: "light" or "dark".
    """
    colors = THEMES[theme]
    figure, axes = _chart(
        colors, 4.2, grid="y", title="Cumulative errors",
        note="share of faces with at most this error",
        x_label="mean point error of a face, in percent of the eye distance",
    )  # fmt: skip
    percent = 100 * np.asarray(thresholds, float)
    failure = 100 * FAILURE_THRESHOLD
    axes.axvline(failure, color=colors.muted, linewidth=0.8, dashes=(2, 3))
    _write(axes, "beyond: failure", (failure, 0), (4, 4), colors.muted, xycoords="data")
    drawn: list[tuple[str, float, str]] = []
    for i, (name, curve) in enumerate(curves.items()):
        share = 100 * np.asarray(curve, float)
        if not np.isnan(share).all():
            color = _color(colors, i)
            axes.plot(percent, share, color=color, linewidth=2.0)
            drawn.append((name, float(share[-1]) / 104, color))
    axes.set_xlim(0, float(percent[-1]))
    axes.set_ylim(0, 104)
    axes.set_xticks(np.arange(0, percent[-1] + 0.1, 5))
    axes.set_yticks([0, 25, 50, 75, 100])
    axes.xaxis.set_major_formatter("{x:g} %")
    axes.yaxis.set_major_formatter("{x:g} %")
    _label_lines(axes, drawn)
    return figure


def plot_missing_labels(dataset: FaceDataset, *, theme: ThemeName = "light") -> Figure:
    """How many faces have each keypoint labelled, stacked by label style.

    Args:
        dataset: Faces with labels; may be empty.
        theme: "light" or "dark".
    """
    colors = THEMES[theme]
    names = dataset.schema.keypoint_names
    k, total = len(names), len(dataset)
    figure, axes = _chart(
        colors, 1.5 + 0.26 * k, grid="x", title="Which points are labelled",
        note=f"of {total:,} faces",
    )  # fmt: skip
    order = np.argsort(-dataset.label_counts, kind="stable")
    rows = np.arange(k)
    left = np.zeros(k)
    axes.barh(rows, np.full(k, total), color=colors.grid, height=0.66, label="not labelled")
    for i, style in enumerate(np.unique(dataset.styles)):
        counts = dataset.keypoints.labeled[dataset.styles == style].sum(axis=0)[order]
        label = str(style) or "labelled"
        # From the far end of the palette: these are styles, not the first recipes.
        color = _color(colors, -1 - i)
        axes.barh(rows, counts, left=left, color=color, height=0.66, label=label)
        left = left + counts
    for row, count in enumerate(dataset.label_counts[order]):
        share = f"{100 * count / total:.0f} %" if total else "–"
        beside: Any = {"xycoords": ("axes fraction", "data"), "va": "center"}
        _write(axes, f"{count:,}  {share}", (1, row), (6, 0), colors.muted, **beside)
    _name_rows(axes, colors, [keypoint_label(names[j]) for j in order])
    axes.set_xlim(0, max(total, 1))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    _legend(figure, colors, axes.get_legend_handles_labels()[0])
    return figure


def pick_faces(dataset: FaceDataset, count: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Rows of up to ``count`` faces to show, the same for the same seed.

    The number of faces of a label style is proportional to its number in the data, but at least a
    quarter of an equal share, and one where ``count`` allows it, so that a rare style is shown. Two
    faces of a style come from one group only when every other group is used up.
    """
    rng = np.random.default_rng(seed)
    styles, sizes = np.unique(dataset.styles, return_counts=True)
    if not len(styles):
        return np.zeros(0, np.int64)
    count = min(count, len(dataset))
    weights = np.maximum(sizes / sizes.sum(), 0.25 / len(styles))
    shares = np.clip(np.floor(count * weights / weights.sum()).astype(int), 1, sizes)
    while shares.sum() > count:
        shares[shares.argmax()] -= 1
    picked: list[int] = []
    for style, share in zip(styles, shares, strict=True):
        rows = rng.permutation(np.flatnonzero(dataset.styles == style))
        _, first = np.unique(dataset.groups[rows], return_index=True)
        fresh = rows[np.sort(first)]
        picked += [int(r) for r in [*fresh, *np.setdiff1d(rows, fresh)][:share]]
    rest = rng.permutation(np.setdiff1d(np.arange(len(dataset)), picked))
    picked += [int(r) for r in rest[: count - len(picked)]]
    rows = np.array(picked, np.int64)
    return rows[np.argsort(dataset.styles[rows], kind="stable")]


def _draw_face(axes: Axes, dataset: FaceDataset, row: int, predicted: FloatArray) -> None:
    height, width = dataset.image_size
    axes.imshow(dataset.images[row], cmap="gray", vmin=0, vmax=255, interpolation="bicubic")
    truth, labeled = dataset.keypoints.xy[row], dataset.keypoints.labeled[row]
    axes.plot(*predicted[~labeled].T, markersize=2.4, **_UNLABELLED)
    for (x0, y0), (x1, y1) in zip(truth[labeled], predicted[labeled], strict=True):
        axes.plot([x0, x1], [y0, y1], color="#ffffff", linewidth=0.8, alpha=0.85)
    # Truth is an open ring, so that a prediction at the same place shows inside it.
    for edge, color in ((2.4, _HALO), (1.3, TRUTH_COLOR)):
        ring: dict[str, Any] = {"markeredgecolor": color, "markeredgewidth": edge}
        axes.plot(*truth[labeled].T, "o", markersize=5.4, markerfacecolor="none", **ring)
    axes.plot(*predicted[labeled].T, markersize=3.6, **_PREDICTION)
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)
    axes.set_axis_off()


def _face_marks(labeled: NDArray[np.bool_]) -> list[Any]:
    """Legend of the marks that :func:`_draw_face` draws on points that are (not) labelled."""
    from matplotlib.lines import Line2D

    marks = []
    if labeled.any():
        ring: dict[str, Any] = {
            **_PREDICTION,
            "markerfacecolor": "none",
            "markeredgecolor": "#1496d6",
            "markeredgewidth": 1.8,
        }
        marks.append(Line2D([], [], markersize=7.5, label="truth (label)", **ring))
        marks.append(Line2D([], [], markersize=6.5, label="prediction", **_PREDICTION))
    if not labeled.all():
        label = "prediction without a label"
        marks.append(Line2D([], [], markersize=4.5, label=label, **_UNLABELLED))
    return marks


def _plot_faces(
    dataset: FaceDataset,
    predicted: FloatArray,
    lines: Sequence[NDArray[np.int64]],
    columns: int,
    title: str,
    theme: Theme,
    names: Sequence[str] = (),
) -> Figure:
    """Lines of up to ``columns`` faces, given by their rows, each line with a name or none."""
    height = 1.55 * len(lines) + (1.4 if names else 0.95)
    figure = _figure(1.55 * columns + 0.1, height, theme, wspace=0.02, hspace=0.02)
    from matplotlib.patheffects import withStroke

    figure.suptitle(title, color=theme.ink, fontsize=_TITLE, fontweight="bold")
    errors = rmse_per_face(dataset.keypoints.xy, predicted)
    halo = [withStroke(linewidth=2, foreground=_HALO)]
    grid = figure.subplots(len(lines), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for line, name in zip(grid, names, strict=False):
        line[0].set_title(name, loc="left", color=theme.muted, fontsize=_TEXT)
    for line, rows in zip(grid, lines, strict=True):
        for axes, row in zip(line, rows, strict=False):
            _draw_face(axes, dataset, int(row), predicted[row])
            if np.isfinite(errors[row]):
                text = f"{errors[row]:.2f} px"
                _write(axes, text, (0, 0), (4, 4), "#ffffff", fontsize=7.5, path_effects=halo)
    _legend(figure, theme, _face_marks(dataset.keypoints.labeled[np.concatenate(lines)]))
    return figure


def plot_keypoints_grid(
    dataset: FaceDataset,
    predicted_xy: FloatArray,
    *,
    recipe: str,
    rows: int = 4,
    columns: int = 6,
    seed: int = 0,
    theme: ThemeName = "light",
) -> Figure:
    """A grid of faces with predictions and, in another colour and shape, truth.

    Args:
        dataset: Held-out faces, N >= 1; labels may be missing, some or all.
        predicted_xy: (N, K, 2) pixels.
        recipe: For the title, which also gives the RMSE over *all* N faces.
        rows: Rows of the grid.
        columns: Columns of the grid; fewer faces leave the rest empty.
        seed: Selects the faces (:func:`pick_faces`): same seed and data, same faces for each recipe.
        theme: "light" or "dark".

    Raises:
        ValueError: ``predicted_xy`` has another shape than the labels, or is not finite at a label.
    """
    overall = rmse(dataset.keypoints.xy, predicted_xy)
    score = f"  ·  RMSE {overall:.2f} px on {len(dataset):,} faces" if np.isfinite(overall) else ""
    picked = pick_faces(dataset, rows * columns, seed=seed)
    lines = [picked[i : i + columns] for i in range(0, max(len(picked), 1), columns)]
    return _plot_faces(dataset, predicted_xy, lines, columns, recipe + score, THEMES[theme])


def plot_worst_best(
    dataset: FaceDataset,
    predicted_xy: FloatArray,
    *,
    recipe: str,
    count: int = 6,
    theme: ThemeName = "light",
) -> Figure:
    """The faces with the lowest and the highest RMSE, one row each.

    Args:
        dataset: Held-out faces; those without any label are left out.
        predicted_xy: (N, K, 2) pixels.
        recipe: For the title.
        count: Faces in a row.
        theme: "light" or "dark".

    Raises:
        ValueError: ``predicted_xy`` has another shape than the labels, or is not finite at a label.
    """
    order = order_by_error(rmse_per_face(dataset.keypoints.xy, predicted_xy))
    lines, names = (order[:count], order[::-1][:count]), ("best", "worst")
    title = f"{recipe}  ·  best and worst faces"
    return _plot_faces(dataset, predicted_xy, lines, count, title, THEMES[theme], names)


def order_by_error(errors: NDArray[np.float64]) -> NDArray[np.int64]:
    """Rows of (N,) errors from the lowest to the highest, without those that are NaN."""
    return np.argsort(errors, kind="stable")[: int(np.isfinite(errors).sum())]


# Panels of plot_measurements: title, unit, measures. Left is a full line, right a dashed one.
_CURVES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("Mouth opening, from neutral", "eye distances", ("mouth_opening",)),
    ("Smile, from neutral", "eye distances", ("smile",)),
    ("Height of the lips", "eye distances", ("lip_height",)),
    ("Width of the mouth", "eye distances", ("mouth_width",)),
    (
        "Inner ends of the brows above the eyes",
        "eye distances",
        ("left_brow_inner_height", "right_brow_inner_height"),
    ),
    ("Roll", "degrees", ("head_roll",)),
    ("Yaw", "degrees", ("head_yaw",)),
)


def plot_measurements(
    found: Measurements,
    times_s: NDArray[Any],
    tracks: NDArray[Any] | None = None,
    *,
    theme: ThemeName = "light",
) -> Figure:
    """Curves over time of the measures that move, with bands of one standard deviation.

    Args:
        found: N faces.
        times_s: (N,) seconds.
        tracks: (N,) track numbers; the six longest tracks are drawn. One track when left out.
        theme: "light" or "dark".
    """
    colors = THEMES[theme]
    who = np.zeros(len(found), int) if tracks is None else np.asarray(tracks)
    names, counts = np.unique(who, return_counts=True)
    shown = names[np.sort(np.argsort(-counts, kind="stable")[: len(colors.series)])]
    # With a neutral face, opening and smile are shown instead of the heights and widths behind them.
    skip = {"lip_height", "mouth_width"} if "smile" in found.names else {"mouth_opening", "smile"}
    panels = [panel for panel in _CURVES if not skip & set(panel[2])]
    figure = _figure(8.6, 1.55 * len(panels) + 0.9, colors)
    grid = [
        _axes(figure, colors, grid="y", place=(len(panels), 1, i + 1)) for i in range(len(panels))
    ]
    for axes, (title, unit, measures) in zip(grid, panels, strict=True):
        axes.set_title(title, loc="left", color=colors.ink, fontsize=_TEXT)
        axes.set_ylabel(unit, color=colors.muted, fontsize=_SMALL)
        for measure in measures:
            style = "--" if measure.startswith("right_") else "-"
            m = found.index(measure)
            for line, track in enumerate(shown):
                rows = np.flatnonzero(who == track)
                rows = rows[np.argsort(times_s[rows], kind="stable")]
                curves = np.column_stack(
                    [times_s[rows], found.values[rows, m], found.sigma[rows, m]]
                )
                t, value, sigma = _with_gaps(curves).T
                color = colors.series[line]
                label = f"face {track}" if measure == measures[0] else None
                axes.plot(t, value, style, color=color, linewidth=1.3, label=label)
                axes.fill_between(t, value - sigma, value + sigma, color=color, alpha=0.15, lw=0)
        if measures == ("head_yaw",):
            for limit in (-TURNED_DEG, TURNED_DEG):
                axes.axhline(limit, color=colors.muted, linewidth=0.8, linestyle=":")
    for axes in grid[1:]:
        axes.sharex(grid[0])
    for axes in grid[:-1]:
        axes.tick_params(labelbottom=False)
    grid[-1].set_xlabel("seconds", color=colors.muted, fontsize=_SMALL)
    if len(shown) > 1:
        grid[0].legend(
            loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(shown), frameon=False,
            fontsize=_SMALL, labelcolor=colors.ink, borderaxespad=0.2,
        )  # fmt: skip
    figure.supxlabel(
        "Bands: one standard deviation, from the keypoints' confidence; brows: left full, right dashed; "
        f"dotted: yaw of ±{TURNED_DEG:g}°.\n"
        "Not a medical device, for information only.",
        color=colors.muted,
        fontsize=_SMALL,
        x=0.01,
        ha="left",
    )
    return figure


def _with_gaps(curves: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of a time and values, with one of NaN where the face was not found, which breaks the lines."""
    steps = np.diff(curves[:, 0])
    if not len(steps):
        return curves
    gaps = np.flatnonzero(steps > 3.0 * max(float(np.median(steps)), 1e-9)) + 1
    return np.insert(curves, gaps, np.nan, axis=0)


def save_figure(figure: Figure, path: str | Path, *, dpi: int = 150) -> Path:
    """Write a figure; the suffix of ``path`` gives the format (.png, .svg, .pdf).

    Written under a temporary name and renamed, so an interrupted run leaves no half file; an
    existing file is replaced.

    Raises:
        OutputError: The file cannot be written.
    """
    target = Path(path)
    with atomic_path(target) as temporary:
        kind = target.suffix.lstrip(".") or "png"
        figure.savefig(temporary, format=kind, dpi=dpi, facecolor=figure.get_facecolor())
    return target
