"""``python -m facial_keypoints`` is the command line."""

from facial_keypoints.cli import main

main()
