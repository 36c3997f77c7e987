"""Train SLEAP-NN's single-instance UNet on a folder that ``data convert --to deeplabcut`` wrote, and predict images.

    PEER_PYTHON benchmarks/peers/sleap_single.py TRAIN TEST OUT --seconds S [S ...]

TRAIN holds ``labeled-data`` and ``symmetry.json``, pairs of left/right names, which DeepLabCut's csv lacks; TEST holds PNG files of one face each. OUT/S.npz holds the answers after each time, all
from one training: SLEAP-NN keeps the weights of least validation loss and lowers the learning rate on a plateau, so
those that it had kept by then are what it gives.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import time
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import sleap_io
import sleap_nn
import torch
from sleap_nn.inference import Predictor
from sleap_nn.train import train

SETTINGS: dict[str, Any] = {
    "backbone_config": {"unet": {"filters": 16, "filters_rate": 2.0, "max_stride": 16, "output_stride": 2}},
    "batch_size": 4,
    "learning_rate": 1e-3,
    "geometry_aug": {
        "rotation_min": -15.0, "rotation_max": 15.0, "scale_min": 0.9, "scale_max": 1.1, "flip_p": 0.5,
    },
    "lr_scheduler": "reduce_lr_on_plateau",
    "sigma": 2.5,
}  # fmt: skip


def fit(source: Path, out: Path, settings: dict[str, Any], ready: Event) -> None:
    """Train until the process is ended."""
    torch.set_num_threads(2)
    labels = sleap_io.load_dlc(str(next(source.rglob("CollectedData_*.csv"))))
    for left, right in json.loads((source / "symmetry.json").read_text()):
        labels.skeleton.add_symmetry(left, right)
    labels.save(str(out / "labels.slp"))
    settings = dict(settings)
    confmaps = {"part_names": None, "sigma": settings.pop("sigma"), "output_stride": 2}
    ready.set()
    train(
        train_labels_path=[str(out / "labels.slp")], validation_fraction=0.1,
        data_pipeline_fw="torch_dataset_cache_img_memory", ensure_grayscale=True, min_train_steps_per_epoch=1,
        head_configs={"single_instance": {"confmaps": confmaps}}, max_epochs=10000, seed=0, save_ckpt=True,
        early_stopping=False, trainer_accelerator="cpu", enable_progress_bar=False, ckpt_dir=str(out), run_name="run",
        **settings,
    )  # fmt: skip


def main() -> None:
    """Train, predict, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, nargs="+", required=True)
    parser.add_argument("--settings", type=json.loads, default={}, help="Other settings of train.")
    options = parser.parse_args()
    run = options.out / "run"
    run.mkdir(parents=True)
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    settings = SETTINGS | options.settings
    process = context.Process(
        target=fit, args=(options.train, options.out, settings, ready), daemon=True
    )
    process.start()
    ready.wait()
    began = time.perf_counter()
    kept = {}
    for limit in sorted(options.seconds):
        while time.perf_counter() - began < limit and process.is_alive():
            time.sleep(0.2)
        if not (run / "best.ckpt").is_file():
            print(f"no weights are kept after {limit:g} s")
            continue
        lines = (run / "training_log.csv").read_text().splitlines()
        epochs = len(lines) - 2  # below the header is the loss before training
        kept[limit] = (options.out / f"{limit:g}", time.perf_counter() - began, epochs)
        shutil.copytree(run, kept[limit][0])
    process.terminate()
    process.join()
    header = next(options.train.rglob("CollectedData_*.csv")).read_text().splitlines()
    names = list(dict.fromkeys(header[1].split(",")[3:]))  # SLEAP puts them in another order
    images = [cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) for file in sorted(options.test.glob("*.png"))]  # fmt: skip
    for limit, (folder, seconds, epochs) in kept.items():
        predictor = Predictor.from_model_paths([str(folder)], device="cpu", peak_threshold=0.0)
        order = [predictor.skeleton.node_names.index(name) for name in names]
        torch.set_num_threads(1)
        found, times = [], []
        for image in images:
            start = time.perf_counter()
            answer = predictor.layer.predict(image[..., None]).numpy()["pred_keypoints"]
            times.append(time.perf_counter() - start)
            found.append(answer.reshape(-1, 2)[order])
        np.savez(
            options.out / f"{limit:g}.npz",
            xy=np.stack(found),
            seconds=seconds,
            epochs=epochs,
            ms=1000 * min(times),
            version=sleap_nn.__version__,
        )


if __name__ == "__main__":
    main()
