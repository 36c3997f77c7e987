"""Flags that mean the same thing in each verb, written once."""

from __future__ import annotations

from enum import Enum, StrEnum
from pathlib import Path
from typing import Annotated

import typer

from facial_keypoints.training.recipes import RECIPES

__all__ = [
    "MAX_PIXELS",
    "Address",
    "BatchSize",
    "Boxes",
    "Cores",
    "Crops",
    "Data",
    "Detector",
    "Effort",
    "EffortName",
    "Epochs",
    "ExcludeFlagged",
    "FlipProbability",
    "Force",
    "Gpus",
    "GroupBy",
    "Images",
    "LearningRate",
    "MaxFaces",
    "MaxPixels",
    "MinScore",
    "Missing",
    "Model",
    "Patience",
    "RecipeName",
    "Resume",
    "RunFolder",
    "Schema",
    "Seed",
    "Style",
    "Threads",
    "Tta",
]

# Choices come from the registries, not from a second list.
RecipeName = Enum("RecipeName", {name: name for name in RECIPES}, type=str)  # type: ignore[misc]

# The same names as data.missing.MISSING_STRATEGIES, which a test compares: importing that module
# here would make every --help wait for numpy.
MissingName = Enum(  # type: ignore[misc]
    "MissingName", {n: n for n in ("interpolate", "drop", "mean", "ffill", "mask")}, type=str
)


class EffortName(StrEnum):
    """Choices of ``--effort``: inference.detector.EFFORTS, which a test compares."""

    fast = "fast"
    normal = "normal"
    thorough = "thorough"


Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        envvar="FACIAL_KEYPOINTS_DATA",
        help="Labelled faces: Kaggle's files (their folder, training.csv, training.zip, or one zip with all of "
        "them), or any format that 'data convert' reads.",
        show_default="faces drawn by this package",
    ),
]
RunFolder = Annotated[Path, typer.Option("-o", "--out", help="Run folder to make.")]
Address = Annotated[
    str | None,
    typer.Option(
        help="Train in parallel on Ray: local for the cores of this machine, a cluster's HOST:PORT, or "
        "auto on one of its machines.",
        show_default="compare: one run after the other; sweep: local",
    ),
]
Cores = Annotated[int, typer.Option(min=1, help="On Ray: cores of each run.")]
Gpus = Annotated[
    float, typer.Option(min=0, help="On Ray: GPUs of each run; with 0.5, two runs share one.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the split, the weights and drawn faces.")]
Epochs = Annotated[
    int | None, typer.Option(min=1, help="Passes over the training faces.", show_default="recipe's")
]
BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Faces per training step.", show_default="recipe's")
]
LearningRate = Annotated[
    float | None,
    typer.Option(min=0, help="Learning rate of the optimiser.", show_default="recipe's"),
]
Patience = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Stop after this many epochs without a better validation error; 0 = never.",
        show_default="recipe's",
    ),
]
FlipProbability = Annotated[
    float | None,
    typer.Option(
        min=0, max=1, help="Share of training faces that are mirrored.", show_default="recipe's"
    ),
]
Missing = Annotated[
    MissingName | None,
    typer.Option(
        help="Strategy for missing labels in the training faces.",
        show_default="recipe's",
    ),
]
ExcludeFlagged = Annotated[
    bool, typer.Option("--exclude-flagged", help="Train without the rows that the audit flags.")
]
GroupBy = Annotated[
    str | None,
    typer.Option(
        help="Column or attribute that names a group (such as a person), or image-name for what an image's name "
        "says before its last number (cat12 of cat12_03.jpg); a group stays on one side of a split.",
        show_default="near-duplicate images",
    ),
]
Schema = Annotated[
    str | None,
    typer.Option(
        help="Your keypoints: a .yaml or .json file, or the name of a schema.",
        show_default="the keypoints of the data",
    ),
]
Images = Annotated[
    Path | None,
    typer.Option(
        "--images",
        help="Folder of the images.",
        show_default="beside the labels, or in a folder near them",
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")]
Model = Annotated[
    str,
    typer.Option(
        help="default (15 points), ibug68 (68 points), a run folder, a .keras or an .onnx file."
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="Threads to compute with (ONNX models).", show_default="every core"),
]
Tta = Annotated[
    bool,
    typer.Option(
        "--tta",
        help="Test-time augmentation: the mean over eight moved views of each face, at about nine times the "
        "time for crops and five for faces of photos and videos. Models of default's family only.",
    ),
]
Crops = Annotated[
    bool, typer.Option("--crops", help="Each image is one face: the face detector is not used.")
]
Boxes = Annotated[
    Path | None,
    typer.Option(
        help="Table of faces from another detector (columns source, x0, y0, x1, y1; pixels); the face "
        "detector is not used."
    ),
]
Detector = Annotated[
    str,
    typer.Option(
        help="Face detector: default (the model's own from its run folder, else the shipped one), or an .onnx "
        "file: one trained by this package, or OpenCV's YuNet."
    ),
]
Effort = Annotated[
    EffortName,
    typer.Option(
        help="How much of a photo is searched for faces: fast is one pass over the whole; normal searches further where "
        "faces may be small, cut off or turned; thorough searches everywhere, at every size and in every "
        "orientation.",
    ),
]
MinScore = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Least score of a face; the shipped detector reports none below 0.4.",
        show_default="the detector's own",
    ),
]
MaxFaces = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Most faces of a photo; those with the highest scores are kept.",
        show_default="all of them",
    ),
]
MAX_PIXELS = 128_000_000
"""``io.images.MAX_PIXELS``, which a test compares: importing it would make every --help wait for OpenCV."""

MaxPixels = Annotated[
    int,
    typer.Option(min=1, help="Refuse larger images; each reading thread holds one of them."),
]
Style = Annotated[
    str | None,
    typer.Option(
        help="Label style to predict in; 'facial-keypoints models' lists them.",
        show_default="kaggle-a, if the model has it",
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print what was done, what was not and why as JSON on standard output.",
    ),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Replace an existing output; a folder only if facial-keypoints made it.",
    ),
]
