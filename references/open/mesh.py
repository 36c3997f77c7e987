"""``python -m references.open.mesh``: MediaPipe's mesh of the renders, to learn how its points differ from theirs.

Run it where ``mediapipe==0.10.14`` is installed (code and weights Apache-2.0; it wants numpy below 2).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from references import run_command
from references.open.faces import read_renders


def main(arguments: Sequence[str] | None = None) -> None:
    """Find the mesh in each canvas, and write those that are found."""
    from mediapipe.python.solutions.face_mesh import FaceMesh

    parser = argparse.ArgumentParser(prog="python -m references.open.mesh", description=__doc__)
    parser.add_argument("--renders", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--most", type=int, default=4000, help="renders to look at (default: %(default)s)"
    )
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="FILE", help="the .npz to write"
    )
    options = parser.parse_args(arguments)
    faces, hidden, _ = read_renders(options.renders, options.most)
    seen = np.flatnonzero(hidden.mean(axis=1) < 0.2)
    finder = FaceMesh(static_image_mode=True, max_num_faces=1, refine_landmarks=True)
    names, meshes = [], []
    for i in seen:
        large = cv2.cvtColor(cv2.resize(faces.images[i], None, fx=3, fy=3), cv2.COLOR_GRAY2RGB)
        if found := finder.process(large).multi_face_landmarks:
            names.append(faces.sample_ids[i])
            meshes.append([(p.x, p.y) for p in found[0].landmark])
    mesh = np.array(meshes, np.float32) * faces.image_size[0] - 0.5
    np.savez_compressed(options.out, names=np.array(names), mesh=mesh)
    print(f"{len(names)} meshes in {len(seen)} renders with at most a fifth of the points hidden")


if __name__ == "__main__":
    run_command(main)
