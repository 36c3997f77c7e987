"""``facial-keypoints data``: audit, synthesize, cats, convert, download."""

from __future__ import annotations

from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facial_keypoints.cli import app
from facial_keypoints.cli import options as o
from facial_keypoints.errors import DataError

if TYPE_CHECKING:
    from facial_keypoints.types import FaceDataset, KeypointSchema

data_app = typer.Typer(
    no_args_is_help=True, help="Check, draw, download and convert labelled faces."
)
app.add_typer(data_app, name="data")

DRAWN_FACES = 3000


class Format(StrEnum):
    """Formats that ``data convert`` writes."""

    kaggle = "kaggle"
    coco = "coco"
    csv = "csv"
    cvat = "cvat"
    label_studio = "label-studio"
    yolo = "yolo"
    deeplabcut = "deeplabcut"
    pts = "pts"


def load_faces(
    data: Path | None,
    *,
    seed: int = 0,
    group_by: str | None = None,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    schema: str | KeypointSchema | None = None,
    images: Path | None = None,
) -> FaceDataset:
    """Labelled faces of a path, or drawn ones without a path; what was read is told on standard error.

    ``schema`` may be the name or the file of one; the others are as for ``load_dataset``.
    """
    if data is None:
        from facial_keypoints.data.synthetic.faces import draw_kaggle_like

        return draw_kaggle_like(DRAWN_FACES, seed=seed)
    from facial_keypoints.cli.progress import make_log
    from facial_keypoints.data import load_dataset
    from facial_keypoints.schemas import load_schema

    return load_dataset(
        data, group_by=group_by, size=size, channels=channels,
        schema=load_schema(schema) if isinstance(schema, str) else schema, images=images,
        say=make_log().print,
    )  # fmt: skip


@data_app.command("audit")
def audit_command(
    data: Annotated[
        Path, typer.Argument(help="Labelled faces of any format that 'data convert' reads.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Folder for audit.html, audit.json and suspects.csv."),
    ] = None,
    schema: o.Schema = None,
    group_by: o.GroupBy = None,
    images: o.Images = None,
    force: o.Force = False,
) -> None:
    """Check the data before training: missing labels, duplicates, suspected labels, odd images.

    Suspected labels are those far from where the other labels of the face say that they are, the most
    suspected first; that needs 30 faces. They are only listed; --exclude-flagged leaves flagged rows out.

    Examples:

        facial-keypoints data audit kaggle/

        facial-keypoints data audit kaggle/ -o audit
    """
    from rich.console import Console

    from facial_keypoints.cli.progress import make_log
    from facial_keypoints.data.audit import audit
    from facial_keypoints.data.kaggle import load_kaggle
    from facial_keypoints.evaluation import pages
    from facial_keypoints.evaluation.audit_report import render_audit, write_audit
    from facial_keypoints.files import output_folder

    if out is not None:
        pages.require_templates()
    log = make_log()
    with ExitStack() as stack:
        folder = None
        if out is not None:
            folder = stack.enter_context(
                output_folder(out, verb="data audit", inputs=(data, images, schema), force=force)
            )
        with log.status("reading"):
            dataset = load_faces(data, group_by=group_by, schema=schema, images=images)
            try:
                test: FaceDataset | None = load_kaggle(data, part="test")
            except DataError:
                test = None  # no test images beside the training ones: nothing to compare with
        with log.status("checking the faces"):
            report = audit(dataset, test)
        if folder is not None:
            write_audit(report, folder)
    Console().print(render_audit(report))
    if out is not None:
        log.print(f"open {out / 'audit.html'}")


@data_app.command("synthesize")
def synthesize_command(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to make.")],
    train: Annotated[int, typer.Option(min=1, help="Labelled faces.")] = 3000,
    test: Annotated[int, typer.Option(min=0, help="Faces of the test file.")] = 500,
    seed: o.Seed = 0,
    force: o.Force = False,
) -> None:
    """Draw faces with known keypoints and save them exactly as Kaggle ships its files.

    The keypoints of the test faces go to test_labels.csv.

    Examples:

        facial-keypoints data synthesize -o drawn

        facial-keypoints data synthesize --train 500 --test 100 --seed 7 -o drawn
    """
    from facial_keypoints.cli.progress import make_log
    from facial_keypoints.data.synthetic.faces import write_kaggle_folder

    log = make_log()
    with log.status(f"drawing {train + test} faces"):
        write_kaggle_folder(out, train=train, test=test, seed=seed, force=force)
    log.print(f"wrote {out}")


@data_app.command("cats")
def cats_command(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to make.")],
    photos: Annotated[int, typer.Option(min=1, help="Photos to draw.")] = 100,
    points: Annotated[
        int, typer.Option(help="Keypoints of a cat: 9 (eyes, ears, nose, mouth, chin) or 48.")
    ] = 9,
    to: Annotated[Format, typer.Option(help="Format of the labels.")] = Format.csv,
    seed: o.Seed = 0,
    force: o.Force = False,
) -> None:
    """Draw photos of cats with labelled keypoints and boxes, to try training on points of your own.

    Examples:

        facial-keypoints data cats --to cvat -o cats

        facial-keypoints data cats --photos 20 --points 48 --seed 1 -o new
    """
    from facial_keypoints.cli.progress import make_log
    from facial_keypoints.data.synthetic.cats import SCHEMAS, write_cats
    from facial_keypoints.files import output_folder

    if points not in SCHEMAS:
        raise typer.BadParameter(f"--points is {' or '.join(map(str, SCHEMAS))}, not {points}.")
    if to is Format.kaggle:
        raise typer.BadParameter("Kaggle's format holds cropped faces: choose another --to.")
    log = make_log()
    with (
        output_folder(out, verb="data cats", force=force) as folder,
        log.status(f"drawing {photos} photos"),
    ):
        lost = write_cats(folder, photos=photos, seed=seed, schema=SCHEMAS[points], format=to.value)
    for line in lost:
        log.print(line)
    log.print(f"wrote {out}")


@data_app.command("convert")
def convert_command(
    source: Annotated[
        Path,
        typer.Argument(
            help="Labels, or a folder of them: Kaggle's files, a csv of images, COCO keypoints, CVAT XML, Label "
            "Studio json, LabelMe, VIA, dlib imglab XML, TPS, DeepLabCut, YOLO-pose, 300-W .pts, WFLW lists."
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to make.")],
    to: Annotated[Format, typer.Option(help="Format to write.")] = Format.coco,
    crop: Annotated[
        bool | None,
        typer.Option(
            "--crop/--no-crop",
            help="Cut photos into one image per face, or keep whole images and the points in their pixels.",
            show_default="--crop for kaggle, coco and csv, --no-crop for the others",
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=8, help="Side of the cropped images in pixels.")
    ] = None,
    schema: o.Schema = None,
    group_by: o.GroupBy = None,
    images: o.Images = None,
    force: o.Force = False,
) -> None:
    """Convert labelled faces from one format to another.

    What was read, what was left out, and what the new format cannot hold is printed.

    Examples:

        facial-keypoints data convert annotations.xml --to csv --no-crop -o mine

        facial-keypoints data convert faces.csv --size 96 --to kaggle -o kaggle
    """
    from facial_keypoints.cli.progress import make_log
    from facial_keypoints.data.formats import (
        is_kaggle,
        read_labels,
        save_dataset,
        write_labels,
    )
    from facial_keypoints.files import output_folder
    from facial_keypoints.schemas import load_schema

    log = make_log()
    cut = to in (Format.kaggle, Format.coco, Format.csv) if crop is None else crop
    if not cut and to is Format.kaggle:
        raise typer.BadParameter("Kaggle's format holds cropped faces: leave --no-crop out.")
    with output_folder(
        out, verb="data convert", inputs=(source, images, schema), force=force
    ) as folder:
        if not cut and not is_kaggle(source):
            if size is not None:
                raise typer.BadParameter(
                    "--size is for cropped images: leave --no-crop or --size out."
                )
            labels = read_labels(
                source,
                schema=None if schema is None else load_schema(schema),
                group_by=group_by,
                images=images,
            )
            for line in labels.summary():
                log.print(line)
            lost = write_labels(labels, folder, to.value)
            count = len(labels.faces)
        else:
            dataset = load_faces(
                source, group_by=group_by, schema=schema, images=images,
                size=None if size is None else (size, size),
                channels=1 if to is Format.kaggle else None,  # Kaggle's format has grey images only
            )  # fmt: skip
            lost = save_dataset(dataset, folder, to.value)
            count = len(dataset)
    for line in lost:
        log.print(line)
    log.print(f"wrote {count} faces to {out}")


@data_app.command("download")
def download_command(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to make.")],
    force: o.Force = False,
) -> None:
    """Download Kaggle's files with your own Kaggle account (needs the extra 'kaggle').

    Accept the competition's rules on Kaggle first, and log in with kagglehub or KAGGLE_USERNAME
    and KAGGLE_KEY.

    Examples:

        facial-keypoints data download -o kaggle

        KAGGLE_USERNAME=me KAGGLE_KEY=... facial-keypoints data download -o kaggle
    """
    import shutil

    from facial_keypoints.cli.progress import make_log
    from facial_keypoints.errors import MissingExtraError
    from facial_keypoints.files import output_folder

    try:
        import kagglehub
    except ModuleNotFoundError as error:
        raise MissingExtraError("kagglehub", "kaggle", "Downloading from Kaggle") from error
    with output_folder(out, verb="data download", force=force) as folder:
        try:
            fetched = Path(kagglehub.competition_download("facial-keypoints-detection"))
        except Exception as error:  # of several HTTP libraries, none kagglehub's own
            raise DataError(
                f"Kaggle did not give the files ({' '.join(str(error).split())[:200]}): accept the "
                "competition's rules on its page and check your Kaggle credentials."
            ) from error
        for file in sorted(fetched.iterdir()):
            if file.is_file():
                shutil.copy2(file, folder / file.name)
    make_log().print(f"wrote {out}")
