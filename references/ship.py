"""``python -m references.ship``: puts a trained model into the package, its weights in half precision.

Both files are computed in single precision; weights of 16 bits move a point by some thousandths of a pixel.
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import facial_keypoints
from facial_keypoints.files import atomic_path
from facial_keypoints.models.keras_backend import choose_backend
from references import run_command

_WEIGHTS = Path(facial_keypoints.__file__).parent / "models" / "weights"
_SMALLEST = 1024  # numbers; fewer stay as they are


def halve_keras(source: Path, target: Path) -> None:
    """Copy a ``.keras`` file with kernels in float16; Keras casts them when it opens the file."""
    import h5py

    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith(".h5"):
                written = io.BytesIO()
                with h5py.File(io.BytesIO(content)) as tree, h5py.File(written, "w") as small:

                    def copy(
                        place: str, item: h5py.Group | h5py.Dataset, small: h5py.File = small
                    ) -> None:
                        if isinstance(item, h5py.Group):
                            made = small.require_group(place)
                        else:
                            values = item[()]
                            if values.dtype == np.float32 and values.size >= _SMALLEST:
                                values = values.astype(np.float16)
                            made = small.create_dataset(place, data=values)
                        made.attrs.update(item.attrs)

                    tree.visititems(copy)
                    small.attrs.update(tree.attrs)
                content = written.getvalue()
            new.writestr(name, content)


def ship(source: Path, folder: Path, name: str) -> None:
    """Write ``NAME.keras`` and ``NAME.onnx`` in half precision."""
    import onnx

    from facial_keypoints.models.export import export_onnx, halve_weights

    with tempfile.TemporaryDirectory() as place:
        half = Path(place) / "half.keras"
        halve_keras(source, half)
        export_onnx(half, Path(place) / "half.onnx")
        model = onnx.load(str(Path(place) / "half.onnx"))
        halve_weights(model.graph)
        with atomic_path(folder / f"{name}.onnx") as temporary:
            onnx.save(model, str(temporary))
        with atomic_path(folder / f"{name}.keras") as temporary:
            shutil.copyfile(half, temporary)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the two files."""
    parser = argparse.ArgumentParser(
        prog="python -m references.ship",
        description="Put a trained model into the package, its weights in half precision.",
        epilog="Example: python -m references.ship runs/ibug68/model.keras ibug68",
    )
    parser.add_argument("model", type=Path, help="the .keras file")
    parser.add_argument("name", help="what --model will call it")
    parser.add_argument(
        "--folder", type=Path, default=_WEIGHTS, help="where to (default: the package)"
    )
    options = parser.parse_args(arguments)
    choose_backend()
    ship(options.model, options.folder, options.name)
    for path in sorted(options.folder.glob(f"{options.name}.*")):
        print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    run_command(main)
