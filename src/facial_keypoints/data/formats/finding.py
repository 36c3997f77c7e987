"""Finding the images of labels: beside them, in other folders, under other names."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

from facial_keypoints.errors import ImageError
from facial_keypoints.io.images import IMAGE_SUFFIXES, read_size

__all__ = ["ImageFinder", "tidy_names"]

# Label Studio puts eight digits before the name of an uploaded file.
_HASHED = re.compile(r"[0-9a-f]{8}-(.+)")
_FOR_IMAGES = re.compile("images?$|imgs?$|photos?$|pictures?$|frames?$|jpe?g", re.I)
_MOST_FILES = 500_000  # of a folder that is searched


class ImageFinder:
    """Finds the images that a file of labels names.

    An image is looked for under its name beside the labels, in the folders above and beside them, and, at last,
    everywhere below the labels' folder by as much of its path as is there.

    Args:
        folder: That of the labels.
        images: Where else the images are; looked into first.
        within: A folder; files outside are not looked at, whatever the labels name.
    """

    def __init__(
        self, folder: Path, images: Path | None = None, within: Path | None = None
    ) -> None:
        self.folder = folder
        self._within = None if within is None else within.resolve()
        self._places = [images] if images is not None else []
        self._found: dict[str, Path | None] = {}

    def __call__(self, name: str) -> Path | None:
        """The file of an image, or ``None``."""
        if name not in self._found:
            self._found[name] = self._find(name)
        return self._found[name]

    def size(self, name: str) -> tuple[int, int] | None:
        """(width, height) of an image, upright; ``None`` if it is not found or cannot be read."""
        file = self(name)
        try:
            return None if file is None else read_size(file)[:2]
        except ImageError:
            return None

    def by_stem(self, stem: str) -> Path | None:
        """An image of any suffix, its name given without suffix."""
        for suffix in sorted(IMAGE_SUFFIXES):
            for spelt in (suffix, suffix.upper()):
                if (found := self._beside(Path(stem + spelt))) is not None:
                    return found
        return None

    def _find(self, name: str) -> Path | None:
        for text in _spellings(name):
            path = Path(text)
            # An absolute path of another machine ends as the path does here.
            found = self._beside(path) or self._by_tail(text)
            if found is not None:
                return found
        return None if Path(name).suffix.lower() in IMAGE_SUFFIXES else self.by_stem(name)

    def _beside(self, path: Path) -> Path | None:
        """The file of a path that counts from a place that is near, or from one folder in such a place."""
        if path.is_absolute():
            return path if self._is_file(path) else None
        for place, inner in self._near:
            if self._is_file(found := place / path):
                return found
            deeper = [found for folder in inner if self._is_file(found := folder / path)]
            if len(deeper) == 1:
                return deeper[0]
        return path if self._is_file(path) else None

    def _is_file(self, path: Path) -> bool:
        if not path.is_file():
            return False
        return self._within is None or path.resolve().is_relative_to(self._within)

    @cached_property
    def _near(self) -> list[tuple[Path, list[Path]]]:
        """The labels' folder with the folders in it, then two above it with those that are named for images."""
        places = [(place, _folders(place)) for place in [*self._places, self.folder]]
        for above in self.folder.resolve().parents[:2]:
            named = [folder for folder in _folders(above) if _FOR_IMAGES.search(folder.name)]
            places.append((above, named))
        return places

    def _by_tail(self, text: str) -> Path | None:
        parts = PurePosixPath(text.lower()).parts
        best: list[Path] = []
        longest = 0
        for file in self._index.get(parts[-1] if parts else "", []):
            tail = [part.lower() for part in file.parts]
            same = 0
            while same < min(len(parts), len(tail)) and parts[-1 - same] == tail[-1 - same]:
                same += 1
            if same > longest:
                best, longest = [], same
            if same == longest:
                best.append(file)
        return best[0] if len(best) == 1 else None

    @cached_property
    def _index(self) -> dict[str, list[Path]]:
        """The images below the folders, by their names in lower case."""
        found: dict[str, list[Path]] = {}
        roots = self._places or [self.folder]
        if not self._places and self.folder.name.lower() in ("annotations", "labels"):
            roots.append(self.folder.parent)
        seen = set()
        for count, file in enumerate(file for root in roots for file in _below(root)):
            if count > _MOST_FILES:
                break
            if file.suffix.lower() in IMAGE_SUFFIXES and file not in seen:
                seen.add(file)
                found.setdefault(file.name.lower(), []).append(file)
        return found


def tidy_names(names: Iterable[str], find: ImageFinder) -> dict[str, str]:
    """A short relative name of each image for the names in the labels, which may be URLs or absolute paths."""
    home = find.folder.resolve()
    tidy: dict[str, str] = {}
    parts: dict[str, tuple[str, ...]] = {}
    for name in names:
        if not (re.search(r"^/|:|\\|\?d=", name) or ".." in name.split("/")):
            tidy[name] = PurePosixPath(name).as_posix()  # without "./" and "//"
            continue
        file = find(name)
        if file is not None and file.resolve().is_relative_to(home):
            tidy[name] = file.resolve().relative_to(home).as_posix()
            continue
        spelt = [PurePosixPath(text.replace("\\", "/")) for text in _spellings(name)]
        path = next((p for p in spelt if p.suffix.lower() in IMAGE_SUFFIXES), spelt[0])
        path = path if file is None else path.with_name(file.name)
        parts[name] = tuple(
            part for part in path.parts if not re.fullmatch(r"/|\.\.|[A-Za-z]:", part)
        )
    # As few folders as tell the images apart.
    for depth in range(1, max(map(len, parts.values()), default=0) + 1):
        short = {name: "/".join(path[-depth:]) for name, path in parts.items()}
        if len({*short.values(), *tidy.values()}) == len(short) + len(set(tidy.values())):
            return tidy | short
    return tidy | {name: "/".join(path) for name, path in parts.items()}


def _spellings(name: str) -> Iterator[str]:
    """The path that a name in a file of labels may stand for."""
    given = [name]
    parts = urlsplit(name) if "://" in name or "?d=" in name else None
    if parts is not None:
        inside = unquote(parts.path)
        given += [
            *parse_qs(parts.query).get("d", []),
            *[inside] * (parts.scheme == "file"),
            inside.lstrip("/"),
        ]
    if name.startswith("/data/upload/"):
        given.append(unquote(name))
    for text in list(given):
        if "\\" in text:
            given.append(text.replace("\\", "/"))
    if "%" in name and parts is None:
        given.append(unquote(name))
    ordered = given if parts is None else given[1:]
    # macOS writes an accent behind its letter, others write both as one.
    forms = [unicodedata.normalize(form, text) for text in ordered for form in ("NFC", "NFD")]
    for text in dict.fromkeys([*ordered, *forms]):
        yield text
        path = PurePosixPath(text)
        if match := _HASHED.fullmatch(path.name):
            yield str(path.with_name(match[1]))


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [Path(e.path) for e in entries if e.is_dir() and not e.name.startswith(".")]
    except OSError:
        return []


def _below(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            yield Path(place, name)
