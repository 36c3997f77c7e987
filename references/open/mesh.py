"""``python -m references.open.mesh``: MediaPipe's mesh of faces whose points are known, to learn how they differ.

Run it where ``mediapipe==0.10.14`` is installed (code and weights Apache-2.0; it wants numpy below 2).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from references import run_command
from references.collection import join_faces
from references.open.faces import read_renders, read_webmorph

_HIDDEN = 0.2  # share of hidden points above which a render is left out


def main(arguments: Sequence[str] | None = None) -> None:
    """Find the mesh of each render and CC BY face, and write those that are found."""
    from mediapipe.python.solutions.face_mesh import FaceMesh

    parser = argparse.ArgumentParser(prog="python -m references.open.mesh", description=__doc__)
    parser.add_argument("--renders", type=Path, required=True, metavar="DIR")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with wild/")
    parser.add_argument(
        "--most", type=int, default=4000, help="renders to look at (default: %(default)s)"
    )
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="FILE", help="the .npz to write"
    )
    options = parser.parse_args(arguments)
    drawn, hidden, _ = read_renders(options.renders, options.most)
    faces = join_faces(
        [drawn.subset(np.flatnonzero(hidden.mean(axis=1) < _HIDDEN)), read_webmorph(options.data)],
        "",
    )
    finder = FaceMesh(static_image_mode=True, max_num_faces=1, refine_landmarks=True)
    names, meshes = [], []
    for name, image in zip(faces.sample_ids.tolist(), faces.images, strict=True):
        large = cv2.cvtColor(cv2.resize(image, None, fx=3, fy=3), cv2.COLOR_GRAY2RGB)
        if found := finder.process(large).multi_face_landmarks:
            names.append(name)
            meshes.append([(p.x, p.y) for p in found[0].landmark])
    mesh = np.array(meshes, np.float32) * faces.image_size[0] - 0.5
    np.savez_compressed(options.out, names=np.array(names), mesh=mesh)
    print(f"{len(names)} meshes in {len(faces)} faces")


if __name__ == "__main__":
    run_command(main)
