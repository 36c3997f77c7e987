"""Find the faces of a photo and their keypoints, as a table and an image.

    python examples/photo.py [FOLDER]

Draws a photo of three faces, so that it runs anywhere; use your own photo instead.
"""

import sys
from pathlib import Path

from facial_keypoints import load_predictor
from facial_keypoints.data.synthetic.scenes import draw_scene
from facial_keypoints.io.drawing import draw_prediction
from facial_keypoints.io.images import write_image
from facial_keypoints.io.tables import columns, rows, write_table

folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
photo, _ = draw_scene(3, seed=5)  # or read_image("party.jpg", channels=3)

predictor = load_predictor()
found = predictor.predict(photo, source="drawn photo")

write_table(folder / "points.csv", columns(predictor.spec.schema), rows(found))
write_image(folder / "drawn.png", draw_prediction(photo, found))

nose = found.keypoints.schema.index("nose_tip")
for face, (score, xy) in enumerate(zip(found.scores, found.keypoints.xy, strict=True)):
    sys.stdout.write(
        f"face {face} ({score:.2f}): its nose at x {xy[nose, 0]:.1f}, y {xy[nose, 1]:.1f}\n"
    )
