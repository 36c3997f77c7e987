"""``facial-keypoints models``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from facial_keypoints.cli import app

if TYPE_CHECKING:
    from facial_keypoints.models.spec import ModelSpec


@app.command("models")
def models_command(
    model: Annotated[
        str | None,
        typer.Argument(help="A shipped model, a run folder, a .keras or an .onnx file."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the models that come with the package, or describe one model.

    Examples:

        facial-keypoints models

        facial-keypoints models runs/flip --json
    """
    import json
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from facial_keypoints.models.registry import find_own_detector, shipped_models
    from facial_keypoints.models.runtime import read_spec

    specs = {name: read_spec(name) for name in ([model] if model else shipped_models())}
    if as_json:
        value = {name: asdict(spec) for name, spec in specs.items()}
        typer.echo(json.dumps(value[model] if model else value, indent=2, ensure_ascii=False))
        return
    if not specs:
        typer.echo("this build of facial-keypoints comes without models.", err=True)
        return
    table = Table("", *specs)
    facts = [
        _facts(spec) | {"face detector": str(find_own_detector(name) or "the shipped one")}
        for name, spec in specs.items()
    ]
    for label in facts[0]:
        table.add_row(label, *(Text(fact[label]) for fact in facts))
    Console().print(table)


def _facts(spec: ModelSpec) -> dict[str, str]:
    height, width = spec.input_size
    return {
        "recipe": spec.name,
        "input": f"{width}×{height} {'grey' if spec.channels == 1 else 'RGB'}",
        "keypoints": f"{spec.schema.num_keypoints} ({spec.schema.name})",
        "label styles": ", ".join(style for style in spec.styles if style) or "one, unnamed",
        "confidence": spec.confidence or "none",
        "trained on": spec.data_digest[:12] or "unknown",
        "written by": f"facial-keypoints {spec.version}" if spec.version else "unknown",
    }
