"""Follow the faces of a video: numbers that stay, points without jitter, a drawn copy.

    python examples/track.py [FOLDER]

Draws a video of two faces, so that it runs anywhere; use your own file instead. Needs the extra
"video" (pip install 'facial-keypoints[video]').
"""

import sys
from pathlib import Path

import numpy as np

from facial_keypoints import Detections, Tracker, load_predictor
from facial_keypoints.data.synthetic.scenes import draw_scene
from facial_keypoints.geometry import face_boxes
from facial_keypoints.inference.tracker import draw_tracks, track_frames
from facial_keypoints.io.videos import open_video, write_video

folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")

# The video: a photo of two faces before a camera that swings to the right.
photo, drawn = draw_scene(2, seed=5, image_size=(240, 480))
shifts = [round(20 - 20 * np.cos(i / 8)) for i in range(50)]
with write_video(folder / "clip.mp4", (240, 440), rate=25) as writer:
    for i, shift in enumerate(shifts):
        writer.write(photo[:, shift : shift + 440], time_s=i / 25)


class Known:
    """Where the drawn faces are at the start. The shipped detector finds real ones itself."""

    def detect(self, image, effort):
        """Boxes with scores; the same however much is searched."""
        return Detections(face_boxes(drawn.xy, drawn.schema), np.full(len(drawn), 0.9, np.float32))


# Shortest, with the shipped detector: for prediction in track_video("clip.mp4"): ...
tracker = Tracker(load_predictor(detector=Known()))
paths: dict[int, list[np.ndarray]] = {}
with (
    open_video(folder / "clip.mp4") as video,
    write_video(folder / "drawn.mp4", video.size, rate=video.rate) as writer,
):
    for frame, faces in track_frames(video, tracker):
        writer.write(draw_tracks(frame.rgb(), faces), frame.time_s)
        for track, xy in zip(faces.track_ids, faces.keypoints.xy, strict=True):
            paths.setdefault(int(track), []).append(xy[faces.keypoints.schema.index("nose_tip")])

for track, path in paths.items():
    swing = float(np.ptp(np.array(path)[:, 0]))
    sys.stdout.write(f"face {track}: {len(path)} frames, its nose moved {swing:.0f} px sideways\n")
