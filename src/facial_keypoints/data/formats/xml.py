"""Reading XML that others wrote."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from facial_keypoints.errors import DataError
from facial_keypoints.io.tables import read_text

__all__ = ["read_xml"]


def read_xml(path: Path) -> ElementTree.Element:
    """The root of an XML file.

    A file that defines entities is refused: a few lines of them can expand to gigabytes.

    Raises:
        DataError: It cannot be read, is no XML, or defines entities.
    """
    try:
        text = read_text(path)
        if re.search("<!ENTITY", text):
            raise DataError(
                f"{path} defines XML entities, which no labelling tool writes: remove them."
            )
        return ElementTree.fromstring(text)
    except (OSError, UnicodeError, ElementTree.ParseError) as error:
        raise DataError(f"{path} cannot be read as XML ({error}).") from error
