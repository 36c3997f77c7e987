"""Measure the faces of a photo: distances as ratios with error bars. Not a medical device.

    python examples/measure.py [FOLDER]

Draws a photo of three faces, so that it runs anywhere; read_image(file) takes your own.
"""

import sys
from pathlib import Path

from facial_keypoints import load_predictor, measure
from facial_keypoints.data.synthetic.scenes import draw_scene

folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
photo, _ = draw_scene(3, seed=5)

predictor = load_predictor()
faces = predictor.predict(photo)

# With a scale, here the distance between the pupils, lengths come in millimetres as well.
found = measure(faces, ipd_mm=63)
lines = []
for face, warnings in enumerate(found.warnings):
    lines.append(f"face {face}: {', '.join(warnings) or 'no warnings'}")
    for name in ("canthal_index", "mouth_width", "mouth_width_mm", "head_yaw"):
        m = found.index(name)
        value, sigma, unit = found.values[face, m], found.sigma[face, m], found.units[m]
        lines.append(f"  {name} = {value:.2f} ± {sigma:.2f} {unit}")
(folder / "measures.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
sys.stdout.write("\n".join(lines) + "\n")
