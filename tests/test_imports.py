"""The folder listing is the architecture: imports go one way, and light things stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import facial_keypoints

ROOT = Path(facial_keypoints.__file__).parent

# A module imports only from its own layer and those right of it; modules of the root come last.
LAYERS = ["cli", "service", "batch", "training", "evaluation", "inference", "models", "data", "io"]
KERAS_LAYERS = {"models", "training"}
HEAVY = {
    "keras",
    "tensorflow",
    "torch",
    "jax",
    "matplotlib",
    "jinja2",
    "cv2",
    "pyarrow",
    "onnxruntime",
}


def layer_of(parts: tuple[str, ...]) -> int:
    """Position in LAYERS; modules of the root stand right of all folders."""
    return LAYERS.index(parts[0]) if parts and parts[0] in LAYERS else len(LAYERS)


def sources() -> list[Path]:
    entry_points = {ROOT / "__init__.py", ROOT / "__main__.py"}
    return [path for path in sorted(ROOT.rglob("*.py")) if path not in entry_points]


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def climbing(path: Path, names: set[str]) -> set[str]:
    own = layer_of(path.relative_to(ROOT).with_suffix("").parts)
    ours = {name for name in names if name.startswith("facial_keypoints.")}
    return {name for name in ours if layer_of(tuple(name.split(".")[1:])) < own}


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_import_climbs(path: Path) -> None:
    assert climbing(path, imported(path)) == set()


def test_a_climbing_import_would_be_seen() -> None:
    assert climbing(ROOT / "types.py", {"facial_keypoints.io.images"})
    assert climbing(ROOT / "io" / "images.py", {"facial_keypoints.cli.app"})
    assert not climbing(ROOT / "cli" / "predict.py", {"facial_keypoints.types"})


def test_modules_import_each_other_in_no_circle() -> None:
    names = {
        ".".join(("facial_keypoints", *path.relative_to(ROOT).with_suffix("").parts)): path
        for path in sources()
    }
    names = {name.removesuffix(".__init__"): path for name, path in names.items()}
    left = {}
    for name, path in names.items():
        # An imported name is a module, or stands in the module before its last dot.
        used = {n if n in names else n.rpartition(".")[0] for n in imported(path)}
        left[name] = {n for n in used if not f"{name}.".startswith(f"{n}.")}  # its own packages
    while free := [name for name, others in left.items() if not others & set(left)]:
        for name in free:
            del left[name]
    assert left == {}


def test_the_root_holds_ten_modules_and_nine_folders() -> None:
    entries = {path.name for path in ROOT.iterdir() if path.name != "__pycache__"}
    assert len(entries) <= 20
    assert set(LAYERS) <= entries


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_keras_is_imported_only_in_models_and_training(path: Path) -> None:
    names = {name.split(".")[0] for name in imported(path)}
    if path.relative_to(ROOT).parts[0] not in KERAS_LAYERS:
        assert not names & {"keras", "tensorflow", "torch", "jax"}


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_what_is_installed_imports_nothing_of_the_clone(path: Path) -> None:
    names = {name.split(".")[0] for name in imported(path)}
    assert not names & {"references", "benchmarks", "tests"}


CODECS = {
    "imread",
    "imdecode",
    "imwrite",
    "imencode",
    "imreadmulti",
    "imdecodemulti",
    "imwritemulti",
}


def codecs(code: str) -> set[str]:
    """Decoders and encoders of images that the code names; Pillow as a whole is one."""
    nodes = list(ast.walk(ast.parse(code)))
    named = {n.attr for n in nodes if isinstance(n, ast.Attribute)}
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            named |= {alias.name for alias in node.names} | {(node.module or "").split(".")[0]}
        elif isinstance(node, ast.Import):
            named |= {alias.name.split(".")[0] for alias in node.names}
    return named & {*CODECS, "PIL"}


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_images_are_decoded_and_encoded_in_one_place(path: Path) -> None:
    found = codecs(path.read_text())
    assert bool(found) == (path == ROOT / "io" / "images.py")


@pytest.mark.parametrize(
    "code",
    [
        "cv2.imread('a.png')",
        "from cv2 import imencode",
        "from PIL import Image",
        "import PIL.Image",
    ],
)
def test_a_second_decoder_or_encoder_would_be_seen(code: str) -> None:
    assert codecs(code)


def test_importing_the_package_starts_no_heavy_library() -> None:
    code = (
        "import sys, facial_keypoints, facial_keypoints.cli\n"
        f"print(sorted({HEAVY} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
