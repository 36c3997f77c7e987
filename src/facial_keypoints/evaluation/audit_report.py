"""The report of a data audit: tables in the terminal, ``audit.html`` and ``audit.json``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, astuple, fields
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from facial_keypoints.data.audit import AuditReport, flagged_rows
from facial_keypoints.data.suspects import Suspect
from facial_keypoints.evaluation import pages
from facial_keypoints.files import write_json, write_text
from facial_keypoints.io.tables import write_table

if TYPE_CHECKING:
    from rich.console import Group

__all__ = ["render_audit", "write_audit"]

_TERMINAL_ROWS, _PAGE_ROWS, _PAGE_FLAGS = 15, 50, 200


class _Table(NamedTuple):
    """The first column is text, the others are aligned to the right; shares are drawn as bars."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    shares: tuple[float, ...] = ()


def _cut(rows: Sequence[tuple[str, ...]], limit: int) -> list[tuple[str, ...]]:
    """The first ``limit`` rows, then a row with the number of the others."""
    left = len(rows) - limit
    more = [(f"… {left:,} more", *[""] * (len(rows[0]) - 1))] if left > 0 else []
    return [*rows[:limit], *more]


def _tables(report: AuditReport, limit: int) -> list[_Table]:
    """The tables that have data; long lists are cut after ``limit`` rows."""
    height, width = report.image_size
    styles = ", ".join(f"{name or 'no style'} {n:,}" for name, n in report.styles.items())
    shares = {k: n / max(report.rows, 1) for k, n in report.label_counts.items()}
    tables = [
        _Table("", (), [
            ("faces", f"{report.rows:,} of {width} × {height} pixels"),
            ("label styles", styles or "none"),
            ("identical images", f"{report.exact_rows:,} rows in {report.exact_groups:,} groups"),
            ("of these with differing labels", f"{report.disagreeing_pairs:,} pairs"),
            ("nearly identical images", f"{len(report.near_pairs):,} pairs"),
            ("training images also in the test set", f"{len(report.test_exact):,} identical, {len(report.test_near):,} nearly"),
            ("rows flagged", f"{len(flagged_rows(report)):,}"),
            ("suspected labels", f"{len(report.suspects):,}"),
        ]),
        _Table("Labels per keypoint", ("keypoint", "labels", "share"), [
            (name, f"{n:,}", pages.percent(shares[name])) for name, n in report.label_counts.items()
        ], tuple(shares.values())),
        _Table("Patterns of missing labels", ("missing", "rows"), _cut([
            (_missing(names), f"{n:,}") for n, names in report.patterns
        ], limit)),
    ]  # fmt: skip
    if report.style_offsets:
        reference = report.style_offsets[0].reference
        tables.append(_Table(
            "Mean differences between label styles, with the eyes aligned",
            ("keypoint", "style", f"px right of {reference}", f"px below {reference}"),
            [(o.keypoint, o.style, f"{o.dx:+.1f}", f"{o.dy:+.1f}") for o in report.style_offsets],
        ))  # fmt: skip
    shared = _cut([*report.test_exact, *report.test_near], limit)
    if shared:
        columns = ("training row", "test image")
        tables.append(_Table("Training images in the test set", columns, shared))
    if report.across_groups:
        columns = ("row", "row of another group")
        tables.append(
            _Table("Copies in different groups", columns, _cut(report.across_groups, limit))
        )
    if report.suspects:
        tables.append(_Table(
            "Suspected labels, the most suspected first (expected: by the other labels of the face)",
            ("row", "keypoint", "labelled at", "expected at", "score"),
            _cut([
                (s.sample_id, s.keypoint, f"{s.x:.1f}, {s.y:.1f}", f"{s.expected_x:.1f}, {s.expected_y:.1f}",
                 f"{s.score:.1f}")
                for s in report.suspects
            ], limit),
        ))  # fmt: skip
    return tables


def _missing(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more or "nothing"


def render_audit(report: AuditReport) -> Group:
    """The report for a terminal, as a ``rich`` renderable."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    tables = _tables(report, _TERMINAL_ROWS)
    tables[0] = tables[0]._replace(title=f"Audit of {report.source or 'the data'}")
    if report.flags:
        rows = [(f.sample_id, f"{f.score:.1f}", f"{f.reason}: {f.detail}") for f in report.flags]
        tables.append(
            _Table("Rows to check", ("row", "score", "reason"), _cut(rows, _TERMINAL_ROWS))
        )
    parts: list[Table | Text] = []
    for table in tables:
        made = Table(box=None, show_header=bool(table.columns))
        for i, name in enumerate(table.columns or ("", "")):
            made.add_column(Text(name), justify="left" if i == 0 or name == "reason" else "right")
        for row in table.rows:
            made.add_row(*map(Text, row))
        parts += [Text(table.title, style="bold"), made, Text()]
    return Group(*parts)


def write_audit(report: AuditReport, directory: Path | str) -> None:
    """Write ``audit.json``, ``audit.html`` (self-contained) and ``suspects.csv`` into a folder, which is made.

    Raises:
        MissingExtraError: jinja2 is not installed.
        OutputError: They cannot be written.
    """
    folder = Path(directory)
    page = pages.render(
        "audit.html.j2",
        name=Path(report.source).name or "the data",
        tables=_tables(report, _PAGE_ROWS),
        flags=[
            (flag, pages.data_uri("image/png", report.thumbnails[flag.row]))
            for flag in report.flags[:_PAGE_FLAGS]
        ],
        suspects=[
            (suspect, pages.data_uri("image/png", image))
            for suspect, image in zip(report.suspects, report.suspect_thumbnails, strict=False)
        ],
        more_flags=max(len(report.flags) - _PAGE_FLAGS, 0),
    )
    content = {k: v for k, v in asdict(report).items() if "thumbnails" not in k}
    content["patterns"] = [{"rows": n, "missing": list(m)} for n, m in report.patterns]
    content["flagged_rows"] = flagged_rows(report).tolist()
    write_json(folder / "audit.json", content)
    write_text(folder / "audit.html", page)
    names = [field.name for field in fields(Suspect)]
    write_table(
        folder / "suspects.csv",
        names,
        [
            [f"{v:.2f}" if isinstance(v, float) else str(v) for v in astuple(s)]
            for s in report.suspects
        ],
    )
