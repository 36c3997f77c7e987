"""Train, compare, ship and use facial keypoint detectors."""

from facial_keypoints._version import __version__

__all__ = ["__version__"]
