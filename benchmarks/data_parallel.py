"""Seconds per epoch of the cnn: one device on one core, and two processes with a core each.

Needs jax beside the extra ``train``, two free cores and Linux::

    KERAS_BACKEND=jax python benchmarks/data_parallel.py

Both train on the same drawn faces, in turns; an epoch counts from the second on, when nothing is
compiled any more. Also says how far the validation errors are apart.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FACES, EPOCHS, ROUNDS = 600, 5, 2


def train_here(folder: str) -> None:
    """Train in this process, on all devices if Keras' variables are set; print the epochs."""
    import keras
    import numpy as np

    from facial_keypoints.data.splits import Split
    from facial_keypoints.data.synthetic.faces import draw_kaggle_like
    from facial_keypoints.training.data_parallel import data_parallel, is_first_process
    from facial_keypoints.training.fit import train
    from facial_keypoints.training.recipes import RECIPES

    class Clock(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_begin(self, logs: object = None) -> None:
            self.ends: list[float] = []

        def on_epoch_end(self, epoch: int, logs: object = None) -> None:
            self.ends.append(time.perf_counter())

    clock, rows = Clock(), np.arange(FACES)
    split = Split(train=rows[: FACES * 5 // 6], val=rows[FACES * 5 // 6 : -10], test=rows[-10:])
    several = "KERAS_DISTRIBUTION_PROCESS_ID" in os.environ
    with data_parallel() if several else contextlib.nullcontext():
        recipe = RECIPES["cnn"].override(epochs=EPOCHS)
        run = train(draw_kaggle_like(FACES), split, recipe, folder, callbacks=[clock])
        if not is_first_process():
            return
    epochs = np.diff(clock.ends).tolist()
    print(json.dumps({"epochs": epochs, "val_rmse_px": run.history["val_rmse_px"]}))


def measure(processes: int) -> tuple[list[float], list[float]]:
    """Seconds of each epoch after the first, and the validation errors."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        started = []
        for number in range(processes):
            cluster = {
                "KERAS_DISTRIBUTION_JOB_ADDRESSES": f"127.0.0.1:{port}",
                "KERAS_DISTRIBUTION_NUM_PROCESSES": str(processes),
                "KERAS_DISTRIBUTION_PROCESS_ID": str(number),
            }
            started.append(
                subprocess.Popen(
                    ["taskset", "-c", str(number), sys.executable, __file__, str(Path(folder, "run"))],
                    env={**os.environ, **(cluster if processes > 1 else {})},
                    stdout=subprocess.PIPE, text=True,
                )
            )  # fmt: skip
        said = json.loads(started[0].communicate()[0].splitlines()[-1])
        for other in started[1:]:
            other.communicate()
    return said["epochs"], said["val_rmse_px"]


def main() -> None:
    """Measure both in turns."""
    one: list[float] = []
    two: list[float] = []
    for _ in range(ROUNDS):
        seconds, errors_one = measure(1)
        one += seconds
        seconds, errors_two = measure(2)
        two += seconds
    print(
        f"one device, one core: {statistics.median(one):.2f} s per epoch ({min(one):.2f} at best)"
    )
    print(f"two processes, a core each: {statistics.median(two):.2f} s ({min(two):.2f} at best)")
    print(f"ratio of the medians {statistics.median(one) / statistics.median(two):.2f}")
    print("validation errors in pixels, one:", [round(e, 3) for e in errors_one])
    print("validation errors in pixels, two:", [round(e, 3) for e in errors_two])


if __name__ == "__main__":
    if len(sys.argv) > 1:
        train_here(sys.argv[1])
    else:
        main()
