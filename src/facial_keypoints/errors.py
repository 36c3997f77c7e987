"""The errors of this package.

Class tree::

    FacialKeypointsError          anything a user can cause and correct; the command line prints it as
    |                             one sentence and exits 1
    +-- DataError                 a file, folder or array with wrong content
    |   +-- ImageError            one image that cannot be used; other images still can
    +-- ModelError                a model file that is damaged, of another package or unfit for the data
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
    """Base of all errors that a user can cause and correct."""


class DataError(FacialKeypointsError):
    """A file, folder or array has wrong content; the message says where, and what to do."""


class ImageError(DataError):
    """A file is damaged, too large, or not an image; the message names it."""


class ModelError(FacialKeypointsError):
    """A model file is damaged, of another package, or does not fit the data it is used on."""


class OutputError(FacialKeypointsError):
    """An output exists already or cannot be written."""


class MissingExtraError(FacialKeypointsError):
    """An optional dependency is needed and not installed.

    Args:
        package: The import name that was not found.
        extra: The extra of this distribution that installs it.
        purpose: What needs it, as a noun phrase.
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package '{package}', which is not installed: "
            f"run pip install 'facial-keypoints[{extra}]'."
        )
