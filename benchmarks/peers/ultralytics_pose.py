"""Train Ultralytics' pose network on a folder that ``data convert --to yolo`` wrote, and predict a folder of images.

    PEER_PYTHON benchmarks/peers/ultralytics_pose.py TRAIN TEST OUT --seconds S [S ...]

TRAIN holds ``data.yaml``, ``images`` and ``labels``; TEST holds PNG files of one face each. OUT/S.npz holds the
answers after each time, each from a training of its own, since the learning rate falls over the given time.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

os.environ |= {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}

import cv2
import numpy as np
import torch
import ultralytics
from ultralytics import YOLO

SETTINGS = {
    "imgsz": 96, "batch": 16, "nbs": 16, "mosaic": 0.0, "degrees": 15.0, "cache": "ram", "workers": 0,
    "optimizer": "AdamW", "lr0": 0.002,
}  # fmt: skip


def answer(model: YOLO, image: np.ndarray, size: int) -> np.ndarray | None:
    """(K, 2) pixels of the surest face, an integer is a pixel's centre; None if there is no face."""
    found = model.predict(image, imgsz=size, conf=0.001, max_det=1, device="cpu", verbose=False)
    points = found[0].keypoints.xy.numpy()
    return points[0] - 0.5 if len(points) and points.shape[1] else None


def main() -> None:
    """Train, predict, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, nargs="+", required=True)
    parser.add_argument("--network", default="yolo11n-pose.yaml")
    parser.add_argument("--settings", type=json.loads, default={}, help="Other settings of train.")
    options = parser.parse_args()
    settings = SETTINGS | options.settings
    images = sorted((options.train / "images").rglob("*.png"))
    few = options.train / "few.txt"  # the tool measures on some at the end; the last weights count
    few.write_text("".join(f"{file.absolute()}\n" for file in images[:16]))
    data = options.train / "peer.yaml"
    written = (options.train / "data.yaml").read_text()
    data.write_text(written.replace("val: images", "val: few.txt"))

    images = [cv2.imread(str(file)) for file in sorted(options.test.glob("*.png"))]
    for limit in options.seconds:
        torch.set_num_threads(2)
        began = time.perf_counter()
        model = YOLO(options.network)
        model.train(
            data=str(data), time=limit / 3600, epochs=1000, device="cpu", pretrained=False, val=False,
            plots=False, amp=False, verbose=False, exist_ok=True,
            project=str(options.out.absolute()), name="run", **settings,
        )  # fmt: skip
        seconds, epochs = time.perf_counter() - began, model.trainer.epoch + 1
        model = YOLO(model.trainer.last)
        found = [answer(model, image, settings["imgsz"]) for image in images]
        torch.set_num_threads(1)
        times = []
        for image in images[:200]:
            start = time.perf_counter()
            answer(model, image, settings["imgsz"])
            times.append(time.perf_counter() - start)
        nothing = np.full(next(xy.shape for xy in found if xy is not None), np.nan)
        np.savez(
            options.out / f"{limit:g}.npz",
            xy=np.stack([nothing if xy is None else xy for xy in found]),
            seconds=seconds,
            epochs=epochs,
            ms=1000 * min(times),
            parameters=sum(p.numel() for p in model.model.parameters()),
            version=ultralytics.__version__,
        )


if __name__ == "__main__":
    main()
