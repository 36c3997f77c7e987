"""Limits of one request and of all requests together."""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """Limits that keep the service running whatever is sent to it; all are maxima.

    Args:
        body_bytes: Bytes of one request's body.
        pixels: Pixels of an image, read from its header before it is decoded.
        pixels_at_once: Pixels of all images that are decoded and not answered; others wait. A pixel needs up to
            20 bytes, a pixel of a JPEG or PNG 5 to 10.
        faces: Faces of an image in an answer, those of the highest score; and boxes given for one.
        files: Images of one request.
        seconds: Seconds from a request's first byte to its answer, with the upload and the waiting.
        waiting: Images that wait for a thread; a request that would exceed it is refused at once.
        memory_bytes: Bytes of all bodies held at once.
        requests: Requests under way at once, with those that are being uploaded.
        batch: Face crops computed together.
        batch_wait_s: Seconds that a thread waits for more of them while others are uploaded.

    Raises:
        ValueError: A limit is not positive, or two contradict each other.
    """

    body_bytes: int = 64 * 2**20
    pixels: int = 50_000_000
    pixels_at_once: int = 100_000_000
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
        if self.pixels_at_once < self.pixels:
            raise ValueError(
                f"{self.pixels_at_once:,} pixels at once are fewer than the {self.pixels:,} of one "
                "image: allow more, or smaller images."
            )
        if self.memory_bytes < self.body_bytes:
            raise ValueError(
                f"{self.memory_bytes:,} bytes for all bodies are fewer than the {self.body_bytes:,} "
                "of one: allow more, or smaller bodies."
            )
