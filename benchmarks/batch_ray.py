"""Batch runs on Ray: nothing lost or twice when things are killed, speed by workers, memory, stages.

Run: ``python benchmarks/batch_ray.py [--parts drill,speed,memory,stages] [--write]``. Each part writes
its own section of the result. The images are drawn faces (colour JPEG, 160x160, ``--crops``) and
drawn scenes (640x360, three faces, the shipped detector). Ray runs on this machine: one per run for
speed and memory; for the drill a head without cores and two worker nodes of one core, each
``ray start`` processes of their own, which are killed with all below them.
"""

from __future__ import annotations

import argparse
import datetime
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from machine import machine
from predict_memory import draw_files

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from ray_nodes import ENVIRONMENT, Nodes, kill_tree

RESULT = Path(__file__).parent / "results" / "batch_ray.md"
SCENES = 40


def draw_photos(folder: Path, count: int) -> None:
    """Write ``count`` photos, the same few drawn scenes again and again."""
    from facial_keypoints.data.synthetic.scenes import draw_scene
    from facial_keypoints.io.images import encode_image

    encoded = [encode_image(draw_scene(3, seed=seed)[0], ".jpg") for seed in range(SCENES)]
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:06}.jpg").write_bytes(encoded[number % SCENES])


def spoil(folder: Path) -> int:
    """Make one file in a hundred empty, no image, or cut off."""
    files = sorted(folder.iterdir())[50::100]
    for number, file in enumerate(files):
        content = file.read_bytes()
        file.write_bytes([b"", b"this is no image", content[: len(content) // 3]][number % 3])
    return len(files)


def predict(inputs: Path, out: Path, *words: str) -> None:
    """The table of the verb ``predict``; bad files make it end with 1."""
    command = [sys.executable, "-m", "facial_keypoints", "predict", str(inputs), "-o", str(out)]
    subprocess.run([*command, *words], check=False, stderr=subprocess.DEVNULL)


def start(inputs: Path | str, out: Path, *words: str, cores: str = "") -> subprocess.Popen[bytes]:
    """The verb ``batch`` in a process of its own, on some of the cores only if so wished."""
    command = [sys.executable, "-m", "facial_keypoints", "batch", str(inputs), "-o", str(out)]
    pinned = ["taskset", "-c", cores] if cores else []
    log = (out.parent / f"{out.name}.log").open("ab")
    return subprocess.Popen([*pinned, *command, *words], stderr=log, stdout=log, env=ENVIRONMENT)


def finish(run: subprocess.Popen[bytes], out: Path) -> None:
    """Wait for a run that must end well."""
    if run.wait():
        raise SystemExit((out.parent / f"{out.name}.log").read_text()[-2000:])


def parts(out: Path) -> int:
    """How many parts are finished."""
    return len(list((out / "parts").glob("[0-9]*")))


def until(out: Path, count: int, run: subprocess.Popen[bytes]) -> None:
    """Wait for so many parts."""
    while parts(out) < count:
        if run.poll() is not None:
            raise SystemExit((out.parent / f"{out.name}.log").read_text()[-2000:])
        time.sleep(0.05)


def read_parts(out: Path) -> pa.Table:
    """The rows of all parts, in order."""
    files = sorted((out / "parts").glob("[0-9]*"))
    return pa.concat_tables(pq.read_table(f) for f in files).replace_schema_metadata(None)


def drill(place: Path, count: int) -> list[str]:
    """Kill a worker process, a node and the driver; compare the tables with ``predict``."""
    faces = place / "drill"
    draw_files(faces, count)
    bad = spoil(faces)
    predict(faces, place / "drill.parquet", "--crops")
    expected = pq.read_table(place / "drill.parquet").replace_schema_metadata(None)
    out = place / "drilled"
    block, log = 128, []
    blocks = -(-count // block)
    with Nodes(place) as nodes:
        nodes.add()
        second = nodes.add()
        words = ["--crops", "--block-size", str(block), "--address", nodes.address]
        begun = time.perf_counter()
        run = start(faces, out, *words, "--workers", "2")
        until(out, blocks // 6, run)
        worker = worker_processes()[0]
        worker.send_signal(signal.SIGKILL)
        log.append(f"a worker process at {parts(out)}")
        until(out, blocks // 3, run)
        nodes.kill(second, at_work="MapWorker")
        log.append(f"a node with its worker at {parts(out)}")
        until(out, 2 * blocks // 3, run)
        kill_tree(run)
        log.append(f"the driver at {parts(out)}")
        until_quiet(out)
        kept = parts(out)
        again = start(faces, out, *words, "--workers", "2", "--resume")
        finish(again, out)
        seconds = time.perf_counter() - begun
    found = read_parts(out)
    failures = pq.read_table(out / "failures.parquet")["source"].to_pylist()
    statistics = json.loads((out / "statistics.json").read_text())
    wanted = [str(f) for f in sorted(faces.iterdir())]
    answered = found["source"].to_pylist()
    same = found.equals(expected)
    return [
        "## Killed on purpose",
        "",
        f"{count:,} drawn faces, {bad} of them bad files, `--crops`, {blocks} blocks of {block}; a head "
        "and two worker nodes of one core. kill -9 of: "
        + "; ".join(log)
        + f" parts. Then `--resume` with one node left ({kept} parts kept, "
        f"{statistics['blocks_of_last_run']} done).",
        "",
        "| | |",
        "|---|---|",
        f"| rows of `predict` | {expected.num_rows:,} |",
        f"| rows of the parts | {found.num_rows:,} |",
        f"| tables equal, row by row and bit by bit | {'yes' if same else 'NO'} |",
        f"| images with a row or a failure, exactly once | {'yes' if sorted(answered + failures) == wanted else 'NO'} |",
        f"| failures | {len(failures)} |",
        f"| half-written files left | {len(list((out / 'parts').glob('.*')))} |",
        f"| seconds in all, with three starts of Ray | {seconds:.0f} |",
    ]


def worker_processes() -> list[psutil.Process]:
    """Ours: children of ours that hold a predictor."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # a zombie is one of these
            if "MapWorker" in " ".join(process.cmdline()):
                found.append(process)
    return found


def until_quiet(out: Path) -> None:
    """Workers of a dead driver may finish what they hold."""
    before = -1
    while before != parts(out):
        before = parts(out)
        time.sleep(3)


def steady_rate(out: Path, block: int, workers: int) -> float:
    """Images a second between the first parts and the last: without the start of Ray."""
    ends = sorted(f.stat().st_mtime for f in (out / "parts").glob("[0-9]*"))
    first = workers  # the first part of each worker, or so
    return (len(ends) - first) * block / (ends[-1] - ends[first - 1])


LOOP = """
import sys, time, warnings
warnings.filterwarnings("ignore", module="PIL")
from pathlib import Path
from facial_keypoints.inference.predictor import load_predictor
from facial_keypoints.io.tables import columns, open_table, rows
folder, out, crops = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "crops"
predictor = load_predictor(threads=1)
files = sorted(folder.iterdir())
answer = predictor.predict_files if crops else predictor.predict_photos
with open_table(out, columns(predictor.spec.schema)) as table:
    for found in answer(files[:64], readers=1):
        pass
    begun, busy = time.perf_counter(), time.process_time()
    for found in answer(files, readers=1):
        table.write(rows(found))
print(len(files) / (time.perf_counter() - begun), 1000 * (time.process_time() - busy) / len(files))
"""


def processor_ms(run: subprocess.Popen[bytes], out: Path, block: int) -> float:
    """Processor time an image of a run, all of Ray included, after its first parts."""
    seconds: dict[int, float] = {}
    start, first = 0.0, 0
    last = (0.0, 0)
    while run.poll() is None:
        with suppress(psutil.NoSuchProcess):
            parent = psutil.Process(run.pid)
            for process in [parent, *parent.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    spent = process.cpu_times()
                    seconds[process.pid] = spent.user + spent.system
        now = (sum(seconds.values()), parts(out))
        if now[1] >= 4 and not first:
            start, first = now
        if first and now[1] > last[1]:
            last = now
        time.sleep(0.2)
    return 1000 * (last[0] - start) / ((last[1] - first) * block)


def speed(place: Path, count: int, repeats: int, kinds: list[str]) -> list[str]:
    """The loop of ``predict`` on one core, one worker on one core, two workers on two, in turns."""
    lines = [
        "## Speed",
        "",
        f"Images a second (median of {repeats} rounds, in each of which the three took turns), from the "
        "first part to the last: reading, decoding and writing included, without the start of Ray. "
        "*Loop*: `predict_files` or `predict_photos` in one process on one core; *one worker*: all of "
        "Ray, the driver and one worker on that core; *two workers*: on both cores. Processor time is of "
        "all processes together, all of Ray included, so other programs on the machine change it little.",
        "",
        "| | loop | one worker | two workers | two ÷ one (goal 1.7) | a core of two ÷ loop (goal 0.85) | ms of processor, loop | ms, two workers | of processor: loop ÷ two workers |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind, draw, amount in (("crops", draw_files, count), ("photos", draw_photos, count // 10)):
        if kind not in kinds:
            continue
        inputs = place / f"speed-{kind}"
        draw(inputs, amount)
        block = 512 if kind == "crops" else 32
        words = ["--block-size", str(block), *(["--crops"] if kind == "crops" else [])]
        rates = defaultdict(list)
        for number in range(repeats):
            loop = subprocess.run(
                ["taskset", "-c", "0", sys.executable, "-c", LOOP, inputs, place / "l.parquet", kind],
                check=True, capture_output=True, text=True, env=ENVIRONMENT,
            )  # fmt: skip
            rate, busy = map(float, loop.stdout.split())
            rates["loop"].append(rate)
            rates["loop ms"].append(busy)
            for workers, cores in ((1, "0"), (2, "0,1")):
                out = place / f"out-{kind}-{workers}-{number}"
                run = start(inputs, out, *words, "--workers", str(workers), cores=cores)
                spent = processor_ms(run, out, block)
                finish(run, out)
                rates[workers].append(steady_rate(out, block, workers))
            rates["two ms"].append(spent)
        loop_rate, one, two, loop_ms, two_ms = (
            float(np.median(rates[name])) for name in ("loop", 1, 2, "loop ms", "two ms")
        )
        ratio = float(np.median(np.array(rates[2]) / rates[1]))
        core = float(np.median(np.array(rates[2]) / 2 / rates["loop"]))
        share = float(np.median(np.array(rates["loop ms"]) / rates["two ms"]))
        what = (
            "drawn faces, 160×160, `--crops`"
            if kind == "crops"
            else "drawn scenes, 640×360, 3 faces"
        )
        lines.append(
            f"| {amount:,} {what} | {loop_rate:.0f} | {one:.0f} | {two:.0f} | {ratio:.2f} | {core:.2f} | {loop_ms:.2f} | "
            f"{two_ms:.2f} | {share:.2f} |"
        )
    return lines


def watch(run: subprocess.Popen[bytes]) -> tuple[float, float]:
    """(MiB, MiB): greatest memory of a process and all below it, and of the largest worker.

    Proportional set size, so that what processes share counts once; files cached for reading do not
    count.
    """
    peak = worker = 0.0
    while run.poll() is None:
        total = 0.0
        with suppress(psutil.NoSuchProcess):
            parent = psutil.Process(run.pid)
            for process in [parent, *parent.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    used = process.memory_full_info().pss / 2**20
                    total += used
                    if "MapWorker" in " ".join(process.cmdline()):
                        worker = max(worker, used)
        peak = max(peak, total)
        time.sleep(0.5)
    return peak, worker


def memory(place: Path, counts: list[int]) -> list[str]:
    """Peak of the whole process tree on few images and on many."""
    lines = [
        "## Memory",
        "",
        "Peak of the driver, all of Ray and two workers together (proportional set sizes, twice a "
        "second); drawn faces, `--crops`.",
        "",
        "| images | MiB in all | MiB of the largest worker | in all, least = 1 |",
        "|---|---|---|---|",
    ]
    first = 0.0
    encoded = place / "memory"
    draw_files(encoded, 250)
    names = [str(f) for f in sorted(encoded.iterdir())]
    for count in counts:
        listed = place / f"{count}.txt"  # the same files again and again, by a list of paths
        listed.write_text("\n".join(names[i % len(names)] for i in range(count)))
        out = place / f"memory-{count}"
        run = start(listed, out, "--crops", "--workers", "2")
        peak, worker = watch(run)
        finish(run, out)
        first = first or peak
        lines.append(f"| {count:,} | {peak:.0f} | {worker:.0f} | {peak / first:.2f} |")
    return lines


def stages(place: Path) -> list[str]:
    """Where the time of a block goes, in one process on one core."""
    lines = [
        "## Where the time goes",
        "",
        "Milliseconds an image in a worker, on one core, without Ray (the worker's code is the same). "
        "*Rest*: cutting crops, refinement without the network, rows, threads.",
        "",
        "| | read | decode | detect | keypoint network | rest | write | sum |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, draw, amount in (("crops", draw_files, 3072), ("photos", draw_photos, 320)):
        inputs = place / f"stages-{kind}"
        draw(inputs, amount)
        measured = subprocess.run(
            ["taskset", "-c", "0", sys.executable, __file__, "--stages-of", inputs, kind],
            check=True, capture_output=True, text=True, env=ENVIRONMENT,
        )  # fmt: skip
        seconds = json.loads(measured.stdout)
        columns = ("read", "decode", "detect", "network", "rest", "write", "sum")
        what = "face 160×160, `--crops`" if kind == "crops" else "scene 640×360, 3 faces"
        values = " | ".join(f"{1000 * seconds[name] / amount:.2f}" for name in columns)
        lines.append(f"| {what} | {values} |")
    return lines


def measure_stages(inputs: Path, kind: str) -> None:
    """Print the seconds of each stage as JSON; the functions of each stage carry a clock."""
    from facial_keypoints.batch.inputs import find_shards
    from facial_keypoints.batch.manifest import Manifest, Settings
    from facial_keypoints.batch.storage import Folder
    from facial_keypoints.batch.worker import BlockWorker, PackedModel
    from facial_keypoints.inference import predictor as module
    from facial_keypoints.models.registry import find_detector, find_model

    spent: dict[str, float] = defaultdict(float)

    def clocked(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            begun = time.thread_time() if stage != "write" else time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                now = time.thread_time() if stage != "write" else time.perf_counter()
                spent[stage] += now - begun

        return call

    crops = kind == "crops"
    model = PackedModel.of(find_model("default"))
    detector = None if crops else PackedModel.of(find_detector("default"))
    settings = Settings(inputs=(str(inputs),), crops=crops)
    with tempfile.TemporaryDirectory() as place:
        manifest = Manifest.write(Folder(place), settings, find_shards(settings.inputs))
        worker = BlockWorker(place, manifest.settings, model, detector, 1)
        from facial_keypoints.batch import inputs as reading

        reading.read_content = clocked("read", reading.read_content)
        module.read_image = clocked("decode", module.read_image)
        runtime = worker.predictor.runtime
        runtime.run = clocked("network", runtime.run)  # type: ignore[method-assign]
        if not crops:
            found = worker.predictor.detector
            found.detect = clocked("detect", found.detect)  # type: ignore[method-assign]
        worker._out.write = clocked("write", worker._out.write)  # type: ignore[method-assign]
        begun = time.perf_counter()
        for block in range(manifest.blocks):
            worker.work(block)
        spent["sum"] = time.perf_counter() - begun
    named = ("read", "decode", "detect", "network", "write")
    spent["rest"] = spent["sum"] - sum(spent[name] for name in named)
    print(json.dumps(spent))


def main() -> None:
    """Measure the parts that are asked for, print them, and keep them with ``--write``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default="drill,speed,memory,stages")
    parser.add_argument("--count", type=int, default=20_000, help="images of drill")
    parser.add_argument("--speed-count", type=int, default=20_000)
    parser.add_argument("--kinds", default="crops,photos", help="of speed")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory-counts", default="10000,60000,200000")
    parser.add_argument("--write", action="store_true", help=f"write results/{RESULT.name}")
    parser.add_argument("--data", help=argparse.SUPPRESS)  # `make bench` gives it to all
    parser.add_argument("--stages-of", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stages_of:
        measure_stages(Path(args.stages_of[0]), args.stages_of[1])
        return
    sections: list[str] = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        place = Path(folder)
        for part in args.parts.split(","):
            lines = {
                "drill": lambda: drill(place, args.count),
                "speed": lambda: speed(
                    place, args.speed_count, args.repeats, args.kinds.split(",")
                ),
                "memory": lambda: memory(place, [int(n) for n in args.memory_counts.split(",")]),
                "stages": lambda: stages(place),
            }[part]()
            sections += ["", *lines]
            print("\n".join(lines), flush=True)
    head = [
        "# Batch runs on Ray",
        "",
        f"{datetime.date.today()} · {machine()} · model 'default' · "
        f"Ray {version('ray')} · `python benchmarks/batch_ray.py --write`",
    ]
    if args.write:
        RESULT.write_text("\n".join([*head, *sections]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    from importlib.metadata import version

    main()
