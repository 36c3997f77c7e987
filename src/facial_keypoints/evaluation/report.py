"""Results for people and programs: ``report.html``, ``results.json``, ``results.csv``, tables.

This module prepares plain values; ``templates/report.html.j2`` shows them. Charts are SVG in two
themes, faces are small PNGs with the points as SVG on top, so one image serves every recipe.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from facial_keypoints.evaluation import pages, plots
from facial_keypoints.evaluation.metrics import rmse_per_face
from facial_keypoints.evaluation.pages import duration, interval, percent, px
from facial_keypoints.evaluation.scores import (
    CED_THRESHOLDS,
    ComparisonResult,
    EvaluationReport,
    HeldOutReport,
    KeypointScores,
    RecipeResult,
    Scores,
    rank,
)
from facial_keypoints.files import write_json, write_text
from facial_keypoints.io.images import encode_image
from facial_keypoints.io.tables import write_table
from facial_keypoints.types import FloatArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

__all__ = [
    "CSV_COLUMNS",
    "Chart",
    "comparison_charts",
    "describe_training_faces",
    "render_comparison",
    "render_evaluation",
    "write_report",
    "write_results_csv",
    "write_results_json",
]

GRID_FACES, EXTREME_FACES = 24, 6

CSV_COLUMNS = (
    "recipe", "style", "keypoint", "faces", "groups", "labels", "rmse_px", "rmse_low", "rmse_high",
    "mae_px", "median_px", "nme", "nme_faces", "auc_0.10", "failure_rate_0.10", "pck_0.05",
    "pck_0.10",
)  # fmt: skip
"""One row per recipe, style and keypoint, and one for all of each; only the rows of all keypoints have
the measures of faces (from ``nme`` on)."""


def write_results_json(path: str | Path, comparison: ComparisonResult) -> None:
    """Write every number of a comparison as JSON; NaN becomes null.

    Raises:
        OutputError: The file cannot be written.
    """
    write_json(Path(path), comparison.to_dict())


def write_results_csv(path: str | Path, comparison: ComparisonResult) -> None:
    """Write :data:`CSV_COLUMNS`; a cell is empty where nothing is labelled or the measure has no meaning.

    Raises:
        OutputError: The file cannot be written.
    """
    rows = (
        [recipe.name, style, *map(_cell, row)]
        for recipe in comparison.recipes
        for style, scores in _styles(recipe.report)
        for row in _csv_rows(scores)
    )
    write_table(Path(path), CSV_COLUMNS, rows)


def _styles(report: EvaluationReport) -> list[tuple[str, Scores]]:
    return [("all", report.overall), *report.by_style.items()]


def _csv_rows(scores: Scores) -> Iterable[list[Any]]:
    """The values of :data:`CSV_COLUMNS` from ``keypoint`` on."""
    of_faces = [scores.nme, scores.nme_faces, scores.auc, scores.failure_rate, *scores.pck.values()]
    counts = [scores.num_faces, scores.num_groups]
    measured: list[tuple[str, Scores | KeypointScores]] = [("all", scores)]
    measured += [(point.name, point) for point in scores.keypoints]
    for name, m in measured:
        errors = [m.num_labels, m.rmse_px, *m.rmse_interval, m.mae_px, m.median_px]
        yield [name, *counts, *errors, *(of_faces if m is scores else [None] * len(of_faces))]


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value


# --- tables -----------------------------------------------------------------------------------


class _Column(NamedTuple):
    heading: str
    notes: tuple[str, ...] = ()  # small print below


class _Cell(NamedTuple):
    text: str
    key: str = ""  # what a click on the heading sorts by
    note: str = ""  # small print below
    best: bool = False


class _Table(NamedTuple):
    columns: list[_Column]
    rows: list[list[_Cell]]
    colored: bool  # rows are recipes, whose names have colours


def _number(text: str, value: float, **more: Any) -> _Cell:
    return _Cell(text, "" if math.isnan(value) else f"{value:.8g}", **more)


def _shown_styles(report: EvaluationReport) -> list[tuple[str, Scores]]:
    """All faces, and each style if there are several; a single one would have the same numbers."""
    names = {"all": "all faces", "": "no style"}
    styles = _styles(report)
    return [(names.get(n, n), s) for n, s in (styles if len(styles) > 2 else styles[:1])]


def _measures(scores: Scores) -> list[tuple[_Column, _Cell]]:
    """What is measured beside the RMSE."""
    auc = "–" if math.isnan(scores.auc) else f"{scores.auc:.3f}"
    measured = [
        ("MAE", "px", px(scores.mae_px), scores.mae_px),
        ("median", "px", px(scores.median_px), scores.median_px),
        ("NME", "", percent(scores.nme), scores.nme),
        ("AUC", "10 %", auc, scores.auc),
        ("failures", "NME > 10 %", percent(scores.failure_rate), scores.failure_rate),
        *(("PCK", f"{t * 100:g} %", percent(v), v) for t, v in scores.pck.items()),
    ]
    return [
        (_Column(heading, (note,) if note else ()), _number(text, value))
        for heading, note, text, value in measured
    ]


def _score_table(recipes: Sequence[RecipeResult], first: str, *, colored: bool) -> _Table:
    """A row per recipe; the lowest RMSE of each style is marked."""
    report = recipes[0].report
    columns = [_Column(first)]
    columns += [
        _Column("RMSE px", (style, f"{s.num_faces:,} faces", f"{s.num_labels:,} labels"))
        for style, s in _shown_styles(report)
    ]
    columns += [column for column, _ in _measures(report.overall)]
    columns.append(_Column("trained in"))
    by_recipe = [[s for _, s in _shown_styles(r.report)] for r in recipes]
    new = [s for s, r in zip(by_recipe, recipes, strict=True) if not r.seen_faces] or by_recipe
    lowest = np.fmin.reduce([[s.rmse_px for s in scores] for scores in new])  # of each style
    rows = []
    for recipe, scores in zip(recipes, by_recipe, strict=True):
        row = [_Cell(recipe.name, recipe.name, recipe.warning)]
        row += [
            _number(
                px(s.rmse_px),
                s.rmse_px,
                note=interval(s.rmse_interval),
                best=s.rmse_px == best and len(recipes) > 1 and not recipe.seen_faces,
            )
            for s, best in zip(scores, lowest, strict=True)
        ]
        row += [cell for _, cell in _measures(recipe.report.overall)]
        row.append(_number(duration(recipe.train_seconds), recipe.train_seconds))
        rows.append(row)
    return _Table(columns, rows, colored)


def render_comparison(comparison: ComparisonResult, width: int) -> Table:
    """The comparison as a table for the terminal (rich), best recipe first.

    Columns that do not fit in ``width`` characters are left out, the least important first; no name is.
    """
    from rich.table import Table
    from rich.text import Text

    scores = _score_table(comparison.ranking, "recipe", colored=False)
    shown = [
        (column, [cells[i] for cells in scores.rows])
        for i, column in enumerate(scores.columns)
        if column.heading not in ("median", "AUC", "PCK")  # the report has them all
    ]

    def text(cell: _Cell, place: int) -> str:
        return f"{cell.text} ({cell.note})" if place and cell.note else cell.text

    def needed() -> int:
        """Characters of a row; each column has a border and two spaces beside its text."""
        return 1 + sum(
            3 + max(len(t) for t in (c.heading, *c.notes, *(text(cell, i) for cell in cells)))
            for i, (c, cells) in enumerate(shown)
        )

    for heading in ("MAE", "NME", "trained in", "failures"):
        if needed() > width:
            shown = [one for one in shown if one[0].heading != heading]
    table = Table(
        title="Errors on held-out faces, 95 % intervals in brackets",
        title_justify="left",
        caption=Text("\n".join(f"{r.name}: {r.warning}" for r in comparison.recipes if r.warning)),
        caption_justify="left",
    )
    for i, (column, _) in enumerate(shown):
        heading_text = Text("\n".join([column.heading, *column.notes]))
        justify: Any = "right" if i else "left"
        table.add_column(heading_text, justify=justify, overflow="fold", style="" if i else "bold")
    for place in range(len(scores.rows)):
        cells = [Text(text(column[place], i)) for i, (_, column) in enumerate(shown)]
        table.add_row(*cells, style="green" if place == 0 and len(scores.rows) > 1 else None)
    return table


def render_evaluation(report: EvaluationReport) -> Table:
    """One report as a table for the terminal (rich): styles as columns, keypoints as rows."""
    from rich.table import Table
    from rich.text import Text

    styles = _shown_styles(report)
    scores = [s for _, s in styles]
    table = Table(title="RMSE in pixels (95 % interval) and number of labels", title_justify="left")
    table.add_column("keypoint")
    for style, s in styles:
        table.add_column(Text(f"{style}\n{s.num_faces:,} faces"), justify="right")

    def cell(s: Scores | KeypointScores) -> str:
        if not s.num_labels:
            return "–"
        return f"{px(s.rmse_px)} ({interval(s.rmse_interval)})  {s.num_labels:,}"

    for points in zip(*(s.keypoints for s in scores), strict=True):
        table.add_row(Text(plots.keypoint_label(points[0].name)), *map(cell, points))
    table.add_section()
    table.add_row("all keypoints", *map(cell, scores), style="bold")
    for measured in zip(*map(_measures, scores), strict=True):
        column = measured[0][0]
        name = " ".join([column.heading, *column.notes])
        table.add_row(name, *(shown.text for _, shown in measured))
    table.add_row("faces with an NME", *(f"{s.nme_faces:,}" for s in scores))
    return table


def describe_training_faces(report: HeldOutReport) -> str:
    """One line for the terminal: the number of training faces among the faces, and the error on them."""
    held_out = report.held_out.overall.num_faces
    count, apart = report.num_training_faces, report.on_training_faces
    if count is None:
        return (
            f"The model does not record its training faces: the {held_out:,} faces may be among them, and "
            "the errors may then be too low."
        )
    if apart is None:
        return f"None of the {held_out:,} faces is a training or validation face of the model."
    error = f"RMSE {px(apart.overall.rmse_px)} px"
    if not held_out:
        return (
            f"All {count:,} faces are training or validation faces of the model, so the error on new faces "
            f"is not known. On these faces: {error}."
        )
    return (
        f"{count:,} of {held_out + count:,} faces are training or validation faces of the model and are "
        f"left out above. On these faces: {error}."
    )


# --- page -------------------------------------------------------------------------------------


def write_report(path: str | Path, comparison: ComparisonResult) -> None:
    """Write a comparison as one self-contained web page for a person to read.

    Args:
        path: The .html file; replaced if it exists, never half written.
        comparison: What to show. Sections without data are left out.

    Raises:
        MissingExtraError: matplotlib or jinja2 is not installed.
        OutputError: The file cannot be written.
    """
    recipes = comparison.recipes
    headline = _headline(comparison)
    missing = rank(comparison.missing_results)
    parts = {"train": "faces to train", "val": "faces to validate", "test": "held-out faces"}
    page = pages.render(
        "report.html.j2",
        result=comparison,
        test=comparison.test,
        names=[r.name for r in recipes],
        indices={r.name: i for i, r in enumerate(recipes)},
        series={name: theme.series for name, theme in plots.THEMES.items()},
        winner=comparison.ranking[0],
        headline=headline,
        title=headline.name if headline in recipes else headline.description,
        drawn=comparison.test.source.startswith("drawn "),
        lead=_lead(comparison),
        share=_share_of_longest(comparison),
        norm_pair=" and ".join(map(plots.keypoint_label, headline.report.norm_pair)),
        scores=_score_table(comparison.ranking, "recipe", colored=True),
        missing_scores=_score_table(missing, "missing labels", colored=False) if missing else None,
        **_faces(comparison),
        charts={
            name: {"alt": chart.alt, **{theme: _svg(chart.plot, theme) for theme in plots.THEMES}}
            for name, chart in comparison_charts(comparison).items()
        },
        training=_training(recipes),
        split={parts.get(k, k): v for k, v in comparison.split.items()},
    )
    write_text(Path(path), page)


def _headline(comparison: ComparisonResult) -> RecipeResult:
    """What has the lowest RMSE of every row of the page, strategies for missing labels included."""
    return rank([*comparison.recipes, *comparison.missing_results])[0]


def _lead(comparison: ComparisonResult) -> dict[str, Any] | None:
    """The difference between the best recipe and the second; ``None`` if there is no second error."""
    best = _headline(comparison)
    others = [r for r in comparison.ranking if r is not best and not r.seen_faces]
    if not others or math.isnan(others[0].report.overall.rmse_px):
        return None
    gap, ends = comparison.difference(best, others[0])
    known = not math.isnan(ends.low)
    return {
        "second": others[0].name,
        "gap": gap,
        "interval": ends,
        "known": known,
        "certain": not known or ends.low > 0,
    }


def _share_of_longest(comparison: ComparisonResult) -> Callable[[float], float]:
    """A function from pixels to percent of the longest bar; 0 for NaN."""
    scores = [r.report.overall for r in comparison.recipes]
    ends = [v for s in scores for v in (s.rmse_px, s.rmse_interval.high) if not math.isnan(v)]
    longest = max(ends, default=0.0) or 1.0
    return lambda value: 0.0 if math.isnan(value) else round(100 * value / longest, 2)


def _faces(comparison: ComparisonResult) -> dict[str, Any]:
    """The grid of faces with every recipe's points, and each recipe's worst and best faces."""
    test, recipes = comparison.test, comparison.recipes
    truth = test.keypoints.xy
    errors = [rmse_per_face(truth, r.predicted_xy) for r in recipes]
    height, width = test.image_size

    def rounded(xy: FloatArray) -> list[tuple[float, float] | None]:
        return [
            (x, y) if math.isfinite(x + y) else None
            for x, y in np.round(xy.astype(float), 2).tolist()
        ]

    def face(row: int, shown: Sequence[int], caption: str) -> dict[str, Any]:
        image = test.images[row]
        labels = rounded(truth[row])
        return {
            "id": test.sample_ids[row],
            "width": width,
            "height": height,
            "unit": max(height, width) / 96.0,  # marks are sized for 96-pixel images
            "image": pages.data_uri("image/png", encode_image(image)),
            "truth": [label for label in labels if label],
            "layers": {
                i: list(zip(rounded(recipes[i].predicted_xy[row]), labels, strict=True))
                for i in shown
            },
            "errors": {i: float(errors[i][row]) for i in shown},
            "caption": caption,
        }

    extremes = []
    for i, error in enumerate(errors):
        order = plots.order_by_error(error).tolist()
        extremes.append(
            [
                [face(row, [i], test.sample_ids[row]) for row in rows[:EXTREME_FACES]]
                for rows in (order[::-1], order)
            ]
        )
    everyone = range(len(recipes))
    rows = plots.pick_faces(test, GRID_FACES).tolist()
    return {
        "grid": [face(row, everyone, test.styles[row]) for row in rows],
        "extremes": extremes if extremes[0][0] else [],
    }


class Chart(NamedTuple):
    """A chart of a comparison.

    Args:
        alt: What it shows, for people who cannot see it.
        plot: Draws it; takes the keyword ``theme``.
    """

    alt: str
    plot: Callable[..., Figure]


def comparison_charts(comparison: ComparisonResult) -> dict[str, Chart]:
    """The charts of a comparison for which there are data, by name.

    The names are ``learning_curves``, ``keypoint_errors``, ``ced`` and ``missing_labels``.
    """
    # A recipe without history keeps its place, so that colours agree between charts.
    histories = {r.name: r.history for r in comparison.recipes}
    scores = {r.name: r.report.overall for r in comparison.recipes}
    test, train = comparison.test, comparison.train
    charts = {}
    if any(h.get("rmse_px") or h.get("val_rmse_px") for h in histories.values()):
        charts["learning_curves"] = Chart(
            "RMSE in pixels per epoch for every recipe",
            partial(plots.plot_learning_curves, histories),
        )
    if test.label_counts.any():
        errors = {
            name: (
                np.array([k.rmse_px for k in s.keypoints]),
                np.array([k.rmse_interval for k in s.keypoints]),
            )
            for name, s in scores.items()
        }
        names, counts = test.schema.keypoint_names, test.label_counts.tolist()
        charts["keypoint_errors"] = Chart(
            "RMSE of every keypoint for every recipe, with intervals",
            partial(plots.plot_keypoint_errors, names, errors, num_labels=counts),
        )
    if any(s.nme_faces for s in scores.values()):
        curves = {name: s.ced for name, s in scores.items()}
        charts["ced"] = Chart(
            "Cumulative error distribution for every recipe",
            partial(plots.plot_ced, CED_THRESHOLDS, curves),
        )
    if train is not None and len(train):
        charts["missing_labels"] = Chart(
            "How many training faces have each keypoint labelled",
            partial(plots.plot_missing_labels, train),
        )
    return charts


def _svg(plot: Callable[..., Figure], theme: str) -> str:
    """A chart as the address of an SVG image."""
    buffer = io.BytesIO()
    # Without a date, and transparent so that the page's background shows through.
    plot(theme=theme).savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    return pages.data_uri("image/svg+xml", buffer.getvalue())


def _training(recipes: Sequence[RecipeResult]) -> list[tuple[str, list[str]]]:
    """Name and value per recipe of everything that was chosen."""
    keys = dict.fromkeys(k for r in recipes for k in r.settings)
    return [
        ("about", [r.description or "–" for r in recipes]),
        ("parameters", [pages.setting(r.num_parameters or None) for r in recipes]),
        *(
            (key.replace("_", " "), [pages.setting(r.settings.get(key)) for r in recipes])
            for key in keys
        ),
    ]
