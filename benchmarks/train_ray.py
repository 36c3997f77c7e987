"""Training on Ray: the same weights when things are killed, and what side by side gains.

Run: ``python benchmarks/train_ray.py [--parts drill,speed] [--write]``. Drawn faces, the recipe cnn. The
drill trains two seeds on a head without cores and two worker nodes of one core, each ``ray start``
processes of their own: kill -9 of one node with all below it, another one joins, kill -9 of the driver,
``--resume``; the weights are compared with those of an undisturbed experiment. Speed trains four seeds, one
after the other on all cores in one process, and side by side on a Ray of this machine, in turns.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from machine import machine

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from ray_nodes import ENVIRONMENT, Nodes, kill_tree

RESULT = Path(__file__).parent / "results" / "train_ray.md"


def start(out: Path, *words: str) -> subprocess.Popen[bytes]:
    """The verb ``compare`` on the recipe cnn in a process of its own."""
    command = [sys.executable, "-m", "facial_keypoints", "compare", "cnn", "-o", str(out), *words]
    log = (out.parent / f"{out.name}.log").open("ab")
    return subprocess.Popen(command, stdout=log, stderr=log, env=ENVIRONMENT)


def finish(run: subprocess.Popen[bytes], out: Path) -> None:
    """Wait for a run that must end well."""
    if run.wait():
        raise SystemExit((out.parent / f"{out.name}.log").read_text()[-2000:])


def weights(out: Path) -> dict[str, str]:
    """A digest of the weights of each run of an experiment."""
    from facial_keypoints.models.keras_backend import choose_backend

    choose_backend()
    from facial_keypoints.training.run_folder import load_run

    digests = {}
    for folder in sorted((out / "runs").iterdir()):
        values = load_run(folder).load_model().get_weights()
        digests[folder.name] = hashlib.sha256(b"".join(v.tobytes() for v in values)).hexdigest()
    return digests


def until(what: str, ready: object, run: subprocess.Popen[bytes], out: Path) -> None:
    """Wait until ``ready()`` is true while the run goes on."""
    while not ready():  # type: ignore[operator]
        if run.poll() is not None:
            text = (out.parent / f"{out.name}.log").read_text()[-2000:]
            raise SystemExit(f"ended before {what}: {text}")
        time.sleep(0.2)


def drill(place: Path, epochs: int) -> list[str]:
    """Kill a node and the driver; compare the weights with an undisturbed experiment's."""
    words = ["--seeds", "2", "--epochs", str(epochs)]
    plain, out = place / "plain", place / "drilled"
    finish(start(plain, *words, "--address", "local"), plain)
    first, second = (out / "runs" / f"cnn-seed{seed}" for seed in (0, 1))
    states = [run / "checkpoint" / "latest" / "state.json" for run in (first, second)]
    with Nodes(place) as nodes:
        nodes.add()
        doomed = nodes.add()
        run = start(out, *words, "--address", nodes.address)
        until("a checkpoint of both", lambda: all(s.exists() for s in states), run, out)
        nodes.kill(doomed, at_work="ImplicitFunc")
        nodes.add()
        seen = [s.stat().st_mtime for s in states]
        until(
            "new checkpoints of both",
            lambda: all(
                s.exists() and s.stat().st_mtime > t for s, t in zip(states, seen, strict=True)
            ),
            run,
            out,
        )
        kill_tree(run)
        time.sleep(5)  # Ray ends the tasks of a driver that is gone
        kept = [s.exists() for s in states]
        finish(start(out, *words, "--address", nodes.address, "--resume"), out)
    same = weights(plain) == weights(out)
    return [
        "## Killed on purpose",
        "",
        f"3,000 drawn faces, cnn, two seeds, {epochs} epochs; a head and two worker nodes of one core. "
        "kill -9 of: a node with the run on it, after both had a checkpoint (another node then joined); "
        "the driver, after both had a later one. Then `--resume`.",
        "",
        "| | |",
        "|---|---|",
        f"| checkpoints left when the driver was dead | {sum(kept)} of 2 |",
        f"| weights of both runs equal to an undisturbed experiment's, bit by bit | {'yes' if same else '**no**'} |",
    ]


def speed(place: Path, epochs: int, repeats: int) -> list[str]:
    """Four seeds, one after the other and side by side, in turns."""
    words = ["--seeds", "4", "--epochs", str(epochs)]
    seconds: dict[str, list[float]] = {"one after the other": [], "side by side": []}
    for number in range(repeats):
        for name, more in (
            ("one after the other", []),
            ("side by side", ["--address", "local"]),
        ):
            out = place / f"{name[:4]}{number}"
            begun = time.perf_counter()
            finish(start(out, *words, *more), out)
            seconds[name].append(time.perf_counter() - begun)
    ratio = np.median(np.divide(seconds["one after the other"], seconds["side by side"]))
    return [
        "## Speed",
        "",
        f"3,000 drawn faces, cnn, four seeds of {epochs} epochs; whole process, with drawing, start and "
        f"report; median of {repeats} rounds in turns.",
        "",
        "| | seconds |",
        "|---|---|",
        *(f"| {name} | {np.median(values):.0f} |" for name, values in seconds.items()),
        f"| ratio | {ratio:.2f} |",
    ]


def main() -> None:
    """Measure the parts that are asked for, print them, and keep them with ``--write``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default="drill,speed")
    parser.add_argument("--epochs", type=int, default=16, help="of the drill")
    parser.add_argument("--speed-epochs", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--write", action="store_true", help=f"write results/{RESULT.name}")
    parser.add_argument("--data", help=argparse.SUPPRESS)  # `make bench` gives it to all
    args = parser.parse_args()
    sections: list[str] = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for part in args.parts.split(","):
            lines = (
                drill(Path(folder), args.epochs)
                if part == "drill"
                else speed(Path(folder), args.speed_epochs, args.repeats)
            )
            sections += ["", *lines]
            print("\n".join(lines), flush=True)
    head = [
        "# Training on Ray",
        "",
        f"{datetime.date.today()} · {machine()} · Ray {version('ray')} "
        "· `python benchmarks/train_ray.py --write`",
    ]
    if args.write:
        RESULT.write_text("\n".join([*head, *sections]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
