"""Every error this package raises on purpose.

Family tree::

    FacialKeypointsError          anything a user can cause and mend; the command line prints it as
    |                             one sentence and exits 1
    +-- DataError                 a file, folder or array that is not what it should be
    |   +-- ImageError            one image that cannot be used; others beside it still can
    +-- ModelError                a model file that is corrupt, foreign or does not fit the data
    +-- OutputError               an output that exists already or cannot be written
    +-- MissingExtraError         an optional dependency is not installed

Wrong arguments to Python functions raise ``ValueError`` as Keras and numpy users expect.
"""

from __future__ import annotations

__all__ = [
    "DataError",
    "FacialKeypointsError",
    "ImageError",
    "MissingExtraError",
    "ModelError",
    "OutputError",
]


class FacialKeypointsError(Exception):
    """Base of all errors that a user can cause and mend."""


class DataError(FacialKeypointsError):
    """A file, folder or array is not what it should be; the message names where and the remedy."""


class ImageError(DataError):
    """An image is damaged, too large, or no image at all; the message names it."""


class ModelError(FacialKeypointsError):
    """A model file is corrupt, foreign, or does not fit the data it is used on."""


class OutputError(FacialKeypointsError):
    """An output exists already or cannot be written."""


class MissingExtraError(FacialKeypointsError):
    """An optional dependency is needed and not installed.

    Args:
        package: The import name that was not found.
        extra: The extra of this distribution that brings it.
        purpose: What it is needed for, as a noun phrase.
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package '{package}', which is not installed: "
            f"run pip install 'facial-keypoints[{extra}]'."
        )
