"""Any supported data set in, any out; each format's reader does the work.

Kaggle's files are the only format so far; :func:`load_dataset` is the place where others join.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from facial_keypoints.data.kaggle import load_kaggle, write_table
from facial_keypoints.types import FaceDataset

__all__ = ["load_dataset", "save_dataset"]


def load_dataset(path: str | os.PathLike[str], *, group_by: str | None = None) -> FaceDataset:
    """Read labelled faces.

    Args:
        path: Kaggle's folder, zip or csv file.
        group_by: Column that says which rows belong together.

    Raises:
        DataError: The path holds no readable data set.
    """
    return load_kaggle(path, group_by=group_by)


def save_dataset(
    dataset: FaceDataset, path: str | os.PathLike[str], format: Literal["kaggle"] = "kaggle"
) -> None:
    """Write labelled faces: for ``kaggle`` the file ``training.csv`` in the folder ``path``.

    Raises:
        ValueError: The format is unknown or cannot hold the faces.
        OutputError: The files cannot be written.
    """
    if format != "kaggle":
        raise ValueError(f"format must be 'kaggle', received '{format}'.")
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / "training.csv", dataset)
