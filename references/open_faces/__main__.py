"""``python -m references.open_faces``: renders face images with exact points."""

from references import run_command
from references.open_faces.make import main

if __name__ == "__main__":
    run_command(main)
