"""What an image shows, drawn by lot from a seed: a person, what is worn, light, camera and background."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from .head import Head
from .people import LIDS, Person, draw_person
from .render import EYE, HAIR, SKIN, Mesh, Scene, vertex_normals
from .worn import Wardrobe, glasses, hand, held, plain, plain_thing

LIGHTS = 18
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
IRISES = ((0.293, 0.297), (0.705, 0.703))  # their middles in the textures of the eyes
SHORT = {"short01": 0.3, "short02": 0.35, "short03": 0.1, "short04": 0.25}
LONG = {"bob02": 0.15, "braid01": 0.28, "long01": 0.28, "ponytail01": 0.29}
HATS = {"none": 0.8, "beanie": 0.07, "cap": 0.06, "scarf": 0.05, "fedora": 0.02}
BEARDS = {"full": 0.6, "goatee": 0.15, "moustache": 0.15, "chin": 0.1}
GLASSES = {"clear": 0.62, "tinted": 0.13, "dark": 0.25}
OCCLUDERS = {"none": 0.78, "hand": 0.09, "mask": 0.05, "thing": 0.08}


@dataclass
class Shot:
    """A scene with what is known about it: points (70, 3) in the world, irises last, and the parameters.

    ``tolerance`` (70,) is how far behind what is drawn a point may lie and still be seen.
    """

    scene: Scene
    points: np.ndarray
    tolerance: np.ndarray
    near_far: tuple[float, float]
    parameters: dict[str, Any] = field(default_factory=dict)


def pick(chances: dict[str, float], rng: np.random.Generator) -> str:
    """One of the keys."""
    return str(rng.choice(list(chances), p=list(chances.values())))


def colour(rng: np.random.Generator, low: float = 0.0, high: float = 0.8) -> np.ndarray:
    """A linear colour (3,), rather grey."""
    return np.clip(rng.uniform(low, high) * (1 + rng.normal(0, 0.35, 3)), 0, 1)


def lights(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """Directions (L, 3) and colours (L, 3) of a wide sky, a main light and a second one, and ambient light."""
    kind = str(
        rng.choice(
            ["soft", "hard", "side", "top", "back", "below", "two"],
            p=[0.34, 0.18, 0.16, 0.1, 0.08, 0.04, 0.1],
        )
    )

    def toward(azimuth: float, height: float) -> np.ndarray:
        a, h = np.radians([azimuth, height])
        return np.array([np.sin(a) * np.cos(h), np.sin(h), np.cos(a) * np.cos(h)])

    def warmth(spread: float) -> np.ndarray:
        t = rng.normal(0.0, spread)
        return np.asarray(np.exp(np.array([t, 0.0, -t])))

    side = rng.choice([-1.0, 1.0])
    azimuth, height, spread, ratio = {
        "soft": (rng.normal(0, 40), rng.uniform(10, 60), 0.35, rng.uniform(0.3, 1.5)),
        "hard": (rng.normal(0, 45), rng.uniform(5, 65), 0.04, rng.uniform(1.5, 5.0)),
        "side": (
            side * rng.uniform(50, 100),
            rng.uniform(-5, 40),
            rng.uniform(0.05, 0.3),
            rng.uniform(1.0, 4.0),
        ),
        "top": (
            rng.normal(0, 40),
            rng.uniform(60, 85),
            rng.uniform(0.05, 0.3),
            rng.uniform(1.0, 3.0),
        ),
        "back": (side * rng.uniform(110, 170), rng.uniform(10, 60), 0.2, rng.uniform(1.0, 3.0)),
        "below": (rng.normal(0, 30), rng.uniform(-60, -15), 0.15, rng.uniform(0.7, 2.5)),
        "two": (side * rng.uniform(30, 80), rng.uniform(0, 50), 0.15, rng.uniform(1.0, 3.0)),
    }[kind]
    main = toward(azimuth, height) + rng.normal(0.0, spread, (8, 3))
    second = toward(-side * rng.uniform(30, 150), rng.uniform(-10, 50)) + rng.normal(
        0.0, 0.15, (2, 3)
    )
    steps = np.arange(8)
    z = 1.0 - 1.7 * (steps + rng.random(8)) / 8.0
    turn = 2.399963 * steps + rng.uniform(0.0, 7.0)
    sky = np.stack(
        [np.sqrt(1 - z * z) * np.cos(turn), z, np.sqrt(1 - z * z) * np.sin(turn)], axis=1
    )
    sky_colour = (0.35 + 0.65 * (sky[:, 1:2] + 0.7) / 1.7) * warmth(0.08) / 8.0
    main_colour = np.tile(ratio * warmth(0.12) / 8.0, (8, 1))
    second_ratio = ratio * (rng.uniform(0.4, 1.0) if kind == "two" else rng.uniform(0.0, 0.3))
    second_colour = np.tile(second_ratio * warmth(0.2) / 2.0, (2, 1))
    directions = np.concatenate([main, sky, second])
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    colours = np.concatenate([main_colour, sky_colour, second_colour])
    return directions, colours, np.full(3, rng.uniform(0.02, 0.12)), kind


def background(size: int, rng: np.random.Generator) -> np.ndarray:
    """A linear RGB image (S, S, 3) without faces: a gradient with blurred shapes, lines and noise."""
    small = 96
    corners = (
        rng.uniform(0.0, 0.9, (2, 2, 3))
        if rng.random() < 0.7
        else np.tile(rng.uniform(0, 1, 3), (2, 2, 1))
    )
    grey = rng.uniform(0.5, 1.0)
    corners = corners * (1 - grey) + corners.mean(2, keepdims=True) * grey
    image = cv2.resize(corners.astype(np.float32), (small, small), interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.75:
        for _ in range(rng.integers(1, 25)):
            colour = (rng.uniform(0, 1) * (1 + rng.normal(0, 0.08, 3))).clip(0, 1)
            at, other = rng.integers(-20, small + 20, (2, 2))
            form = rng.integers(4)
            if form == 0:
                cv2.circle(image, at.tolist(), int(rng.integers(2, 40)), colour.tolist(), -1)
            elif form == 1:
                cv2.rectangle(image, at.tolist(), other.tolist(), colour.tolist(), -1)
            elif form == 2:
                cv2.line(
                    image, at.tolist(), other.tolist(), colour.tolist(), int(rng.integers(1, 8))
                )
            else:
                cv2.fillConvexPoly(
                    image, rng.integers(-20, small + 20, (3, 2)).astype(np.int32), colour.tolist()
                )
        image = cv2.GaussianBlur(image, (0, 0), rng.choice([0.6, 1.5, 4.0, 9.0]))
    if rng.random() < 0.5:
        cells = int(rng.choice([6, 16, 48, 96]))
        grain = rng.normal(0.0, rng.uniform(0.02, 0.12), (cells, cells, 1)).astype(np.float32)
        image = image * (
            1 + cv2.resize(grain, (small, small), interpolation=cv2.INTER_CUBIC)[..., None]
        )
    image = cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(image, 0.0, 1.0) ** 2.2)


class People:
    """Draws images by lot; ``make(seed, index)`` is the same on every machine."""

    def __init__(
        self, arrays: dict[str, np.ndarray], textures: dict[str, np.ndarray], size: int
    ) -> None:
        self.arrays, self.textures, self.size = arrays, textures, size
        self.head = Head(arrays)
        self.wardrobe = Wardrobe(self.head)
        self.skins = [
            name for name in textures if name.split("_")[0] in ("young", "middleage", "old")
        ]
        self.eyes = [name for name in textures if name.startswith("materials/")]
        uv = arrays["eyes/uv"]
        from_iris = np.array([((uv - at) ** 2).sum(1) for at in IRISES])
        self.irises = [np.argsort(distance)[:12] for distance in from_iris]
        self.iris = from_iris.min(0) < 0.118**2
        cheek = abs(self.head.average[self.head.skin] - [0.35, 6.95, 1.3]).sum(1).argsort()[:20]
        self.skin_colour = {}
        for name in self.skins:
            image = textures[name]
            column, row = (abs(arrays["skin/uv"][cheek] - [0, 1]) * (len(image) - 1)).astype(int).T
            self.skin_colour[name] = ((image[row, column, :3] / 255.0) ** 2.2).mean(0)

    def make(self, seed: int, index: int) -> Shot:
        """What is to be drawn for that number."""
        rng = np.random.default_rng([seed, index])
        person = draw_person(self.head, rng)
        parameters: dict[str, Any] = {
            "seed": seed, "index": index, "age": person.age, "male": person.male, "african": person.race[0],
            "asian": person.race[1], "caucasian": person.race[2], "expression": person.expression,
            "closed_right": person.closed[0], "closed_left": person.closed[1], "gaze_yaw": person.gaze[0],
            "gaze_pitch": person.gaze[1], "yaw": person.angles[0], "pitch": person.angles[1], "roll": person.angles[2],
        }  # fmt: skip
        meshes = self.skin_and_eyes(person, parameters, rng)
        hair = hair_colour(person, rng)
        meshes += self.brows_and_lashes(person, hair, parameters, rng)
        meshes += self.hair_and_hat(person, hair, parameters, rng)
        meshes += self.beard(person, hair, parameters, rng)
        meshes += self.things(person, meshes[0], parameters, rng)
        shot = self.photograph(person, meshes, parameters, rng)
        shot.tolerance[:] = 0.06
        shot.tolerance[:17], shot.tolerance[17:27], shot.tolerance[68:] = 0.15, 0.12, 0.02
        return shot

    def mesh(self, name: str, points: np.ndarray, texture: str = "white", **look: Any) -> Mesh:
        """A mesh of the assets with those points."""
        return Mesh(
            points, self.arrays[f"{name}/triangles"], self.arrays[f"{name}/uv"], texture, **look
        )

    def worn(self, name: str, person: Person, texture: str = "white", **look: Any) -> Mesh:
        """A mesh of the assets on a person."""
        return self.mesh(name, person.pose(self.head.worn(name, person.vertices)), texture, **look)

    def layer(
        self, person: Person, where: np.ndarray, height: float, smooth: int, **look: Any
    ) -> Mesh:
        """Cloth over the skin with ``where`` (V,) over 0.5."""
        points, triangles, used = self.wardrobe.cover(
            person.vertices, person.normals, where, height, smooth
        )
        paint = np.ones((len(used), 4))
        paint[:, 3] = where[used]
        return plain(person.pose(points), triangles, paint=paint, gloss=8.0, shine=0.3, **look)

    def fur(self, person: Person, where: np.ndarray, **look: Any) -> Mesh:
        """Hair of layers over the skin, as long as ``where`` (V,) says."""
        paint = np.ones((len(self.head.skin), 4))
        paint[:, 3] = where[self.head.skin]
        points, normals = self.posed(person)
        return self.mesh(
            "skin", points, kind=HAIR, paint=paint, normals=normals, casts=False, **look
        )

    def posed(self, person: Person) -> tuple[np.ndarray, np.ndarray]:
        """Points and normals of the skin's mesh in the world."""
        points = person.pose(person.vertices)
        return points[self.head.skin], vertex_normals(points, self.head.triangles)[self.head.skin]

    def skin_and_eyes(
        self, person: Person, parameters: dict[str, Any], rng: np.random.Generator
    ) -> list[Mesh]:
        """Skin first, eyes, tongue and teeth."""
        dark = person.race[0] + 0.1 * person.race[1] * rng.random() > rng.uniform(0.3, 0.7)
        likely = [name for name in self.skins if ("african" in name) == dark]
        name = likely[rng.integers(len(likely))]
        melanin = rng.normal(0.0, 0.25)
        if not dark:
            melanin = abs(rng.normal(0.0, 0.35)) * (2.0 - person.race[2]) / 1.5
        tint = np.exp(-melanin * np.array([0.86, 1.0, 1.1]) + rng.normal(0, 0.04, 3)).clip(
            0.15, 1.5
        )
        tint = tint * ([0.9, 1.04, 1.08] if dark else [1.0, 1.0, 1.0])
        luminance = float(self.skin_colour[name] * tint @ LUMINANCE)
        parameters["skin"] = name.split("/")[0]
        parameters["skin_lightness"] = 116.0 * luminance ** (1 / 3) - 16.0
        points, normals = self.posed(person)
        wrinkles = float(np.interp(person.age, [0.45, 1.0], [0.0, 1.3])) * rng.uniform(0.5, 1.0)
        skin = self.mesh(
            "skin", points, name, kind=SKIN, normals=normals, tint=tint, gloss=rng.uniform(8, 40),
            shine=float(np.exp(rng.normal(-0.6, 0.7))), bumps=0.02, wrinkles=wrinkles,
        )  # fmt: skip
        paint = np.ones((len(self.iris), 4))
        brown = rng.random() < 0.25 + 0.75 * (1 - person.race[2])
        paint[self.iris, :3] = (
            rng.uniform(0.12, 0.8) * np.array([1.0, 0.62, 0.4]) if brown else rng.uniform(0.5, 1.2)
        )
        eyes = self.mesh(
            "eyes", person.pose(person.eyes), self.eyes[rng.integers(len(self.eyes))], kind=EYE, blend=True,
            casts=False, gloss=250.0, shine=1.5, paint=paint, tint=(0.85, 0.83, 0.8),
        )  # fmt: skip
        made = [
            skin,
            eyes,
            self.worn(
                "tongue", person, "tongue01/tongue01_diffuse", casts=False, tint=(0.7, 0.5, 0.5)
            ),
        ]
        teeth = f"teeth{rng.integers(1, 6)}"
        if not person.infant:
            made.append(
                self.worn(teeth, person, "teeth_shape01/teeth", blend=True, casts=False, gloss=60.0)
            )
        return made

    def brows_and_lashes(
        self, person: Person, hair: np.ndarray, parameters: dict[str, Any], rng: np.random.Generator
    ) -> list[Mesh]:
        """Both as thin sheets of hair."""
        style, lashes = int(rng.integers(1, 13)), int(rng.integers(1, 5))
        parameters["brows"] = style
        brows = self.worn(
            f"brows{style}", person, f"eyebrow{style:03}/eyebrow{style:03}", kind=HAIR, blend=True, casts=False,
            tint=(hair * rng.uniform(0.4, 1.0)).clip(0, 0.25), shine=0.2,
            opacity=rng.uniform(0.6, 1.8) * (0.6 if person.infant else 1.0),
        )  # fmt: skip
        return [brows, self.worn(
            f"lashes{lashes}", person, f"eyelashes0{lashes}/eyelashes0{lashes}", kind=HAIR, blend=True, casts=False,
            tint=(0.5 * hair).clip(0, 0.03), shine=0.1, opacity=rng.uniform(0.3, 1.0) * (0.55 if person.male > 0.5 else 1.0),
        )]  # fmt: skip

    def hair_and_hat(
        self, person: Person, hair: np.ndarray, parameters: dict[str, Any], rng: np.random.Generator
    ) -> list[Mesh]:
        """Bald, short hair of layers, or one of the hair meshes; under a hat perhaps."""
        hat, chance, unit, wardrobe = pick(HATS, rng), rng.random(), person.pose.unit, self.wardrobe
        if person.infant:
            style = "bald" if chance < 0.3 else "fur"
        elif person.male > 0.5:
            bald = 0.1 if person.age < 0.6 else 0.25
            style = "bald" if chance < bald else "fur" if chance < 0.45 else pick(SHORT, rng)
        else:
            style = "fur" if chance < 0.06 else pick(LONG if chance < 0.8 else SHORT, rng)
        if hat == "scarf":
            style = "bald"
        elif hat != "none" and style not in ("bald", "fur") and rng.random() < 0.6:
            style = "fur"
        parameters["hair"], parameters["hat"] = style, hat
        parameters["hair_luminance"] = float(hair @ LUMINANCE)
        length, made = 0.0, []
        if style == "fur":
            curly = person.race[0] > 0.4 and hat == "none"
            length = unit * float(np.exp(rng.uniform(np.log(0.025), np.log(0.4 if curly else 0.1))))
            made.append(self.fur(person, wardrobe.scalp, tint=hair, shells=10, length=length, density=rng.uniform(1.0, 2.2), shine=0.15))  # fmt: skip
        elif style != "bald":
            name = f"hair_{style}"
            strands = self.head.worn(name, person.vertices)
            if hat in wardrobe.hats:
                strands = wardrobe.press(
                    strands, person.vertices, person.normals, wardrobe.hats[hat]
                )
            made.append(
                self.fur(
                    person, wardrobe.scalp, tint=hair, shells=2, length=0.02, density=3.0, shine=0.1
                )
            )
            made.append(self.mesh(
                name, person.pose(strands), f"{style}/{style}_diffuse", kind=HAIR, blend=True, tint=hair,
                gloss=rng.uniform(20, 120), shine=rng.uniform(0.1, 0.6),
            ))  # fmt: skip
        if hat == "fedora":
            felt = self.worn("fedora", person, tint=colour(rng, 0, 0.4), gloss=8.0, shine=0.3)
            made.append(felt)
        elif hat in wardrobe.hats:
            cloth, where = colour(rng), wardrobe.hats[hat]
            height = length + unit * rng.uniform(0.06, 0.16)
            made.append(self.layer(person, where, height, 2, tint=cloth))
            if hat == "cap":
                points, _, used = wardrobe.cover(person.vertices, person.normals, where, height, 2)
                peak, triangles = wardrobe.peak(points[where[used] > 0.5], unit, rng)
                made.append(plain(person.pose(peak), triangles, tint=cloth, gloss=8.0, shine=0.3))
        return made

    def beard(
        self, person: Person, hair: np.ndarray, parameters: dict[str, Any], rng: np.random.Generator
    ) -> list[Mesh]:
        """A beard of layers, from stubble to 2 cm."""
        parameters["beard"], parameters["beard_length"] = "none", 0.0
        if person.male < 0.5 or not person.adult or rng.random() < 0.5:
            return []
        style = pick(BEARDS, rng)
        length = float(np.exp(rng.uniform(np.log(0.008), np.log(0.13))))
        parameters["beard"], parameters["beard_length"] = style, length
        return [self.fur(
            person, self.wardrobe.beards[style], tint=hair * 0.8, shells=8, length=length * person.pose.unit,
            density=rng.uniform(0.7, 2.0), shine=0.1,
        )]  # fmt: skip

    def things(
        self, person: Person, skin: Mesh, parameters: dict[str, Any], rng: np.random.Generator
    ) -> list[Mesh]:
        """Clothes, glasses, and something before the face."""
        vertices, fixed, pose, made = person.vertices, self.head.fixed, person.pose, []
        unit = pose.unit
        if rng.random() < 0.9:
            height = unit * rng.uniform(0.03, 0.1)
            made.append(
                self.layer(person, self.wardrobe.cloth, height, 2, casts=False, tint=colour(rng))
            )
        kind = pick(GLASSES, rng) if rng.random() < (0.24 if person.adult else 0.08) else "none"
        if kind != "none":
            x, _, z = vertices[self.head.ear]
            ear = np.array([abs(x), person.centres[:, 1].mean(), z])
            front = float(person.eyes[:, 2].max())
            for mesh in glasses(person.centres, front, ear, unit, kind, rng):
                mesh.points = pose(mesh.points)
                made.append(mesh)
        occluder = pick(OCCLUDERS, rng)
        parameters["glasses"], parameters["occluder"] = kind, occluder
        if occluder == "mask":
            points, triangles = self.wardrobe.mask(vertices, unit, rng)
            made.append(
                plain(pose(points), triangles, tint=colour(rng, 0.05, 0.9), gloss=8.0, shine=0.2)
            )
        elif occluder != "none":
            target = vertices[
                fixed[int(rng.choice([30, 33, 36, 39, 42, 45, 48, 51, 54, 57, 66]))]
            ].mean(0)
            front = float(vertices[fixed[30]][0, 2]) - (0.25 * unit if rng.random() < 0.3 else 0.0)
            if occluder == "hand":
                shape = hand(self.arrays["hand/points"], self.arrays["hand/triangles"], unit, rng)
                points, triangles = held(shape, pose, target, front, rng)
                made.append(
                    Mesh(
                        points,
                        triangles,
                        self.arrays["hand/uv"],
                        skin.texture,
                        SKIN,
                        skin.tint,
                        shine=skin.shine,
                    )
                )
            else:
                made.append(
                    plain(
                        *held(plain_thing(unit, rng), pose, target, front, rng),
                        tint=colour(rng, 0, 0.9),
                        gloss=40.0,
                    )
                )
        return made

    def photograph(
        self,
        person: Person,
        meshes: list[Mesh],
        parameters: dict[str, Any],
        rng: np.random.Generator,
    ) -> Shot:
        """Light, camera and background; the points as this camera sees them."""
        head, pose = self.head, person.pose
        posed, chin = pose(person.vertices), person.vertices[head.chin]
        points = np.zeros((70, 3))
        for point, where in head.fixed.items():
            points[point] = posed[where].mean(0)
        for upper, lower in LIDS:  # of a closed eye only the edge of the upper lid is seen
            step = (person.vertices[head.fixed[upper]] - person.vertices[head.fixed[lower]]).mean(0)
            if step[1] < 0.0:
                points[lower] += pose.matrix @ [0.0, step[1], step[2]]
        style = parameters["brows"]
        opacity = self.textures[f"eyebrow{style:03}/eyebrow{style:03}"][..., 3]
        corners, shares = head.brow_points(style, opacity)
        points[17:27] = pose(
            (head.worn(f"brows{style}", person.vertices)[corners] * shares[..., None]).sum(1)
        )
        eyes = pose(person.eyes)
        points[68:] = sorted(
            (eyes[own].mean(0) for own in self.irises),
            key=lambda iris: float(iris @ pose.matrix[:, 0]),
        )

        between = float(np.linalg.norm(person.centres[1] - person.centres[0]))
        side = between * rng.uniform(3.5, 4.9)
        distance = float(np.exp(rng.uniform(np.log(4.5), np.log(30.0))))
        aim = points[[36, 39, 42, 45, 30, 48, 54, 33]].mean(0) * 0.75 + pose(chin[None])[0] * 0.25
        aim[:2] += rng.normal(0, 0.05, 2) * side
        near, far = max(distance - 3.2, 0.6), distance + 5.0
        camera, view = np.zeros((4, 4)), np.eye(4)
        camera[0, 0] = camera[1, 1] = 2.0 * distance / side
        camera[2, 2:] = -(far + near) / (far - near), -2 * far * near / (far - near)
        camera[3, 2] = -1.0
        view[:3, 3] = -aim[0], -aim[1], -aim[2] - distance
        camera = camera @ view
        points[:17] = head.jaw_points(posed, camera, pose.matrix)

        toward, strength, ambient, light = lights(rng)
        parameters |= {
            "distance": distance, "side": side / between, "light": light,
            "brightness": float(np.clip(rng.normal(0.52, 0.11), 0.2, 0.85)), "noise": float(abs(rng.normal(0, 0.006))),
        }  # fmt: skip
        scene = Scene(
            meshes, camera, -view[:3, 3], toward, strength, ambient, background(self.size, rng) * rng.uniform(0.3, 1.6),
            centre=pose(person.centres.mean(0)[None])[0] - np.array([0.0, 0.3, 0.5]) * pose.unit, radius=2.5 * pose.unit,
        )  # fmt: skip
        return Shot(scene, points, np.zeros(70), (near, far), parameters)


def hair_colour(person: Person, rng: np.random.Generator) -> np.ndarray:
    """A linear colour (3,): black to brown, blond or grey."""
    grey = float(np.clip((person.age - 0.6) / 0.3, 0, 1)) * rng.random()
    blond = rng.random() ** 2 * person.race[2] ** 2
    dark = np.array([0.02, 0.014, 0.01]) + np.exp(rng.normal(-3.6, 0.7)) * np.array(
        [1.0, 0.6, 0.35]
    )
    young = dark * (1 - blond) + blond * np.array([0.45, 0.3, 0.14])
    return np.asarray(young * (1 - grey) + grey * 0.5)
