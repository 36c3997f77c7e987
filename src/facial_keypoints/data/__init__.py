"""Reading, cleaning, checking, splitting, drawing and saving faces with keypoints."""

from facial_keypoints.data.formats import load_dataset, load_photos, save_dataset

__all__ = ["load_dataset", "load_photos", "save_dataset"]
