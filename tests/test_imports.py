"""The folder listing is the architecture: imports go one way, and light things stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import facial_keypoints

ROOT = Path(facial_keypoints.__file__).parent

# Lowest first. A module imports only from lower layers or from its own.
LAYERS: list[set[str]] = [
    {"errors", "_version", "types"},
    {
        "schemas",
        "geometry",
        "framing",
        "metrics",
        "files",
        "spec",
        "pictures",
        "recipes",
        "backend",
        "drawing",
        "measurement",
        "alignment",
    },
    {"data", "models", "losses", "pipeline", "progress", "data_parallel"},
    {"evaluation", "training", "runtime", "ray_cluster", "second_look", "detection"},
    {
        "plots",
        "export",
        "predict",
        "tables",
        "measurement_table",
        "finetune",
    },
    {"pages"},
    {"report", "audit_report", "speed"},
    {"batch", "compare", "video", "smoothing", "tracking", "service"},
    {"training_plan", "training_cluster", "sweep"},
    {"cli"},
    {"__main__"},
]
LAYER = {name: level for level, names in enumerate(LAYERS) for name in names}
KERAS_ALLOWED = {
    "models",
    "losses",
    "pipeline",
    "data_parallel",
    "progress",
    "training",
    "export",
    "finetune",
    "training_plan",
    "sweep",
}


def module_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def sources() -> list[Path]:
    return [p for p in sorted(ROOT.rglob("*.py")) if p != ROOT / "__init__.py"]


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def upward(path: Path, names: set[str]) -> set[str]:
    mine = LAYER[module_of(path)]
    ours = {n.split(".")[1] for n in names if n.startswith("facial_keypoints.")}
    return {name for name in ours if name in LAYER and LAYER[name] > mine}


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_import_points_upward(path: Path) -> None:
    assert module_of(path) in LAYER, f"say in LAYERS where {module_of(path)} belongs"
    assert upward(path, imported(path)) == set()


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_what_is_installed_imports_nothing_of_the_clone(path: Path) -> None:
    assert not {n.split(".")[0] for n in imported(path)} & {"references", "benchmarks", "tests"}


def test_an_upward_import_would_be_seen() -> None:
    assert upward(ROOT / "types.py", {"facial_keypoints.cli"}) == {"cli"}


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_keras_is_imported_only_where_models_are_built_and_trained(path: Path) -> None:
    names = {n.split(".")[0] for n in imported(path)}
    in_the_graph = {"augment.py"}  # of data/: its views are made on the training device
    if module_of(path) not in KERAS_ALLOWED | {"runtime"} and path.name not in in_the_graph:
        assert not names & {"keras", "tensorflow", "torch", "jax"}


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
    assert found == ({"PIL"} if path.name == "pictures.py" else set())


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
        "heavy = {'keras', 'tensorflow', 'torch', 'jax', 'matplotlib', 'jinja2', 'cv2', 'pyarrow', 'onnxruntime'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
