"""``facial-keypoints measure``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facial_keypoints.cli import app
from facial_keypoints.cli import options as o
from facial_keypoints.cli.faces import FaceOptions, Faces, takes_face_options
from facial_keypoints.cli.progress import make_log
from facial_keypoints.errors import DataError, OutputError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rich.console import Console

    from facial_keypoints.inference.measure.table import FaceTable
    from facial_keypoints.types import Keypoints

FIGURE_SUFFIXES = (".png", ".svg", ".pdf")

NEUTRAL_S = 0.5
"""Seconds around ``--neutral-at`` in which a face has to be there."""


@app.command("measure")
@takes_face_options
def measure_command(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="Images, folders, patterns, or - for a list on standard input; or one table that "
            "predict or track wrote.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Table to write: .csv, .parquet or .json.")
    ],
    options: FaceOptions,
    neutral: Annotated[
        Path | None,
        typer.Option(
            help="Image of the same person's resting face, for mouth opening and smile; with --boxes the "
            "detector finds that face.",
        ),
    ] = None,
    neutral_at: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="For the table of a video: time at which each tracked face rests, instead of --neutral.",
        ),
    ] = None,
    ipd_mm: Annotated[
        float | None,
        typer.Option(
            help="True distance between the pupils in millimetres: adds lengths in millimetres."
        ),
    ] = None,
    mm_per_px: Annotated[
        float | None,
        typer.Option(help="Or: millimetres per pixel at the distance of the face."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="For the table of a video: figure of curves over time (.png, .svg, .pdf)."
        ),
    ] = None,
    as_json: o.Json = False,
    force: o.Force = False,
) -> None:
    """Measure faces: distances as ratios, angles, asymmetry and head pose, with error bars.

    **Not a medical device**: the numbers are for information only and must not be used for diagnosis.
    They come from one image without depth; faces that are turned are marked in the column warnings.

    Each measure has a column NAME and its standard deviation NAME_sigma, which comes from the points'
    confidence. Definitions and sources: docs/measurements.md.

    Images that cannot be read are listed and counted, the rest is done, and the exit code is 1.

    Examples:

        facial-keypoints measure photos/ -o measures.csv --ipd-mm 63

        facial-keypoints measure track.csv -o curves.csv --neutral-at 0.5 --plot curves.png
    """
    from facial_keypoints.files import refuse_existing
    from facial_keypoints.inference.measure.measures import NOTICE, measure
    from facial_keypoints.inference.measure.table import write_measurements
    from facial_keypoints.io.tables import TABLE_SUFFIXES, check_table

    _check_scale(ipd_mm, mm_per_px)
    has_table = any(Path(name).suffix.lower() in TABLE_SUFFIXES for name in inputs)
    if as_json and has_table:
        raise typer.BadParameter("--json counts images: it does not go with a table.")
    if neutral is not None and neutral_at is not None:
        raise typer.BadParameter("give --neutral or --neutral-at, not both.")
    if has_table and neutral is None and options != FaceOptions():
        raise typer.BadParameter(
            "a table says where the faces are: --model, --crops and the flags that find faces go with images."
        )
    if plot is not None:
        from facial_keypoints.evaluation.plots import require_figures

        require_figures()
        if plot.suffix.lower() not in FIGURE_SUFFIXES:
            raise OutputError(
                f"{plot}: the curves are a figure: choose a name in .png, .svg or .pdf."
            )
    check_table(out)
    for file in (out, plot):
        if file is not None:
            refuse_existing(file, force=force)
    log = make_log()
    images = None if has_table else Faces(inputs, options, log=log, as_json=as_json)
    faces = _read_table(inputs) if images is None else _find(images)
    times = _times(faces) if plot is not None or neutral_at is not None else []
    rest = None
    if neutral is not None:
        rest = _neutral(neutral, options, log)
    elif neutral_at is not None:
        rest = _resting(faces, times, neutral_at, log)
    found = measure(faces.keypoints, neutral=rest, mm_per_px=mm_per_px, ipd_mm=ipd_mm)
    write_measurements(out, faces, found)
    log.print(f"wrote {out}: {len(found)} faces, {len(found.names)} measures each")
    if plot is not None:
        import numpy as np

        from facial_keypoints.evaluation.plots import plot_measurements, save_figure

        save_figure(plot_measurements(found, np.array(times), _tracks(faces)), plot)
        log.print(f"wrote {plot}")
    turned = sum("turned" in each for each in found.warnings)
    if turned:
        log.print(f"{turned} of {len(found)} faces are turned: see the column warnings.")
    log.print(NOTICE)
    if images is not None:
        images.finish(faces=len(found), written=str(out))


def _check_scale(ipd_mm: float | None, mm_per_px: float | None) -> None:
    for name, scale in (("--ipd-mm", ipd_mm), ("--mm-per-px", mm_per_px)):
        if scale is not None and not 0 < scale < float("inf"):
            raise typer.BadParameter("must be a positive number.", param_hint=name)
    if ipd_mm is not None and mm_per_px is not None:
        raise typer.BadParameter("give --ipd-mm or --mm-per-px, not both.")


def _read_table(inputs: list[str]) -> FaceTable:
    from facial_keypoints.inference.measure.table import read_faces

    if len(inputs) > 1:
        raise DataError("measure takes one table, or images, not several: run it once for each.")
    return read_faces(inputs[0])


def _find(images: Faces) -> FaceTable:
    """The points to measure."""
    from facial_keypoints.inference.measure.measures import check_schema
    from facial_keypoints.inference.measure.table import table_of

    check_schema(images.schema)
    return table_of(list(images), images.schema)


def _neutral(image: Path, options: FaceOptions, log: Console) -> Keypoints:
    # --boxes holds boxes of the inputs only.
    found = list(Faces([str(image)], replace(options, boxes=None), log=log))
    if len(found) != 1 or len(found[0]) != 1:
        count = sum(len(each) for each in found)
        raise DataError(
            f"--neutral {image} must be one image with one face, but {count} were found: choose "
            "another, or cut the face out and use --crops."
        )
    return found[0].keypoints


def _times(faces: FaceTable) -> list[float]:
    """Seconds of each row."""
    times = faces.column("time_s")
    if times is None:
        raise DataError("--plot and --neutral-at need a table that track wrote, with times.")
    for row, time in enumerate(times, start=1):
        if not isinstance(time, int | float):
            raise DataError(f"row {row}: time_s must be a number of seconds, found '{time or ''}'.")
    return times


def _tracks(faces: FaceTable) -> NDArray[Any]:
    """Track of each row; the same for all rows if the table has no tracks."""
    import numpy as np

    tracks = faces.column("track") or [0] * len(faces.rows)
    return np.array(["" if track is None else track for track in tracks])


def _resting(faces: FaceTable, times: list[float], seconds: float, log: Console) -> Keypoints:
    """For each row, the face of the same track at the time nearest to ``seconds``.

    Of a track that is not there within :data:`NEUTRAL_S` of that time, the points are NaN, and it is said.
    """
    import numpy as np

    from facial_keypoints.types import Keypoints

    tracks = _tracks(faces)
    known = np.asarray(faces.keypoints.labeled.all(axis=1))
    index = np.arange(len(faces.keypoints))
    absent = []
    for track in np.unique(tracks):
        own = np.flatnonzero(tracks == track)
        seen = own[known[own]] if known[own].any() else own
        apart = np.abs(np.array(times)[seen] - seconds)
        index[own] = seen[np.argmin(apart)]
        if apart.min() > NEUTRAL_S:
            absent.append(track)
    if len(absent) == len(np.unique(tracks)):
        raise DataError(
            f"no face is there within {NEUTRAL_S:g} s of --neutral-at {seconds:g}: give a time between "
            f"{min(times):g} and {max(times):g} s at which the face is shown."
        )
    rest = faces.keypoints.subset(index)
    if absent:
        log.print(
            f"without measures against the neutral face, since they are not there at {seconds:g} s: "
            f"track {', '.join(map(str, absent))}."
        )
        gone = np.isin(tracks, absent)
        rest = Keypoints(np.where(gone[:, None, None], np.nan, rest.xy), rest.schema)
    return rest
