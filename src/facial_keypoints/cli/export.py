"""``facial-keypoints export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facial_keypoints.cli import app
from facial_keypoints.cli import options as o
from facial_keypoints.errors import OutputError


@app.command("export")
def export_command(
    model: Annotated[str, typer.Argument(help="A run folder or a .keras file.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The file to write (.onnx).")],
    force: o.Force = False,
) -> None:
    """Export a trained model to ONNX, which needs no training library to run.

    The file predicts in pixels and contains its own description. It is written only if its predictions
    agree with those of Keras.

    Examples:

        facial-keypoints export runs/flip -o flip.onnx

        facial-keypoints export model.keras -o model.onnx --force
    """
    from facial_keypoints.cli.progress import make_log
    from facial_keypoints.files import refuse_existing
    from facial_keypoints.models.export import export_onnx
    from facial_keypoints.models.registry import find_own_detector

    if out.suffix.lower() != ".onnx":
        raise OutputError(f"{out}: models are exported as ONNX: choose a name that ends in .onnx.")
    refuse_existing(out, force=force)
    log = make_log()
    with log.status("exporting and comparing with Keras"):
        spec = export_onnx(model, out)
    log.print(f"wrote {out} ({spec.name}, {out.stat().st_size / 1e6:.1f} MB)")
    if (detector := find_own_detector(model)) is not None:
        log.print(
            f"its face detector stays a file of its own: use {out} with --detector {detector}"
        )
