"""``facial-keypoints train``, ``evaluate`` and ``submit``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facial_keypoints.cli import app
from facial_keypoints.cli import options as o
from facial_keypoints.recipes import get_recipe

if TYPE_CHECKING:
    from rich.console import Console


@app.command("train")
def train_command(
    out: Annotated[Path, typer.Option("-o", "--out", help="Run folder to make.")],
    recipe: Annotated[
        o.RecipeName | None,
        typer.Argument(help="What to train from scratch.", show_choices=True),
    ] = None,
    data: o.Data = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Instead of a recipe: adapt this trained model (default, a run folder, a .keras "
            "file) to your faces; tens of them will do.",
        ),
    ] = None,
    schema: Annotated[
        str | None,
        typer.Option(
            help="With --from: your keypoints, as a .yaml or .json file or the name of a schema.",
            show_default="what the data names",
        ),
    ] = None,
    epochs: o.Epochs = None,
    batch_size: o.BatchSize = None,
    learning_rate: o.LearningRate = None,
    patience: o.Patience = None,
    flip_probability: o.FlipProbability = None,
    missing: o.Missing = None,
    seed: o.Seed = 0,
    group_by: o.GroupBy = None,
    exclude_flagged: o.ExcludeFlagged = False,
    warm_start: Annotated[
        Path | None,
        typer.Option(help="specialists only: run folder of a cnn trained on the same faces."),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="default only: tiny networks and a few steps, to see that data and machine go the "
            "whole way.",
        ),
    ] = False,
    resume: o.Resume = False,
    force: o.Force = False,
) -> None:
    """Train one recipe, or adapt a trained model to your faces, and leave a run folder.

    The folder holds model, history, settings and measured errors. Interrupted training of a recipe
    continues with --resume and ends with the same weights.

    The recipe default is the shipped detector's. Its --data is the folder that holds
    facial-keypoints-detection/, wild/ and photos/, or some of them; it wants a GPU, or days. Its
    finished networks are kept, so --resume repeats at most one.

    Examples:

        facial-keypoints train cnn-flip --data kaggle/ -o runs/flip

        facial-keypoints train --from default --data mine/ -o runs/mine

        facial-keypoints train default --data faces/ -o runs/default --resume
    """
    from rich.console import Console

    from facial_keypoints.backend import choose_backend

    log = Console(stderr=True)
    own = recipe is not None and recipe.value == "default"
    if base is not None or own:
        for flag, value in (
            ("recipe", recipe if base is not None else None),
            ("--epochs", epochs),
            ("--batch-size", batch_size),
            ("--learning-rate", learning_rate),
            ("--patience", patience),
            ("--flip-probability", flip_probability),
            ("--missing", missing),
            ("--exclude-flagged", exclude_flagged or None),
            ("--warm-start", warm_start),
            ("--group-by", group_by if own else None),
            ("--quick", quick or None if not own else None),
            ("--resume", resume or None if not own else None),
        ):
            if value is not None:
                taker = "--from" if base is not None else "the recipe default"
                raise typer.BadParameter(f"{taker} takes no {flag}: leave one of the two out.")
    if base is not None:
        if data is None:
            raise typer.BadParameter("--from needs --data, your labelled faces.")
        _finetune(log, base, data, schema, out, seed=seed, group_by=group_by, force=force)
        return
    if recipe is None:
        raise typer.BadParameter("name a recipe to train, or a model to start from with --from.")
    if schema is not None:
        raise typer.BadParameter("--schema belongs to --from.")
    if own:
        _train_default(log, data, out, seed=seed, quick=quick, resume=resume, force=force)
        return
    if quick:
        raise typer.BadParameter("--quick belongs to the recipe default: give --epochs instead.")
    chosen = get_recipe(recipe.value).override(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        patience=patience,
        flip_probability=flip_probability,
        missing=missing.value if missing else None,
    )
    choose_backend()
    from facial_keypoints.cli.data import load_faces
    from facial_keypoints.evaluation import evaluate_predictions
    from facial_keypoints.files import write_json
    from facial_keypoints.progress import TrainingProgress
    from facial_keypoints.report import render_evaluation
    from facial_keypoints.training import predict_keypoints, split_faces, train

    dataset = load_faces(data, seed=seed, group_by=group_by)
    dataset, split, flagged = split_faces(
        dataset,
        seed=seed,
        exclude_flagged=exclude_flagged,
    )
    if exclude_flagged:
        log.print(f"left {flagged} flagged rows out of training")
    with TrainingProgress(log) as progress:
        progress.title = chosen.name
        run = train(
            dataset,
            split,
            chosen,
            out,
            seed=seed,
            resume=resume,
            force=force,
            warm_start=warm_start,
            callbacks=[progress],
        )
    test = dataset.subset(split.test)
    report = evaluate_predictions(test, predict_keypoints(run.load_model(), test.images), seed=seed)
    write_json(out / "report.json", report.to_dict())
    Console().print(render_evaluation(report))
    log.print(f"the model is {run.model_path}", soft_wrap=True)


def _train_default(
    log: Console,
    data: Path | None,
    out: Path,
    *,
    seed: int,
    quick: bool,
    resume: bool,
    force: bool,
) -> None:
    """Make the shipped detector anew and print how its twin does."""
    from rich.console import Console
    from rich.table import Table

    from facial_keypoints.backend import choose_backend
    from facial_keypoints.files import read_json

    if data is None:
        raise typer.BadParameter(
            "the recipe default needs --data, a folder with facial-keypoints-detection/, wild/ or photos/."
        )
    choose_backend()
    from facial_keypoints.default_run import QUICK, train_default_run
    from facial_keypoints.runtime import available_cores

    train_default_run(
        data,
        out,
        config=QUICK if quick else None,
        seed=seed,
        resume=resume,
        force=force,
        threads=available_cores(),
        report=lambda line: log.print(line, soft_wrap=True, highlight=False),
    )
    table = Table(
        "faces that the twin has not seen", "number", "RMSE px", "mean error / eye distance"
    )
    for name, errors in read_json(out / "run.json")["held_out"].items():
        share = "–" if errors["nme"] is None else f"{errors['nme']:.1%}"
        table.add_row(name, str(errors["faces"]), f"{errors['rmse_px']:.2f}", share)
    Console().print(table)
    log.print(f"the model is {out / 'model.onnx'}", soft_wrap=True)


def _finetune(
    log: Console,
    base: str,
    data: Path,
    schema: str | None,
    out: Path,
    *,
    seed: int,
    group_by: str | None,
    force: bool,
) -> None:
    """Adapt a trained model and print how it does."""
    from rich.console import Console

    from facial_keypoints.backend import choose_backend
    from facial_keypoints.cli.data import load_faces
    from facial_keypoints.files import write_json
    from facial_keypoints.schemas import load_schema

    wanted = load_schema(schema) if schema is not None else None
    choose_backend()
    import numpy as np

    from facial_keypoints.evaluation import evaluate_predictions
    from facial_keypoints.finetune import find_base, finetune
    from facial_keypoints.report import render_evaluation
    from facial_keypoints.spec import read_embedded_spec

    spec = read_embedded_spec(find_base(base))
    dataset = load_faces(
        data, group_by=group_by, size=spec.input_size, channels=spec.channels, schema=wanted
    )
    with log.status("starting") as status:
        run = finetune(dataset, out, base=base, seed=seed, force=force, report=status.update)
    report = evaluate_predictions(run.faces, run.answers, seed=seed)
    write_json(out / "report.json", report.to_dict())
    Console().print(render_evaluation(report))
    log.print(
        f"measured by five-fold cross-validation over {len(run.faces)} faces, in pixels of the model's "
        f"input ({spec.input_size[1]}×{spec.input_size[0]})",
        soft_wrap=True,
    )
    both = ~np.isnan(run.base_answers[..., 0]) & run.faces.keypoints.labeled
    if both.any():
        truth = run.faces.keypoints.xy[both]
        ours, theirs = (
            float(np.linalg.norm(answers[both] - truth, axis=-1).mean())
            for answers in (run.answers, run.base_answers)
        )
        style = f" in its style '{run.style}'" if run.style else ""
        log.print(
            f"mean error of the points that {base} knows: {ours:.2f} px; {base} as it is{style}: "
            f"{theirs:.2f} px",
            soft_wrap=True,
        )
    log.print(f"the model is {out / 'model.keras'}", soft_wrap=True)


@app.command("evaluate")
def evaluate_command(
    model: Annotated[str, typer.Argument(help="default, a run folder, a .keras or an .onnx file.")],
    data: Annotated[Path, typer.Option(help="Labelled faces, as for train.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Write the report as JSON.")
    ] = None,
    all_rows: Annotated[
        bool,
        typer.Option("--all-rows", help="Measure on every row, also those the run trained on."),
    ] = False,
    group_by: o.GroupBy = None,
    flip: o.Flip = False,
    average: o.Average = False,
    threads: o.Threads = None,
    force: o.Force = False,
) -> None:
    """Measure a model on labelled faces: RMSE with intervals, NME, CED, per style and keypoint.

    A run folder is measured on its own held-out test rows when the data is what it was trained on,
    else on every row. A model with label styles answers each face in the style of its labels.

    Examples:

        facial-keypoints evaluate default --data kaggle/

        facial-keypoints evaluate runs/flip --data kaggle/ -o report.json
    """
    from rich.console import Console

    from facial_keypoints.cli.data import load_faces
    from facial_keypoints.data.cache import data_digest
    from facial_keypoints.data.splits import Split
    from facial_keypoints.evaluation import evaluate_predictions
    from facial_keypoints.files import refuse_existing, write_json
    from facial_keypoints.predict import load_predictor
    from facial_keypoints.report import render_evaluation

    log = Console(stderr=True)
    if out is not None:
        refuse_existing(out, force=force)
    predictor = load_predictor(model, flip=flip, average=average, threads=threads)
    spec = predictor.spec
    dataset = load_faces(
        data, group_by=group_by, size=spec.input_size, channels=spec.channels, schema=spec.schema
    )
    predictor.check_fits(dataset)
    rows = "every row"
    split_file = Path(model) / "split.json"
    if split_file.is_file() and not all_rows:
        if predictor.spec.data_digest == data_digest(dataset):
            dataset = dataset.subset(Split.load(split_file).test)
            rows = "the held-out test rows of the run"
        else:
            rows = "every row (the run was trained on other data)"
    log.print(f"measuring on {rows}: {len(dataset)} faces")
    answers = predictor.predict_batch(dataset.images, styles=dataset.styles)
    report = evaluate_predictions(dataset, answers.xy)
    if out is not None:
        write_json(out, report.to_dict())
    Console().print(render_evaluation(report))


@app.command("submit")
def submit_command(
    model: Annotated[str, typer.Argument(help="default, a run folder, a .keras or an .onnx file.")],
    data: Annotated[
        Path, typer.Option(help="Kaggle's files: test.csv and IdLookupTable.csv among them.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="The submission to write (.csv).")],
    flip: o.Flip = False,
    threads: o.Threads = None,
    force: o.Force = False,
) -> None:
    """Answer Kaggle's test pictures and write a submission (RowId,Location).

    A model with label styles answers each picture in the style that its requested points imply.
    Values are clipped to the picture.

    Examples:

        facial-keypoints submit default --data kaggle/ -o submission.csv

        facial-keypoints submit runs/flip --data kaggle/ -o submission.csv --force
    """
    from rich.console import Console

    from facial_keypoints.data.kaggle import (
        load_kaggle,
        load_lookup,
        requested_styles,
        write_submission,
    )
    from facial_keypoints.files import refuse_existing
    from facial_keypoints.predict import load_predictor

    refuse_existing(out, force=force)
    # A thousand pictures take seconds either way, so the better way.
    predictor = load_predictor(model, flip=flip, average=True, threads=threads)
    faces, lookup = load_kaggle(data, part="test"), load_lookup(data)
    predictor.check_fits(faces)
    styles = requested_styles(lookup, faces.sample_ids)
    answers = predictor.predict_batch(faces.images, styles=styles)
    write_submission(out, faces.sample_ids, answers.xy, lookup, side=faces.image_size[1])
    Console(stderr=True).print(f"wrote {out}", soft_wrap=True)
