"""How fast Kaggle's training file loads, beside pandas with a parse per row, in one run.

Run: ``python benchmarks/load_kaggle.py --data DIR [--write]`` (or set FACIAL_KEYPOINTS_DATA), where
DIR holds ``training.zip``. Every way uses one core; it is timed ``--repeat`` times in turns, by processor
time since that depends least on what else the machine does, and its best time counts. Peak memory is
that of a fresh process, less what the same process needs after its imports.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from machine import processor

RESULT = Path(__file__).parent / "results" / "load_kaggle.md"


def with_pandas_array(data: str) -> int:
    """``read_csv``, then ``np.array(text.split())`` for each row."""
    import pandas as pd

    table = pd.read_csv(Path(data) / "training.zip")
    images = np.stack([np.array(text.split(), np.uint8) for text in table["Image"]])
    labels = table.drop(columns="Image").to_numpy(np.float32)
    return len(images.reshape(-1, 96, 96, 1)) + 0 * len(labels)


def with_pandas_fromstring(data: str) -> int:
    """``read_csv``, then ``np.fromstring(text, sep=' ')`` for each row: floats, as the study does."""
    import pandas as pd

    table = pd.read_csv(Path(data) / "training.zip")
    images = np.stack([np.fromstring(text, sep=" ") for text in table["Image"]])
    labels = table.drop(columns="Image").to_numpy(np.float32)
    return len(images.reshape(-1, 96, 96, 1)) + 0 * len(labels)


def with_pandas_fromstring_uint8(data: str) -> int:
    """As above with integers, the fastest parse per row that numpy offers."""
    import pandas as pd

    table = pd.read_csv(Path(data) / "training.zip")
    images = np.stack([np.fromstring(text, np.uint8, sep=" ") for text in table["Image"]])
    labels = table.drop(columns="Image").to_numpy(np.float32)
    return len(images.reshape(-1, 96, 96, 1)) + 0 * len(labels)


def with_package(data: str) -> int:
    """``load_kaggle`` without its cache."""
    from facial_keypoints.data.kaggle import load_kaggle

    return len(load_kaggle(data, cache=False))


def with_cache(data: str) -> int:
    """``load_kaggle`` a second time."""
    from facial_keypoints.data.kaggle import load_kaggle

    return len(load_kaggle(data))


WAYS: dict[str, Callable[[str], int]] = {
    "pandas + np.array(split) per row": with_pandas_array,
    "pandas + np.fromstring per row (the study's)": with_pandas_fromstring,
    "pandas + np.fromstring(uint8) per row": with_pandas_fromstring_uint8,
    "load_kaggle": with_package,
    "load_kaggle, second load (cache)": with_cache,
}


def peak_memory(name: str, data: str) -> float:
    """MiB that one load adds to a fresh process with its libraries imported."""
    answer = subprocess.run(
        [sys.executable, __file__, "--data", data, "--child", name],
        check=True,
        capture_output=True,
        text=True,
    )
    return float(answer.stdout.split()[-1])


def main() -> None:
    """Time all ways in turns, print the table, and write it with ``--write``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("FACIAL_KEYPOINTS_DATA"))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--write", action="store_true", help=f"write results/{RESULT.name}")
    parser.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.data:
        parser.error("give --data DIR or set FACIAL_KEYPOINTS_DATA")
    inside = Path(args.data) / "facial-keypoints-detection"
    args.data = str(inside) if inside.is_dir() else args.data
    if args.child:
        if "pandas" in args.child:
            import pandas as pd  # noqa: F401
        else:
            import facial_keypoints.data.kaggle  # noqa: F401
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        WAYS[args.child](args.data)
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
        return

    busy = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FACIAL_KEYPOINTS_CACHE"] = folder
        # First, while this process is small: a child starts with its parent's peak.
        peak_memory(list(WAYS)[-1], args.data)  # fills the cache
        memory = {name: peak_memory(name, args.data) for name in WAYS}
        rows = with_cache(args.data)
        times: dict[str, list[float]] = {name: [] for name in WAYS}
        for _ in range(args.repeat):
            for name, load in WAYS.items():
                start = time.process_time()
                load(args.data)
                times[name].append(time.process_time() - start)

    best = {name: min(seconds) for name, seconds in times.items()}
    base = best["load_kaggle"]
    pixels = rows * 96 * 96 / 2**20
    lines = [
        "# Loading Kaggle's training.zip",
        "",
        f"{datetime.date.today()} · a core of {processor()}, {platform.system()} · "
        f"{rows} rows, {pixels:.0f} MiB of pixels · best of {args.repeat} in turns · "
        f"other load on the machine {busy:.1f} · `python benchmarks/load_kaggle.py --write`",
        "",
        "| way | processor s | load_kaggle = 1 | peak memory MiB | peak / pixels |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {best[name]:.2f} | {best[name] / base:.2f} "
        f"| {memory[name]:.0f} | {memory[name] / pixels:.1f} |"
        for name in WAYS
    ]
    print("\n".join(lines))
    if args.write:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
