"""``facial-keypoints batch``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from facial_keypoints.cli import app
from facial_keypoints.cli import options as o
from facial_keypoints.cli.faces import FaceOptions
from facial_keypoints.cli.progress import make_log, make_progress
from facial_keypoints.errors import DataError


@app.command("batch")
def batch_command(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="Images, folders, patterns, lists of paths (.txt, or - for standard input), Parquet "
            "files with a column of images or paths, tar archives; local or at a URI like s3://.",
            show_default=False,
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            "-o", "--out", help="Folder to write to, local or a URI; every worker must reach it."
        ),
    ],
    address: Annotated[
        str | None,
        typer.Option(
            help="Ray cluster: HOST:PORT, or auto on a machine of it.",
            show_default="a Ray of this machine, for this run",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Workers, one core each.", show_default="every core of the Ray"),
    ] = None,
    model: o.Model = "default",
    crops: o.Crops = False,
    detector: o.Detector = "default",
    effort: o.Effort = o.EffortName.normal,
    min_score: o.MinScore = None,
    max_faces: o.MaxFaces = None,
    style: o.Style = None,
    tta: o.Tta = False,
    max_pixels: o.MaxPixels = o.MAX_PIXELS,
    column: Annotated[
        str | None,
        typer.Option(
            help="Column of Parquet inputs with the bytes or the paths of images.",
            show_default="image, bytes, path, ...",
        ),
    ] = None,
    block_size: Annotated[
        int,
        typer.Option(
            min=1, help="Images in a block: what is written, and after a failure redone, at once."
        ),
    ] = 512,
    readers: Annotated[
        int, typer.Option(min=1, help="Files that each worker fetches at the same time.")
    ] = 4,
    resume: o.Resume = False,
    force: o.Force = False,
) -> None:
    """Predict over collections too large for one process, on Ray, from a laptop to a cluster.

    The rows are those of predict, in Parquet parts; together with a list of what was done, a table of
    images that failed, and statistics. A run that was killed continues with --resume and ends with
    the same table. Images that cannot be read are no error here: they are in failures.parquet.

    Examples:

        facial-keypoints batch photos/ -o out/

        facial-keypoints batch 's3://bucket/shards/*.tar' -o s3://bucket/out --address head:6379

        facial-keypoints batch photos/ -o out/ --resume
    """
    import warnings

    warnings.filterwarnings("ignore", module="PIL")
    faces: dict[str, Any] = {
        "model": model,
        "crops": crops,
        "detector": detector,
        "min_score": min_score,
        "max_faces": max_faces,
        "style": style,
        "tta": tta,
        "max_pixels": max_pixels,
    }
    FaceOptions(**faces, effort=effort)  # checked
    if resume and force:
        raise typer.BadParameter("--resume keeps what --force would delete: give one of them.")
    from facial_keypoints.batch.manifest import Settings
    from facial_keypoints.batch.run import run_batch

    settings = Settings(
        inputs=tuple(inputs), column=column, block_size=block_size, effort=effort.value, **faces
    )
    log = make_log()
    try:
        with make_progress("predicting", log) as bar:
            task = bar.add_task("predicting", total=None)
            result = run_batch(
                settings,
                out,
                address=address,
                workers=workers,
                readers=readers,
                resume=resume,
                force=force,
                report=lambda count, total: bar.update(task, advance=count, total=total or None),
            )
    except KeyboardInterrupt:
        log.print(f"interrupted: what is done is kept in {out}; go on with --resume.")
        raise typer.Exit(130) from None
    found = "" if crops else f", {result.faces:,} {'face' if result.faces == 1 else 'faces'}"
    log.print(
        f"wrote {out}: {result.predicted:,} of {result.inputs:,} images{found} in {result.blocks:,} "
        f"parts, {result.seconds:,.0f} s"
    )
    counts = [
        f"{result.inputs:,} {'image' if result.inputs == 1 else 'images'}: {result.predicted:,} done"
    ]
    if result.failed:
        counts.append(f"{result.failed:,} failed (see {out.rstrip('/')}/failures.parquet)")
    if result.warned:
        counts.append(f"{result.warned:,} warnings (see {out.rstrip('/')}/warnings.parquet)")
    log.print(", ".join(counts))
    if result.first_failure is not None and not result.predicted:
        source, reason = result.first_failure
        raise DataError(
            f"no image of {result.inputs:,} could be read; the first: {source}: {reason}"
        )
