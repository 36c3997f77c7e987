"""Cut the faces of a photo out, upright, as face-recognition networks take them.

    python examples/align.py [FOLDER]

Draws a photo of three faces, so that it runs anywhere; read_image(file) takes your own.
"""

import sys
from pathlib import Path

import numpy as np

from facial_keypoints import align, load_predictor
from facial_keypoints.data.synthetic.scenes import draw_scene
from facial_keypoints.io.images import write_image

folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
photo, _ = draw_scene(3, seed=5)

predictor = load_predictor()
faces = predictor.predict(photo)

aligned = align(photo, faces)  # images (N, 112, 112, 3), ready for a recognition network
for i, image in enumerate(aligned.images):
    write_image(folder / f"face{i}.png", image)

# The matrices take points there and back.
there = aligned.transform(0).apply(faces.keypoints.xy[0])
back = aligned.transform(0).inverse().apply(there)
off = float(np.abs(back - faces.keypoints.xy[0]).max())
sys.stdout.write(f"{len(aligned)} faces in {folder}; there and back within {off:.4f} px\n")
