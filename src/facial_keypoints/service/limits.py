"""What one request, and all of them together, may take."""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """Bounds that keep the service up whatever it is sent.

    Args:
        body_bytes: Bytes of one request's body.
        pixels: Pixels of an image, told from its header before anything is decoded. Each working
            thread holds one decoded image, of 3 bytes a pixel.
        faces: Faces answered of an image, those of the best score; and boxes given for one.
        files: Images of one request.
        seconds: From a request's first byte to its answer, slow uploads and waiting included.
        waiting: Images that wait for a thread; a request that would exceed it is refused at once.
        memory_bytes: Bytes of all bodies held at once.
        requests: Requests under way at once, uploads included.
        batch: Face crops computed together.
        batch_wait_s: How long a thread waits for more of them while uploads are under way.

    Raises:
        ValueError: A bound is not positive, or two exclude each other.
    """

    body_bytes: int = 64 * 2**20
    pixels: int = 50_000_000
    faces: int = 100
    files: int = 32
    seconds: float = 30.0
    waiting: int = 64
    memory_bytes: int = 512 * 2**20
    requests: int = 512
    batch: int = 16
    batch_wait_s: float = 0.002

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 < value < float("inf") and (field.name, value) != ("batch_wait_s", 0.0):
                raise ValueError(f"{field.name} must be a positive number, received {value}.")
        if self.waiting < self.files:
            raise ValueError(
                f"{self.waiting} waiting images are fewer than the {self.files} files of a request: "
                "allow more to wait, or fewer files."
            )
        if self.memory_bytes < self.body_bytes:
            raise ValueError(
                f"{self.memory_bytes:,} bytes for all bodies are fewer than the {self.body_bytes:,} "
                "of one: allow more, or smaller bodies."
            )
