"""``facial-keypoints benchmark``."""

from __future__ import annotations

from typing import Annotated

import typer

from facial_keypoints.cli import app
from facial_keypoints.cli import options as o


@app.command("benchmark")
def benchmark_command(
    model: o.Model = "default",
    threads: o.Threads = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Faces computed at once.")] = 256,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long each task is repeated.")] = 2.0,
    photos: Annotated[
        bool, typer.Option("--photos/--no-photos", help="Time whole photos as well.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure how fast a model is on this machine: faces and whole photos, without reading files.

    Examples:

        facial-keypoints benchmark

        facial-keypoints benchmark --model runs/flip --threads 4 --json
    """
    import json
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from facial_keypoints.cluster import available_cores
    from facial_keypoints.inference.benchmark import measure_speed

    log = Console(stderr=True)
    with log.status("measuring"):
        found = measure_speed(
            model,
            threads=threads or available_cores(),
            batch_size=batch_size,
            seconds=seconds,
            photos=photos,
        )
    if as_json:
        typer.echo(json.dumps([asdict(speed) for speed in found], indent=2, ensure_ascii=False))
        return
    table = Table("task", "threads", "median ms", "best ms", "a second")
    for speed in found:
        table.add_row(
            speed.task,
            str(speed.threads),
            f"{speed.median_ms:.2f}",
            f"{speed.best_ms:.2f}",
            f"{speed.per_second:,.0f}",
        )
    Console().print(table)
