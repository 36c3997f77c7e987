"""Faces and scenes that the package draws itself, with exact keypoints."""
