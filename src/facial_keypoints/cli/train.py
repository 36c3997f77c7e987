"""``facial-keypoints train``, ``evaluate`` and ``submit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facial_keypoints.cli import app
from facial_keypoints.cli import options as o
from facial_keypoints.recipes import get_recipe


@app.command("train")
def train_command(
    recipe: Annotated[o.RecipeName, typer.Argument(help="What to train.", show_choices=True)],
    out: Annotated[Path, typer.Option("-o", "--out", help="Run folder to make.")],
    data: o.Data = None,
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
    resume: o.Resume = False,
    force: o.Force = False,
) -> None:
    """Train one recipe and leave a run folder: model, split, history, settings, test errors.

    Interrupted training continues with --resume and ends with the same weights.

    Examples:

        facial-keypoints train cnn-flip --data kaggle/ -o runs/flip

        facial-keypoints train cnn-flip --data kaggle/ -o runs/flip --resume
    """
    from rich.console import Console

    from facial_keypoints.backend import choose_backend

    log = Console(stderr=True)
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
    predictor = load_predictor(model, flip=flip, threads=threads)
    dataset = load_faces(data, group_by=group_by)
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
    predictor = load_predictor(model, flip=flip, threads=threads)
    faces, lookup = load_kaggle(data, part="test"), load_lookup(data)
    predictor.check_fits(faces)
    styles = requested_styles(lookup, faces.sample_ids)
    answers = predictor.predict_batch(faces.images, styles=styles)
    write_submission(out, faces.sample_ids, answers.xy, lookup, side=faces.image_size[1])
    Console(stderr=True).print(f"wrote {out}", soft_wrap=True)
