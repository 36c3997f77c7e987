"""Results for people and programs: ``report.html``, ``results.json``, ``results.csv``, tables.

The page is one file: styles, charts (SVG in two themes) and faces are inside, nothing is fetched,
and its content security policy forbids it. The faces are small PNGs with the points as SVG on top,
so one picture serves every recipe.
"""

from __future__ import annotations

import base64
import csv
import html
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from facial_keypoints import plots
from facial_keypoints.evaluation import (
    CED_THRESHOLDS,
    ComparisonResult,
    EvaluationReport,
    RecipeResult,
    Scores,
)
from facial_keypoints.files import atomic_path, write_json, write_text
from facial_keypoints.metrics import Interval, rmse_per_face
from facial_keypoints.pictures import encode_image
from facial_keypoints.types import FaceDataset, FloatArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

__all__ = [
    "CSV_COLUMNS",
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
"""One row per recipe, style and keypoint, "all" among both; measures of faces in "all" rows only."""


def write_results_json(path: str | Path, comparison: ComparisonResult) -> None:
    """Write every number of a comparison as JSON; NaN becomes null.

    Raises:
        OutputError: The file cannot be written.
    """
    write_json(Path(path), comparison.to_dict())


def write_results_csv(path: str | Path, comparison: ComparisonResult) -> None:
    """Write :data:`CSV_COLUMNS`; an empty cell means that nothing is labelled or it has no meaning.

    Raises:
        OutputError: The file cannot be written.
    """
    with (
        atomic_path(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, CSV_COLUMNS, restval="")
        writer.writeheader()
        for recipe in comparison.recipes:
            for style, scores in _styles(recipe.report):
                for row in _csv_rows(scores):
                    cells = {k: _cell(v) for k, v in row.items()}
                    writer.writerow({"recipe": recipe.name, "style": style, **cells})


def _styles(report: EvaluationReport) -> list[tuple[str, Scores]]:
    return [("all", report.overall), *report.by_style.items()]


def _csv_rows(scores: Scores) -> Iterable[dict[str, Any]]:
    yield {
        "keypoint": "all",
        "faces": scores.num_faces,
        "groups": scores.num_groups,
        "labels": scores.num_labels,
        "rmse_px": scores.rmse_px,
        "rmse_low": scores.rmse_interval.low,
        "rmse_high": scores.rmse_interval.high,
        "mae_px": scores.mae_px,
        "median_px": scores.median_px,
        "nme": scores.nme,
        "nme_faces": scores.nme_faces,
        "auc_0.10": scores.auc,
        "failure_rate_0.10": scores.failure_rate,
        **{f"pck_{threshold:.2f}": share for threshold, share in scores.pck.items()},
    }
    for point in scores.keypoints:
        yield {
            "keypoint": point.name,
            "faces": scores.num_faces,
            "groups": scores.num_groups,
            "labels": point.num_labels,
            "rmse_px": point.rmse_px,
            "rmse_low": point.rmse_interval.low,
            "rmse_high": point.rmse_interval.high,
            "mae_px": point.mae_px,
            "median_px": point.median_px,
        }


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value


def _px(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1%}".replace("%", " %")


def _range(interval: Interval) -> str:
    if math.isnan(interval.low):
        return "–"
    if interval.low < 0:  # a dash between signs would be read as one
        return f"{interval.low:.2f} to {interval.high:.2f}".replace("-", "−")
    return f"{interval.low:.2f}–{interval.high:.2f}"


def _duration(seconds: float) -> str:
    if math.isnan(seconds):
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _style_name(style: str) -> str:
    return {"all": "all faces", "": "no style"}.get(style, style)


# --- terminal ---------------------------------------------------------------------------------


def render_comparison(comparison: ComparisonResult) -> Table:
    """The comparison as a table for the terminal (rich), best recipe first."""
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title="RMSE in pixels on held-out faces, 95 % intervals in brackets", title_justify="left"
    )
    table.add_column("recipe", style="bold")
    first = comparison.recipes[0].report
    for style, scores in _styles(first):
        header = f"{_style_name(style)}\n{scores.num_faces:,} faces\n{scores.num_labels:,} labels"
        table.add_column(Text(header), justify="right")
    for name in ("MAE px", "NME", "failures", "trained in"):
        table.add_column(name, justify="right")
    for rank, recipe in enumerate(comparison.ranking):
        overall = recipe.report.overall
        table.add_row(
            Text(recipe.name),
            *(f"{_px(s.rmse_px)} ({_range(s.rmse_interval)})" for _, s in _styles(recipe.report)),
            _px(overall.mae_px),
            _percent(overall.nme),
            _percent(overall.failure_rate),
            _duration(recipe.train_seconds),
            style="green" if rank == 0 and len(comparison.recipes) > 1 else None,
        )
    return table


def render_evaluation(report: EvaluationReport) -> Table:
    """One report as a table for the terminal (rich): styles as columns, keypoints as rows."""
    from rich.table import Table
    from rich.text import Text

    styles = _styles(report)
    if len(styles) == 2:  # one style only: it would repeat the column of all faces
        styles = styles[:1]
    table = Table(title="RMSE in pixels (95 % interval) and number of labels", title_justify="left")
    table.add_column("keypoint")
    for style, scores in styles:
        table.add_column(Text(f"{_style_name(style)}\n{scores.num_faces:,} faces"), justify="right")

    def cell(rmse_px: float, interval: Interval, num_labels: int) -> str:
        if not num_labels:
            return "–"
        return f"{_px(rmse_px)} ({_range(interval)})  {num_labels:,}"

    for k, point in enumerate(report.overall.keypoints):
        cells = [s.keypoints[k] for _, s in styles]
        table.add_row(
            Text(plots.keypoint_label(point.name)),
            *(cell(c.rmse_px, c.rmse_interval, c.num_labels) for c in cells),
        )
    table.add_section()
    table.add_row(
        "all keypoints",
        *(cell(s.rmse_px, s.rmse_interval, s.num_labels) for _, s in styles),
        style="bold",
    )
    for name, values in (
        ("MAE px", [_px(s.mae_px) for _, s in styles]),
        ("median point error px", [_px(s.median_px) for _, s in styles]),
        ("NME", [f"{_percent(s.nme)}  {s.nme_faces:,} faces" for _, s in styles]),
        ("failures (NME > 10 %)", [_percent(s.failure_rate) for _, s in styles]),
        ("AUC at 10 %", [_px(s.auc) for _, s in styles]),
        *(
            (f"points within {t * 100:g} %", [_percent(s.pck[t]) for _, s in styles])
            for t in report.overall.pck
        ),
    ):
        table.add_row(name, *values)
    return table


# --- page -------------------------------------------------------------------------------------


def write_report(path: str | Path, comparison: ComparisonResult) -> None:
    """Write a comparison as one self-contained web page for a person to read.

    Args:
        path: The .html file; replaced if it exists, never half written.
        comparison: What to show. Sections without data are left out.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OutputError: The file cannot be written.
    """
    write_text(Path(path), _page(comparison))


def _e(value: Any) -> str:
    return html.escape(str(value), quote=True)


def _page(comparison: ComparisonResult) -> str:
    template = Template(
        resources.files("facial_keypoints").joinpath("report_page.html").read_text("utf-8")
    )
    series = {
        theme: " ".join(f"--s{i}: {c};" for i, c in enumerate(plots.THEMES[theme].series))
        for theme in ("light", "dark")
    }
    # A radio button shows the predictions of its recipe, in the grid and among the extremes.
    rules = "\n".join(
        f"#r{i}:checked ~ .faces .p{i} {{ display: inline; }}\n"
        f"#w{i}:checked ~ .choice{i} {{ display: block; }}\n"
        f"#r{i}:checked ~ .pick label[for=r{i}], #w{i}:checked ~ .pick label[for=w{i}]"
        f" {{ background: var(--ink); color: var(--paper); border-color: var(--ink); }}\n"
        f"#r{i}:focus-visible ~ .pick label[for=r{i}], #w{i}:focus-visible ~ .pick label[for=w{i}]"
        " { outline: 2px solid var(--prediction); outline-offset: 2px; }"
        for i in range(len(comparison.recipes))
    )
    sections = [
        _headline(comparison),
        _results_table(comparison),
        _face_grid(comparison),
        _curves(comparison),
        _per_keypoint(comparison),
        _ced(comparison),
        _extremes(comparison),
        _missing(comparison),
        _training(comparison),
        _data(comparison),
        _reproduce(comparison),
    ]
    return template.substitute(
        title=_e(f"Facial keypoints: {', '.join(r.name for r in comparison.recipes)}"),
        light_series=series["light"],
        dark_series=series["dark"],
        chooser_rules=rules,
        body="\n".join(s for s in sections if s),
    )


def _series(comparison: ComparisonResult, recipe: RecipeResult) -> str:
    """The recipe's colour, the same in every chart and table."""
    index = [r.name for r in comparison.recipes].index(recipe.name)
    return f"--c: var(--s{index % len(plots.THEMES['light'].series)})"


def _headline(comparison: ComparisonResult) -> str:
    ranking = comparison.ranking
    winner = ranking[0]
    overall = winner.report.overall
    faces = f"{overall.num_faces:,} held-out faces"
    where = f" of {_e(comparison.test.source)}" if comparison.test.source else ""
    if math.isnan(overall.rmse_px):
        heading = "No held-out face is labelled"
        lead = f"There is nothing to measure on the {faces}{where}."
    elif len(ranking) == 1 or math.isnan(ranking[1].report.overall.rmse_px):
        heading = f"{_e(winner.name)}: {_px(overall.rmse_px)} px"
        lead = (
            f"Root mean square error over the labelled coordinates of {faces}{where}; "
            f"95 % interval {_range(overall.rmse_interval)} px."
        )
    else:
        gap, interval = comparison.difference(winner, ranking[1])
        second = _e(ranking[1].name)
        if math.isnan(interval.low):
            clear, sure = True, "too few groups of faces to say how sure that is"
        else:
            clear = interval.low > 0
            sure = f"95 % interval {_range(interval)}"
        heading = f"{_e(winner.name)} {'wins' if clear else 'leads, but not clearly'}: "
        heading += f"{_px(overall.rmse_px)} px"
        lead = (
            f"That is {_px(gap)} px less than {second} ({sure}), measured on the same "
            f"{faces}{where}."
        )
        if not clear:
            lead += " The interval reaches past zero: other faces could turn the order around."
    context = []
    if not math.isnan(overall.nme):
        context.append(
            f"The average face of {_e(winner.name)} is off by {_percent(overall.nme)} of the "
            f"distance between the eyes; {_percent(overall.failure_rate)} of faces are off by more "
            "than 10 %."
        )
    longest = (
        max(
            [
                0.0,
                *(r.report.overall.rmse_interval.high for r in ranking),
                *(r.report.overall.rmse_px for r in ranking),
            ],
            key=lambda v: -1.0 if math.isnan(v) else v,
        )
        or 1.0
    )
    bars = []
    for recipe in ranking:
        scores = recipe.report.overall
        style = _series(comparison, recipe)
        share = 0.0 if math.isnan(scores.rmse_px) else 100 * scores.rmse_px / longest
        low, high = scores.rmse_interval
        whisker = (
            ""
            if math.isnan(low)
            else f'<s style="left:{100 * low / longest:.2f}%;width:{100 * (high - low) / longest:.2f}%"></s>'
        )
        bars.append(
            f'<b style="{style}">{_e(recipe.name)}</b>'
            f'<span class="track" style="{style}"><i style="width:{share:.2f}%"></i>{whisker}</span>'
            f'<span class="num">{_px(scores.rmse_px)} px</span>'
        )
    date = " · ".join(_e(v) for v in (comparison.created, comparison.machine) if v)
    return (
        f'<header><p class="eyebrow">Facial keypoints compared{" · " + date if date else ""}</p>'
        f'<h1>{heading}</h1><p class="lead">{lead}</p><p>{" ".join(context)}</p>'
        f'<div class="bars" role="img" aria-label="RMSE per recipe">{"".join(bars)}</div>'
        '<p class="note">RMSE in pixels of the picture, lower is better; the line is the 95 % '
        "interval.</p></header>"
    )


def _table(
    header: Sequence[str],
    rows: Sequence[Sequence[tuple[str, str]]],
    *,
    sortable: bool = True,
    words: bool = False,
) -> str:
    """A table of cells (HTML, sort key); the header is HTML."""
    head = "".join(f"<th>{f'<button>{h}</button>' if sortable else h}</th>" for h in header)
    body = "".join(
        "<tr>" + "".join(f'<td data-value="{_e(key)}">{cell}</td>' for cell, key in row) + "</tr>"
        for row in rows
    )
    classes = " ".join(c for c, on in (("sortable", sortable), ("words", words)) if on)
    return (
        f'<div class="scroll" tabindex="0"><table class="{classes}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _key(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.8g}"


def _score_rows(
    comparison: ComparisonResult, recipes: Sequence[RecipeResult], *, colored: bool
) -> list[list[tuple[str, str]]]:
    """Rows of the results table; the lowest RMSE of each style is marked."""
    styles = [s for s, _ in _styles(recipes[0].report)]
    by_recipe = [dict(_styles(r.report)) for r in recipes]

    def best(style: str) -> float:
        values = [s[style].rmse_px for s in by_recipe if not math.isnan(s[style].rmse_px)]
        return min(values, default=math.nan)

    lowest = {style: best(style) for style in styles}
    rows = []
    for recipe, scores in zip(recipes, by_recipe, strict=True):
        color = f' style="{_series(comparison, recipe)}"' if colored else ""
        row = [(f"<b{color}>{_e(recipe.name)}</b>", recipe.name)]
        for style in styles:
            s = scores[style]
            mark = ' class="best"' if s.rmse_px == lowest[style] and len(recipes) > 1 else ""
            cell = f"<span{mark}>{_px(s.rmse_px)}</span><small>{_range(s.rmse_interval)}</small>"
            row.append((cell, _key(s.rmse_px)))
        s = scores["all"]
        row += [(_px(v), _key(v)) for v in (s.mae_px, s.median_px)]
        row.append((_percent(s.nme), _key(s.nme)))
        row.append((f"{s.auc:.3f}" if not math.isnan(s.auc) else "–", _key(s.auc)))
        row.append((_percent(s.failure_rate), _key(s.failure_rate)))
        row += [(_percent(v), _key(v)) for v in s.pck.values()]
        rows.append(row)
    return rows


def _score_header(report: EvaluationReport, first: str) -> list[str]:
    header = [first]
    for style, s in _styles(report):
        name = "RMSE px" if style == "all" else _e(_style_name(style))
        header.append(
            f"{name}<small>{s.num_faces:,} faces</small><small>{s.num_labels:,} labels</small>"
        )
    header += ["MAE<small>px</small>", "median<small>px</small>", "NME", "AUC<small>10 %</small>"]
    header.append("failures<small>NME &gt; 10 %</small>")
    return header + [f"PCK<small>{t * 100:g} %</small>" for t in report.overall.pck]


def _results_table(comparison: ComparisonResult) -> str:
    report = comparison.ranking[0].report
    missing = report.overall.nme_missing
    lacked = (
        f" {missing:,} labelled faces lack one of these two points and do not count there."
        if missing
        else ""
    )
    pair = " and ".join(plots.keypoint_label(n) for n in report.norm_pair)
    return (
        "<h2>Results</h2><p>RMSE over all held-out faces and per label style, with 95 % intervals "
        f"below: the bootstrap draws {report.overall.num_groups:,} groups of faces, since pictures "
        "that belong together are wrong together. A click on a heading sorts.</p>"
        + _table(
            _score_header(report, "recipe"),
            _score_rows(comparison, comparison.ranking, colored=True),
        )
        + "<details><summary>What the columns mean</summary><dl>"
        "<dt>RMSE</dt><dd>Root of the mean squared error over labelled coordinates, Kaggle's "
        "score. A label counts once for x and once for y.</dd>"
        "<dt>MAE, median</dt><dd>Mean absolute error of a coordinate; median distance between a "
        "point and its label, which a few wrong labels do not move.</dd>"
        f"<dt>NME</dt><dd>Mean distance of a face's points from their labels, as a share of the "
        f"distance between {_e(pair)}; then the mean over {report.overall.nme_faces:,} "
        f"faces.{lacked}</dd>"
        "<dt>AUC, failures</dt><dd>Area under the curve of cumulative errors up to an NME of 10 % "
        "(1 is perfect); share of faces beyond it.</dd>"
        "<dt>PCK</dt><dd>Share of points closer to their label than that share of the eye "
        "distance.</dd></dl></details>"
    )


def _png(image: np.ndarray[Any, np.dtype[np.uint8]]) -> str:
    """A picture (H, W, 1 or 3 RGB) as a data URI."""
    return "data:image/png;base64," + base64.b64encode(encode_image(image)).decode("ascii")


def _face(
    dataset: FaceDataset, row: int, layers: Mapping[int, FloatArray], caption: str, *, layered: bool
) -> str:
    """One face as SVG: picture, prediction layers (one per recipe index), rings of truth."""
    height, width = dataset.image_size
    unit = max(height, width) / 96.0  # marks are sized for 96-pixel pictures
    truth = dataset.keypoints.xy[row]
    labeled = dataset.keypoints.labeled[row]
    rings = "".join(
        f'<circle class="{name}" cx="{x:.2f}" cy="{y:.2f}" r="{2.1 * unit:.2f}"/>'
        for x, y in truth[labeled]
        for name in ("th", "t")
    )
    parts = []
    for index, xy in layers.items():
        lines = "".join(
            f'<line class="e" x1="{a:.2f}" y1="{b:.2f}" x2="{c:.2f}" y2="{d:.2f}"/>'
            for (a, b), (c, d) in zip(truth[labeled], xy[labeled], strict=True)
        )
        dots = "".join(
            f'<circle class="{"d" if known else "u"}" cx="{x:.2f}" cy="{y:.2f}" '
            f'r="{(1.35 if known else 0.85) * unit:.2f}"/>'
            for (x, y), known in zip(xy, labeled, strict=True)
            if np.isfinite(x) and np.isfinite(y)
        )
        name = f' class="p p{index}"' if layered else ""
        parts.append(f"<g{name}>{lines}{dots}</g>")
    picture = (
        f'<image x="-0.5" y="-0.5" width="{width}" height="{height}" '
        f'href="{_png(dataset.images[row])}"/>'
    )
    return (
        f'<figure class="face"><svg viewBox="-0.5 -0.5 {width} {height}" role="img" '
        f'aria-label="face {_e(dataset.sample_ids[row])}">{picture}{rings}{"".join(parts)}</svg>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


_FACE_KEY = (
    '<div class="key"><span><svg viewBox="-3 -3 6 6"><circle class="th" r="1.9"/>'
    '<circle class="t" r="1.9"/></svg>truth (label)</span>'
    '<span><svg viewBox="-3 -3 6 6"><circle class="d" r="1.6"/></svg>prediction</span>'
    '<span><svg viewBox="-3 -3 6 6"><circle class="u" r="1.1"/></svg>prediction without a '
    "label</span></div>"
)


def _chooser(comparison: ComparisonResult, prefix: str, content: str) -> str:
    """Radio buttons, one per recipe, the winner chosen, before what they switch."""
    winner = comparison.ranking[0].name
    inputs = "".join(
        f'<input type="radio" name="{prefix}" id="{prefix}{i}"'
        f"{' checked' if r.name == winner else ''}>"
        for i, r in enumerate(comparison.recipes)
    )
    labels = "".join(
        f'<label for="{prefix}{i}">{_e(r.name)}</label>' for i, r in enumerate(comparison.recipes)
    )
    return f'<div class="chooser">{inputs}<div class="pick">{labels}</div>{content}</div>'


def _face_grid(comparison: ComparisonResult) -> str:
    test = comparison.test
    rows = plots.pick_faces(test, GRID_FACES)
    if not len(rows):
        return ""
    errors = [rmse_per_face(test.keypoints.xy, r.predicted_xy) for r in comparison.recipes]
    faces = []
    for row in rows:
        layers = {i: r.predicted_xy[row] for i, r in enumerate(comparison.recipes)}
        caption = "".join(
            f'<span class="p p{i}">{_px(e[row])} px</span>' for i, e in enumerate(errors)
        )
        style = f" · {_e(test.styles[row])}" if test.styles[row] else ""
        faces.append(_face(test, int(row), layers, caption + style, layered=True))
    return (
        "<h2>Held-out faces</h2><p>Drawn at random, some of each label style, the same for every "
        "recipe. None of them was seen in training.</p>"
        + _chooser(comparison, "r", f'{_FACE_KEY}<div class="faces">{"".join(faces)}</div>')
    )


def _extremes(comparison: ComparisonResult) -> str:
    test = comparison.test
    blocks = []
    for i, recipe in enumerate(comparison.recipes):
        errors = rmse_per_face(test.keypoints.xy, recipe.predicted_xy)
        order = np.argsort(errors, kind="stable")[: int(np.isfinite(errors).sum())]
        if not len(order):
            return ""
        block = ""
        for name, rows in (("worst", order[::-1]), ("best", order)):
            faces = "".join(
                _face(
                    test,
                    int(row),
                    {i: recipe.predicted_xy[row]},
                    f"{_px(errors[row])} px · {_e(test.sample_ids[row])}",
                    layered=False,
                )
                for row in rows[:EXTREME_FACES]
            )
            block += f'<h3>{name}</h3><div class="faces">{faces}</div>'
        blocks.append(f'<div class="choice choice{i}">{block}</div>')
    return (
        "<h2>Worst and best faces</h2><p>The worst show what to mend: wrong labels and pictures "
        "without a usable face gather here. Below each face: its RMSE and its row.</p>"
        + _chooser(comparison, "w", _FACE_KEY + "".join(blocks))
    )


def _svg(figure: Figure) -> str:
    buffer = io.BytesIO()
    # Without a date, and transparent so that the page's background shows through.
    figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _picture(light: Figure, dark: Figure, alt: str) -> str:
    return (
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{_svg(dark)}">'
        f'<img src="{_svg(light)}" alt="{_e(alt)}"></picture></figure>'
    )


def _curves(comparison: ComparisonResult) -> str:
    # A recipe without history keeps its place, so that colours agree between charts.
    histories = {r.name: r.history for r in comparison.recipes}
    if not any(h.get("rmse_px") or h.get("val_rmse_px") for h in histories.values()):
        return ""
    return "<h2>How training went</h2>" + _picture(
        plots.plot_learning_curves(histories),
        plots.plot_learning_curves(histories, theme="dark"),
        "RMSE in pixels per epoch for every recipe",
    )


def _per_keypoint(comparison: ComparisonResult) -> str:
    overall = comparison.recipes[0].report.overall
    if not overall.num_labels:
        return ""
    errors = {
        r.name: (
            np.array([k.rmse_px for k in r.report.overall.keypoints]),
            np.array([k.rmse_interval for k in r.report.overall.keypoints]),
        )
        for r in comparison.recipes
    }
    names = comparison.test.schema.keypoint_names
    counts = comparison.test.label_counts.tolist()
    return "<h2>Which points are hard</h2>" + _picture(
        plots.plot_keypoint_errors(names, errors, num_labels=counts),
        plots.plot_keypoint_errors(names, errors, num_labels=counts, theme="dark"),
        "RMSE of every keypoint for every recipe, with intervals",
    )


def _ced(comparison: ComparisonResult) -> str:
    curves = {r.name: r.report.overall.ced for r in comparison.recipes}
    if all(np.isnan(c).all() for c in curves.values()):
        return ""
    return "<h2>How many faces are good enough</h2>" + _picture(
        plots.plot_ced(CED_THRESHOLDS, curves),
        plots.plot_ced(CED_THRESHOLDS, curves, theme="dark"),
        "Cumulative error distribution for every recipe",
    )


def _missing(comparison: ComparisonResult) -> str:
    parts = []
    if comparison.train is not None and len(comparison.train):
        parts.append(
            _picture(
                plots.plot_missing_labels(comparison.train),
                plots.plot_missing_labels(comparison.train, theme="dark"),
                "How many training faces have each keypoint labelled",
            )
        )
    results = sorted(
        comparison.missing_results,
        key=lambda r: (math.isnan(r.report.overall.rmse_px), r.report.overall.rmse_px),
    )
    if results:
        parts.append(
            f"<p>{_e(results[0].description)}</p>"
            if len(results) == 1
            else "<p>The same recipe, trained under each way to deal with missing labels and measured "
            "on the same held-out faces, only on labels that people made.</p>"
        )
        parts.append(
            _table(
                _score_header(results[0].report, "missing labels"),
                _score_rows(comparison, results, colored=False),
            )
        )
    return "<h2>Missing labels</h2>" + "".join(parts) if parts else ""


def _plain(value: Any) -> str:
    """A setting for people: short numbers, words for truth values and containers."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain(v) for v in value)
    return "–" if value is None else str(value)


def _training(comparison: ComparisonResult) -> str:
    recipes = comparison.recipes
    keys = list(dict.fromkeys(k for r in recipes for k in r.settings))
    lines: list[tuple[str, list[str]]] = [("about", [r.description or "–" for r in recipes])]
    lines.append(
        ("parameters", [f"{r.num_parameters:,}" if r.num_parameters else "–" for r in recipes])
    )
    lines.append(("training time", [_duration(r.train_seconds) for r in recipes]))
    lines += [
        (
            key.replace("_", " "),
            [_plain(r.settings[key]) if key in r.settings else "–" for r in recipes],
        )
        for key in keys
    ]
    header = [
        "",
        *(f'<b style="color:var(--c);{_series(comparison, r)}">{_e(r.name)}</b>' for r in recipes),
    ]
    rows = [[(_e(k), ""), *((_e(v), "") for v in values)] for k, values in lines]
    return "<h2>How they were trained</h2>" + _table(header, rows, sortable=False, words=True)


def _definitions(values: Mapping[str, Any]) -> str:
    return (
        "<dl>"
        + "".join(
            f"<dt>{_e(str(k).replace('_', ' '))}</dt><dd>{_e(_plain(v))}</dd>"
            for k, v in values.items()
        )
        + "</dl>"
    )


def _data(comparison: ComparisonResult) -> str:
    parts = []
    if comparison.split or comparison.split_note:
        names = {"train": "faces to train", "val": "faces to validate", "test": "held-out faces"}
        parts.append(f"<h2>The split</h2><p>{_e(comparison.split_note)}</p>")
        parts.append(_definitions({names.get(k, k): v for k, v in comparison.split.items()}))
    if comparison.audit:
        parts.append("<h2>Data audit</h2>" + _definitions(comparison.audit))
    return "".join(parts)


def _reproduce(comparison: ComparisonResult) -> str:
    parts = []
    if comparison.command:
        parts.append(f"<h2>Do it again</h2><pre>{_e(comparison.command)}</pre>")
    versions = ", ".join(f"{_e(k)} {_e(v)}" for k, v in comparison.versions.items())
    if versions:
        parts.append(f"<footer>Made with {versions}.</footer>")
    return "".join(parts)
