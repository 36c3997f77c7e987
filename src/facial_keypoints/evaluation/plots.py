"""Figures of faces, errors and training (matplotlib, extra ``train``).

Every ``plot_*`` returns a :class:`matplotlib.figure.Figure` made without pyplot: no global state is
read or left behind, and nothing needs closing. Colours are told apart with every common kind of
colour blindness; truth and prediction differ in shape as well. Knows arrays, not reports.
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


def _title(axes: Axes, theme: Theme, title: str, subtitle: str = "") -> None:
    axes.set_title(title, loc="left", color=theme.ink, fontsize=_TITLE, fontweight="bold", pad=24)
    axes.annotate(
        subtitle,
        (0, 1),
        (0, 9),
        xycoords="axes fraction",
        textcoords="offset points",
        color=theme.muted,
        fontsize=_SMALL,
    )


def keypoint_label(name: str) -> str:
    """A keypoint's name for people: underscores become spaces."""
    return name.replace("_", " ")


def _spread(positions: Sequence[float], gap: float) -> list[float]:
    """Positions moved apart, order kept, until neighbours are ``gap`` apart; centred where crowded."""
    order = np.argsort(positions, kind="stable")
    clusters: list[tuple[float, list[int]]] = []  # centre, members
    for i in order:
        centre, members = float(positions[i]), [int(i)]
        while (
            clusters and centre - clusters[-1][0] < gap * (len(clusters[-1][1]) + len(members)) / 2
        ):
            previous, earlier = clusters.pop()
            members = earlier + members
            centre = (previous * len(earlier) + centre * (len(members) - len(earlier))) / len(
                members
            )
        clusters.append((centre, members))
    result = [0.0] * len(positions)
    for centre, members in clusters:
        for place, i in enumerate(members):
            result[i] = centre + gap * (place - (len(members) - 1) / 2)
    return result


def _label_lines(
    axes: Axes, labels: Sequence[str], ends: Sequence[float], colors: Sequence[str]
) -> None:
    """Names right of the axes at the height where lines end, moved apart where they would overlap.

    Args:
        axes: Its y limits must be final.
        labels: One per line.
        ends: Heights of the line ends in axes fraction.
        colors: One per line.
    """
    height_points = axes.get_figure(root=True).get_figheight() * 72 * 0.72  # type: ignore[union-attr]
    places = _spread(ends, 14 / height_points)
    overshoot = max([0.0, *(y - 0.98 for y in places)])  # no name above the axes
    for label, y, color in zip(labels, places, colors, strict=True):
        axes.annotate(
            label,
            (1, y - overshoot),
            (6, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            va="center",
            color=color,
            fontsize=_TEXT,
            fontweight="bold",
            annotation_clip=False,
        )


def _color(theme: Theme, index: int) -> str:
    return theme.series[index % len(theme.series)]


def plot_learning_curves(
    histories: Mapping[str, Mapping[str, Sequence[float]]], *, theme: ThemeName = "light"
) -> Figure:
    """RMSE in pixels per epoch: validation as a full line, training as a thin dashed one.

    Args:
        histories: Recipe -> ``rmse_px`` and ``val_rmse_px`` (either may be missing), one value per
            epoch; NaN leaves a gap. Lengths may differ.
        theme: "light" or "dark".
    """
    from_theme = THEMES[theme]
    figure = _figure(7.2, 4.2, from_theme)
    axes = _axes(figure, from_theme, grid="y")
    drawn: list[tuple[str, float, str]] = []
    values: list[float] = []
    longest = 1
    for i, (name, history) in enumerate(histories.items()):
        color = _color(from_theme, i)
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
            last = int(finite_main[-1])
            axes.plot(last + 1, main[last], "o", color=color, markersize=4.5, clip_on=False)
            drawn.append((f"{name}  {main[last]:.2f}", float(main[last]), color))
    axes.set_xlim(1, max(longest, 2))
    if values:
        low, high = _pixel_axis(axes, values)
        ends = [
            float(np.interp(np.log(y), (np.log(low), np.log(high)), (0, 1))) for _, y, _ in drawn
        ]
        _label_lines(axes, [d[0] for d in drawn], ends, [d[2] for d in drawn])
    axes.set_xlabel("epoch", color=from_theme.muted, fontsize=_SMALL)
    _title(
        axes,
        from_theme,
        "Learning curves",
        "RMSE in pixels (log scale) · full line: validation · dashed: training",
    )
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
    num_labels: Sequence[int] | None = None,
    theme: ThemeName = "light",
) -> Figure:
    """RMSE of every keypoint with its interval, one dot per recipe, best keypoints on top.

    Args:
        keypoint_names: K names.
        errors: Recipe -> (K,) RMSE in px and (K, 2) ends of the intervals; NaN is not drawn.
        num_labels: K counts of labels, written beside the names.
        theme: "light" or "dark".
    """
    from_theme = THEMES[theme]
    k, m = len(keypoint_names), max(len(errors), 1)
    figure = _figure(7.2, 1.5 + k * (0.14 + 0.1 * m), from_theme)
    axes = _axes(figure, from_theme, grid="x")
    means = np.array([np.asarray(e, float) for e, _ in errors.values()]).reshape(-1, k)
    best = np.where(np.isnan(means), np.inf, means).min(axis=0, initial=np.inf)
    order = np.argsort(best, kind="stable")
    rows = np.arange(k, dtype=float)
    offsets = (np.arange(m) - (m - 1) / 2) * (0.62 / m)
    for i, (name, (error, interval)) in enumerate(errors.items()):
        color = _color(from_theme, i)
        y = rows + offsets[i]
        ends = np.asarray(interval, float)[order]
        axes.hlines(y, ends[:, 0], ends[:, 1], color=color, linewidth=1.6, alpha=0.55)
        axes.plot(np.asarray(error, float)[order], y, "o", color=color, markersize=5, label=name)
    axes.set_yticks(
        rows,
        [
            keypoint_label(keypoint_names[j])
            + ("" if num_labels is None else f"  ({num_labels[j]:,})")
            for j in order
        ],
        color=from_theme.ink,
        fontsize=_SMALL,
    )
    for boundary in rows[:-1] + 0.5:
        axes.axhline(boundary, color=from_theme.grid, linewidth=0.5)
    axes.set_ylim(k - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("RMSE in pixels", color=from_theme.muted, fontsize=_SMALL)
    note = " · in brackets: labels" if num_labels is not None else ""
    _title(axes, from_theme, "Error per keypoint", f"bars: 95 % bootstrap intervals{note}")
    _legend_below(figure, from_theme, axes)
    return figure


def _legend_below(figure: Figure, theme: Theme, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=min(len(handles), 5),
            frameon=False,
            fontsize=_TEXT,
            labelcolor=theme.ink,
            handletextpad=0.3,
        )


def plot_ced(
    thresholds: FloatArray,
    curves: Mapping[str, FloatArray],
    *,
    failure_threshold: float = 0.10,
    theme: ThemeName = "light",
) -> Figure:
    """Cumulative error distribution: the share of faces below each normalised error.

    Args:
        thresholds: (T,) NME, fractions.
        curves: Recipe -> (T,) shares of faces; all NaN is not drawn.
        failure_threshold: Marked by a line.
        theme: "light" or "dark".
    """
    from_theme = THEMES[theme]
    figure = _figure(7.2, 4.2, from_theme)
    axes = _axes(figure, from_theme, grid="y")
    percent = 100 * np.asarray(thresholds, float)
    shares = {n: 100 * np.asarray(c, float) for n, c in curves.items()}
    axes.axvline(100 * failure_threshold, color=from_theme.muted, linewidth=0.8, dashes=(2, 3))
    axes.annotate(
        "beyond: failure",
        (100 * failure_threshold, 0),
        (4, 4),
        textcoords="offset points",
        color=from_theme.muted,
        fontsize=_SMALL,
    )
    labels, ends, colors = [], [], []
    for i, (name, share) in enumerate(shares.items()):
        if np.isnan(share).all():
            continue
        axes.plot(percent, share, color=_color(from_theme, i), linewidth=2.0)
        labels.append(name)
        ends.append(float(share[-1]) / 104)
        colors.append(_color(from_theme, i))
    axes.set_xlim(0, float(percent[-1]))
    axes.set_ylim(0, 104)
    axes.set_xticks(np.arange(0, percent[-1] + 0.1, 5))
    axes.set_yticks([0, 25, 50, 75, 100])
    axes.xaxis.set_major_formatter("{x:g} %")
    axes.yaxis.set_major_formatter("{x:g} %")
    _label_lines(axes, labels, ends, colors)
    axes.set_xlabel(
        "mean point error of a face, in percent of the eye distance",
        color=from_theme.muted,
        fontsize=_SMALL,
    )
    _title(axes, from_theme, "Cumulative errors", "share of faces with at most this error")
    return figure


def plot_missing_labels(dataset: FaceDataset, *, theme: ThemeName = "light") -> Figure:
    """How many faces have each keypoint labelled, stacked by label style.

    Args:
        dataset: Faces with labels; may be empty.
        theme: "light" or "dark".
    """
    from_theme = THEMES[theme]
    names = dataset.schema.keypoint_names
    k = len(names)
    figure = _figure(7.2, 1.5 + 0.26 * k, from_theme)
    axes = _axes(figure, from_theme, grid="x")
    labeled = dataset.keypoints.labeled
    total = len(dataset)
    order = np.argsort(-dataset.label_counts, kind="stable")
    rows = np.arange(k)
    left = np.zeros(k)
    axes.barh(rows, np.full(k, total), color=from_theme.grid, height=0.66, label="not labelled")
    for i, style in enumerate(np.unique(dataset.styles)):
        counts = labeled[dataset.styles == style].sum(axis=0)[order]
        label = str(style) or "labelled"
        # From the far end of the palette: these are styles, not the first recipes.
        color = _color(from_theme, -1 - i)
        axes.barh(rows, counts, left=left, color=color, height=0.66, label=label)
        left = left + counts
    for row, count in enumerate(dataset.label_counts[order]):
        share = f"{100 * count / total:.0f} %" if total else "–"
        axes.annotate(
            f"{count:,}  {share}",
            (1, row),
            (6, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            color=from_theme.muted,
            fontsize=_SMALL,
        )
    axes.set_yticks(
        rows, [keypoint_label(names[j]) for j in order], color=from_theme.ink, fontsize=_SMALL
    )
    axes.set_ylim(k - 0.4, -0.6)
    axes.set_xlim(0, max(total, 1))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.spines["left"].set_visible(False)
    _title(axes, from_theme, "Which points are labelled", f"of {total:,} faces")
    _legend_below(figure, from_theme, axes)
    return figure


def pick_faces(dataset: FaceDataset, count: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Rows of up to ``count`` faces for looking at, the same for the same seed.

    Every label style gets a share as large as its part of the data, but at least a quarter of an
    even share and one face where ``count`` allows it, so that a rare style is seen; no two faces of
    a style come from one group while others remain.
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
    image = dataset.images[row]
    height, width = dataset.image_size
    axes.imshow(
        image[..., 0] if image.shape[2] == 1 else image,
        cmap="gray",
        vmin=0,
        vmax=255,
        interpolation="bicubic",
    )
    truth = dataset.keypoints.xy[row]
    labeled = dataset.keypoints.labeled[row]
    halo: dict[str, Any] = {"markeredgecolor": _HALO, "linestyle": "none"}
    axes.plot(
        *predicted[~labeled].T,
        "o",
        markersize=2.4,
        markerfacecolor=PREDICTION_COLOR,
        markeredgewidth=0.3,
        alpha=0.6,
        **halo,
    )
    for (x0, y0), (x1, y1) in zip(truth[labeled], predicted[labeled], strict=True):
        axes.plot([x0, x1], [y0, y1], color="#ffffff", linewidth=0.8, alpha=0.85)
    # Truth is an open ring, so that a prediction on the spot shows inside it.
    for width_points, color in ((2.4, _HALO), (1.3, TRUTH_COLOR)):
        axes.plot(
            *truth[labeled].T,
            "o",
            markersize=5.4,
            markerfacecolor="none",
            markeredgecolor=color,
            markeredgewidth=width_points,
        )
    axes.plot(
        *predicted[labeled].T,
        "o",
        markersize=3.6,
        markerfacecolor=PREDICTION_COLOR,
        markeredgewidth=0.5,
        **halo,
    )
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)
    axes.set_axis_off()


def _caption(axes: Axes, text: str) -> None:
    from matplotlib.patheffects import withStroke

    axes.annotate(
        text,
        (0, 0),
        (4, 4),
        xycoords="axes fraction",
        textcoords="offset points",
        color="#ffffff",
        fontsize=7.5,
        path_effects=[withStroke(linewidth=2, foreground=_HALO)],
    )


def _legend_for_faces(figure: Figure, theme: Theme, *, unlabelled: bool, labelled: bool) -> None:
    from matplotlib.lines import Line2D

    def mark(label: str, size: float, **style: Any) -> Line2D:
        return Line2D([], [], marker="o", linestyle="none", markersize=size, label=label, **style)

    orange = {"markerfacecolor": PREDICTION_COLOR, "markeredgecolor": _HALO}
    handles = []
    if labelled:
        ring = {"markerfacecolor": "none", "markeredgecolor": "#1496d6", "markeredgewidth": 1.8}
        handles.append(mark("truth (label)", 7.5, **ring))
        handles.append(mark("prediction", 6.5, markeredgewidth=0.5, **orange))
    if unlabelled:
        handles.append(
            mark("prediction without a label", 4.5, markeredgewidth=0.3, alpha=0.6, **orange)
        )
    if handles:
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=len(handles),
            frameon=False,
            fontsize=_TEXT,
            labelcolor=theme.ink,
            handletextpad=0.2,
        )


def _check_predictions(dataset: FaceDataset, predicted_xy: FloatArray) -> FloatArray:
    expected = dataset.keypoints.xy.shape
    if np.shape(predicted_xy) != expected:
        raise ValueError(
            f"predicted_xy must have shape {expected}, received {np.shape(predicted_xy)}."
        )
    return predicted_xy


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
        seed: Picks the faces (:func:`pick_faces`): same seed and data, same faces for each recipe.
        theme: "light" or "dark".
    """
    predicted = _check_predictions(dataset, predicted_xy)
    from_theme = THEMES[theme]
    picked = pick_faces(dataset, rows * columns, seed=seed)
    used_rows = max(1, -(-len(picked) // columns))
    figure = _figure(
        1.55 * columns + 0.1, 1.55 * used_rows + 0.95, from_theme, wspace=0.02, hspace=0.02
    )
    per_face = rmse_per_face(dataset.keypoints.xy, predicted)
    grid = figure.subplots(used_rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, row in zip(grid.flat, picked, strict=False):
        _draw_face(axes, dataset, int(row), predicted[row])
        if np.isfinite(per_face[row]):
            _caption(axes, f"{per_face[row]:.2f} px")
    overall = rmse(dataset.keypoints.xy, predicted)
    score = f"RMSE {overall:.2f} px on {len(dataset):,} faces" if np.isfinite(overall) else ""
    title = f"{recipe}  ·  {score}" if score else recipe
    figure.suptitle(title, color=from_theme.ink, fontsize=_TITLE, fontweight="bold")
    labeled = dataset.keypoints.labeled[picked]
    _legend_for_faces(
        figure, from_theme, unlabelled=not labeled.all(), labelled=bool(labeled.any())
    )
    return figure


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
    """
    predicted = _check_predictions(dataset, predicted_xy)
    from_theme = THEMES[theme]
    per_face = rmse_per_face(dataset.keypoints.xy, predicted)
    order = np.argsort(per_face, kind="stable")[: int(np.isfinite(per_face).sum())]
    figure = _figure(1.55 * count + 0.1, 4.5, from_theme, wspace=0.02, hspace=0.02)
    grid = figure.subplots(2, count, squeeze=False)
    labeled = np.zeros(0, bool)
    for line, name, rows in zip(
        grid, ("best", "worst"), (order[:count], order[::-1][:count]), strict=True
    ):
        line[0].set_title(name, loc="left", color=from_theme.muted, fontsize=_TEXT)
        for axes in line:
            axes.set_axis_off()
        for axes, row in zip(line, rows, strict=False):
            _draw_face(axes, dataset, int(row), predicted[row])
            _caption(axes, f"{per_face[row]:.2f} px")
        labeled = np.append(labeled, dataset.keypoints.labeled[rows])
    figure.suptitle(
        f"{recipe}  ·  best and worst faces",
        color=from_theme.ink,
        fontsize=_TITLE,
        fontweight="bold",
    )
    _legend_for_faces(
        figure, from_theme, unlabelled=not labeled.all(), labelled=bool(labeled.any())
    )
    return figure


# Panels of plot_measurements: title, unit, measures; left is drawn full and right dashed.
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
    ("Roll of the head", "degrees", ("head_roll",)),
    ("Turn of the head", "degrees", ("head_turn",)),
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
        tracks: (N,) who it is; one curve each, of the six longest. One face when left out.
        theme: "light" or "dark".
    """
    colors = THEMES[theme]
    who = np.zeros(len(found), int) if tracks is None else np.asarray(tracks)
    names, counts = np.unique(who, return_counts=True)
    shown = names[np.sort(np.argsort(-counts, kind="stable")[: len(colors.series)])]
    # Lips and mouth say the same without a neutral face as opening and smile do with one.
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
                t, value, sigma = _with_gaps(
                    times_s[rows], found.values[rows, m], found.sigma[rows, m]
                )
                color = colors.series[line]
                label = f"face {track}" if measure == measures[0] else None
                axes.plot(t, value, style, color=color, linewidth=1.3, label=label)
                axes.fill_between(t, value - sigma, value + sigma, color=color, alpha=0.15, lw=0)
        if measures == ("head_turn",):
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
    brows = "brows: left full, right dashed; "
    figure.supxlabel(
        f"Bands: one standard deviation from the points' confidence; {brows}dotted: too far turned.\n"
        "Not a medical device, for information only.",
        color=colors.muted,
        fontsize=_SMALL,
        x=0.01,
        ha="left",
    )
    return figure


def _with_gaps(
    times: NDArray[Any], *curves: NDArray[np.float64]
) -> tuple[NDArray[np.float64], ...]:
    """The curves with a NaN where a face was away, so that no line is drawn across."""
    times = np.asarray(times, np.float64)
    steps = np.diff(times)
    if not len(steps):
        return (times, *curves)
    away = np.flatnonzero(steps > 3.0 * max(float(np.median(steps)), 1e-9)) + 1
    return (
        np.insert(times, away, times[away]),
        *(np.insert(curve, away, np.nan) for curve in curves),
    )


def save_figure(figure: Figure, path: str | Path, *, dpi: int = 150) -> Path:
    """Write a figure; the suffix of ``path`` gives the format (.png, .svg, .pdf).

    Written under a temporary name and renamed, so an interrupted run leaves no half file; an
    existing file is replaced.

    Raises:
        OutputError: The file cannot be written.
    """
    target = Path(path)
    with atomic_path(target) as temporary:
        figure.savefig(
            temporary,
            format=target.suffix.lstrip(".") or "png",
            dpi=dpi,
            facecolor=figure.get_facecolor(),
        )
    return target
