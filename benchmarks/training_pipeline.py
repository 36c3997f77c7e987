"""How many images a second ``cnn-flip`` trains on, as a share of a bare ``fit`` on arrays.

Both train the same network for the same number of steps, in turns within one process, so that a
machine whose speed drifts slows both. The share is the median over the pairs.

    python benchmarks/training_pipeline.py [--faces 1280] [--pairs 7]
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from facial_keypoints.models.keras_backend import choose_backend

choose_backend()

from facial_keypoints.data.synthetic.faces import draw_kaggle_like  # noqa: E402
from facial_keypoints.models.study import build_cnn  # noqa: E402
from facial_keypoints.training.batches import TrainingBatches, targets_and_weights  # noqa: E402
from facial_keypoints.training.fit import compile_model  # noqa: E402
from facial_keypoints.training.recipes import RECIPES  # noqa: E402


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faces", type=int, default=1280)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--data", help="accepted for `make bench`; this one draws its faces")
    options = parser.parse_args()

    recipe = RECIPES["cnn-flip"]
    faces = draw_kaggle_like(options.faces, seed=0)
    model = build_cnn(faces.schema.num_keypoints, faces.image_size)
    compile_model(model, recipe, faces.image_size)
    images = faces.images.astype(np.float32)
    targets, weights = targets_and_weights(faces)
    batches = TrainingBatches(
        faces, batch_size=recipe.batch_size, seed=0, flip_probability=recipe.flip_probability
    )

    def bare() -> float:
        start = time.perf_counter()
        model.fit(images, targets, sample_weight=weights, batch_size=recipe.batch_size, verbose=0)
        return time.perf_counter() - start

    def ours() -> float:
        start = time.perf_counter()
        model.fit(batches, shuffle=False, verbose=0)
        return time.perf_counter() - start

    bare(), ours()  # both graphs are traced before the clock runs
    pairs = [(bare(), ours()) for _ in range(options.pairs)]
    shares = sorted(b / o for b, o in pairs)
    rate = options.faces / np.median([o for _, o in pairs])
    print(f"pairs {options.pairs}, {options.faces} faces of 96×96, batch {recipe.batch_size}")
    print(f"bare fit     {options.faces / np.median([b for b, _ in pairs]):6.0f} images/s")
    print(f"cnn-flip     {rate:6.0f} images/s")
    print(
        f"share        {np.median(shares):.3f} (lowest {shares[0]:.3f}, highest {shares[-1]:.3f})"
    )


if __name__ == "__main__":
    main()
