"""Draws triangle meshes with shadows from every light, in OpenGL without a window (Mesa's software driver will do)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

os.environ.setdefault("LP_NUM_THREADS", "1")  # one process per core does more than threads

SKIN, HAIR, EYE, PLAIN, LENS = range(5)

SHADOW_VERTEX = """
#version 330
uniform mat4 camera;
in vec3 position; in vec2 uv;
out vec2 at;
void main() { gl_Position = camera * vec4(position, 1.0); at = uv; }
"""
SHADOW_FRAGMENT = """
#version 400
uniform sampler2D image; uniform bool cut;
in vec2 at;
void main() { if (cut && texture(image, at).a < 0.5) discard; }
"""
VERTEX = """
#version 400
uniform mat4 camera; uniform float inflate;
in vec3 position; in vec3 normal; in vec2 uv; in vec4 paint;
out vec3 place; out vec3 facing; out vec2 at; out vec4 colour;
void main() {
    place = position + normal * inflate * paint.a;
    facing = normal; at = uv; colour = paint;
    gl_Position = camera * vec4(place, 1.0);
}
"""
FRAGMENT = """
#version 400
#define LIGHTS {lights}
uniform sampler2D image; uniform sampler2DArray shadows; uniform sampler2D noise; uniform sampler2D old; uniform float wrinkles; uniform bool casts;
uniform mat4 shadow_camera[LIGHTS]; uniform vec3 toward[LIGHTS]; uniform vec3 strength[LIGHTS];
uniform vec3 eye; uniform vec3 tint; uniform vec3 ambient;
uniform int kind; uniform int part; uniform float gloss; uniform float shine; uniform float bumps;
uniform float opacity; uniform float shell; uniform float density;
in vec3 place; in vec3 facing; in vec2 at; in vec4 colour;
out vec4 result;

float lit(int i, vec3 n) {{
    vec4 p = shadow_camera[i] * vec4(place + n * 0.025, 1.0);
    vec3 q = p.xyz * 0.5 + 0.5;
    vec2 texel = 1.0 / vec2(textureSize(shadows, 0).xy);
    vec2 f = fract(q.xy / texel - 0.5);
    vec4 near = step(q.z - 0.004, textureGather(shadows, vec3(q.xy, i)));
    return mix(mix(near.w, near.z, f.x), mix(near.x, near.y, f.x), f.y);
}}

void main() {{
    vec4 texel = texture(image, at);
    vec3 albedo = pow(texel.rgb, vec3(2.2)) * tint;
    float alpha = texel.a * opacity, detail = 0.0;
    if (kind == {hair} && casts) alpha = clamp(2.5 * alpha, 0.0, 1.0);  // no gaps between strands of hair
    if (kind == {skin} && wrinkles > 0.0) {{
        vec3 fine = texture(old, at).rgb, smooth_ = texture(old, at, 4.5).rgb;
        detail = clamp(dot(fine, vec3(0.333)) / max(dot(smooth_, vec3(0.333)), 0.02), 0.5, 1.4) - 1.0;
        albedo *= 1.0 + wrinkles * detail;
    }}
    albedo *= colour.rgb;
    if (shell > 0.0) {{
        float strand = 0.75 * texture(noise, at * 40.0).r + 0.45 * texture(noise, at * 8.0).r;
        alpha = smoothstep(shell * 0.9, shell * 0.9 + 0.25, strand * colour.a * density);
        float lock = 0.5 * texture(noise, at * 17.0).r + 0.5 * texture(noise, at * 6.0).r;
        albedo = tint * (0.4 + 0.7 * shell) * (0.1 + 1.9 * lock);
    }}
    if (part == 1) {{
        if (alpha < 0.5) discard;
        alpha = 1.0;
    }}
    bool cornea = kind == {eye} && alpha < 0.02;
    if (part == 2 && (alpha >= 0.5 || (alpha < 0.02 && !cornea))) discard;
    if (part == 3 && alpha < 0.03) discard;
    if (part == 0) {{
        if (colour.a < 0.5) discard;  // the edge of a layer
        alpha = 1.0;
    }}

    vec3 view = normalize(eye - place);
    vec3 n = normalize(facing);
    if (dot(n, view) < 0.0 && kind != {skin}) n = -n;
    if (bumps > 0.0) {{
        vec3 along = normalize(dFdx(place)), up = normalize(cross(n, along));
        float h = dot(texel.rgb, vec3(0.333)) + 0.5 * wrinkles * detail;
        vec2 slope = vec2(dFdx(h), dFdy(h)) / max(length(dFdx(place)), 1e-4);
        n = normalize(n - bumps * (slope.x * along + slope.y * up));
    }}
    vec3 across = vec3(0.0);
    if (kind == {hair}) {{
        vec3 dx = dFdx(place), dy = dFdy(place); vec2 ux = dFdx(at), uy = dFdy(at);
        across = normalize(dy * ux.x - dx * uy.x + 1e-6);
    }}
    vec3 light = ambient * albedo, spec = vec3(0.0);
    for (int i = 0; i < LIGHTS; i++) {{
        float c = dot(n, toward[i]);
        vec3 wrap = kind == {skin} ? vec3(0.35, 0.18, 0.12) : kind == {hair} ? vec3(0.5) : vec3(0.0);
        vec3 diffuse = max((c + wrap) / (1.0 + wrap), 0.0);
        if (diffuse.r <= 0.0) continue;
        float s = lit(i, n);
        if (s <= 0.0 && kind != {skin}) continue;
        vec3 seen = kind == {skin} ? pow(vec3(s), vec3(0.7, 1.0, 1.1)) : vec3(s);
        light += albedo * diffuse * seen * strength[i];
        vec3 h = normalize(toward[i] + view);
        float f = 0.04 + 0.96 * pow(1.0 - max(dot(h, view), 0.0), 5.0);
        float lobe;
        if (kind == {hair}) {{
            float t = dot(across, h);
            lobe = 0.25 * pow(sqrt(max(1.0 - t * t, 0.0)), gloss);
        }} else {{
            lobe = (gloss + 2.0) / 8.0 * pow(max(dot(n, h), 0.0), gloss) * max(c, 0.0);
        }}
        spec += lobe * f * s * strength[i];
    }}
    vec3 colour_out = light + shine * spec;
    if (cornea) {{
        alpha = clamp(3.0 * max(spec.r, max(spec.g, spec.b)) * shine, 0.0, 1.0);
        colour_out = shine * spec / max(alpha, 1e-3);
    }}
    if (kind == {lens}) {{
        float f = pow(1.0 - abs(dot(n, view)), 4.0);
        vec3 mirrored = reflect(-view, n);
        float glow = smoothstep(0.2, 0.9, mirrored.y + 0.4 * sin(mirrored.x * 7.0));
        float gain = (0.04 + 0.5 * f) * (0.3 + glow) * density;
        colour_out += vec3(gain) * (ambient * 4.0 + strength[0]);
        if (opacity < 0.5) alpha = clamp(opacity + gain + dot(spec, vec3(0.3)), 0.0, 0.95);
        if (part == 2) colour_out /= max(alpha, 0.05);
    }}
    result = vec4(colour_out, alpha);
}}
"""


@dataclass
class Mesh:
    """A part of a scene: ``points`` (V, 3), ``uv`` (V, 2), ``triangles`` (T, 3), and how it looks."""

    points: np.ndarray
    triangles: np.ndarray
    uv: np.ndarray
    texture: str = "white"
    kind: int = PLAIN
    tint: Sequence[float] | np.ndarray = (1.0, 1.0, 1.0)
    paint: np.ndarray | None = (
        None  # (V, 4): colour; where the mesh ends (0.5), for shells how long the hair is
    )
    normals: np.ndarray | None = None
    blend: bool = False
    opacity: float = 1.0
    gloss: float = 20.0
    shine: float = 1.0
    bumps: float = 0.0
    wrinkles: float = 0.0
    shells: int = 0  # fur: this many layers over the mesh
    length: float = 0.0  # height of the outermost layer
    density: float = 1.0
    casts: bool = True


@dataclass
class Scene:
    """Everything that an image shows. Lights are directions (L, 3) with colours (L, 3)."""

    meshes: list[Mesh]
    camera: np.ndarray  # (4, 4), to clip space
    eye: np.ndarray  # (3,)
    toward: np.ndarray
    strength: np.ndarray
    ambient: np.ndarray
    background: np.ndarray | None = None  # (H, W, 3) linear
    centre: np.ndarray = field(default_factory=lambda: np.array([0.0, 7.0, 0.3]))  # of the shadows
    radius: float = 2.6


def vertex_normals(
    points: np.ndarray, triangles: np.ndarray, same: np.ndarray | None = None
) -> np.ndarray:
    """Unit normals (V, 3) from the triangles around each vertex; ``same`` numbers vertices that are one."""
    same = np.arange(len(points)) if same is None else same
    a, b, c = (points[triangles[:, i]] for i in range(3))
    faces = np.cross(b - a, c - a)
    corners = same[triangles]
    count = same.max() + 1
    sums = np.zeros((count, 3))
    for corner, axis in np.ndindex(3, 3):
        sums[:, axis] += np.bincount(corners[:, corner], faces[:, axis], minlength=count)
    normals: np.ndarray = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    return normals[same]


def look_from(toward: np.ndarray, centre: np.ndarray, radius: float) -> np.ndarray:
    """Orthographic camera (4, 4) that looks at a ball against the unit vector ``toward``."""
    side = np.cross([0.0, 1.0, 0.0] if abs(toward[1]) < 0.95 else [1.0, 0.0, 0.0], toward)
    side /= np.linalg.norm(side)
    rows = np.stack([side, np.cross(toward, side), -toward]) / radius
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rows, -rows @ centre
    return matrix


class Renderer:
    """Draws scenes at ``size`` pixels a side, with ``lights`` lights; textures stay on the device."""

    def __init__(
        self, textures: dict[str, np.ndarray], size: int, lights: int, shadow: int = 192
    ) -> None:
        import moderngl

        self.size, self.modern = size, moderngl
        self.gl = context = moderngl.create_context(standalone=True, backend="egl", require=400)
        kinds = {"skin": SKIN, "hair": HAIR, "plain": PLAIN, "eye": EYE, "lens": LENS}
        self.program = context.program(VERTEX, FRAGMENT.format(lights=lights, **kinds))
        self.shadow_program = context.program(SHADOW_VERTEX, SHADOW_FRAGMENT)
        self.colour = context.texture((size, size), 4, dtype="f4")
        self.depth = context.depth_texture((size, size))
        self.target = context.framebuffer([self.colour], self.depth)
        self.maps = context.texture_array((shadow, shadow, lights), 1, dtype="f4")
        self.maps.filter = (moderngl.NEAREST, moderngl.NEAREST)
        self.maps.repeat_x = self.maps.repeat_y = False
        self.shadow_depth = context.depth_texture((shadow, shadow))
        self.shadow_target = context.framebuffer([], self.shadow_depth)
        random = np.random.default_rng(0).random((256, 256, 1), np.float32)
        textures = textures | {
            "white": np.full((1, 1, 4), 255, np.uint8),
            "noise": (255 * random).astype(np.uint8).repeat(4, 2),
        }
        self.wrinkled = next((name for name in textures if "old_" in name), "white")
        self.textures = {}
        for name, image in textures.items():
            rows = image[::-1].tobytes()
            made = context.texture(image.shape[1::-1], image.shape[2], rows, alignment=1)
            made.build_mipmaps()
            made.anisotropy = 4.0
            self.textures[name] = made

    def draw(self, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
        """Linear RGB (S, S, 3) and depth (S, S) in clip space from -1 to 1, both float32, first row on top."""
        meshes = [(mesh, *self._load(mesh)) for mesh in scene.meshes]
        try:
            self._draw_shadows(scene, [(mesh, thin) for mesh, _, thin, *_ in meshes])
            depth = self._draw_parts(scene, [(mesh, full) for mesh, full, *_ in meshes])
        finally:
            for _, *made in meshes:
                for item in made:
                    item.release()
        image = np.frombuffer(self.target.read(components=4, dtype="f4"), np.float32)
        image = image.reshape(self.size, self.size, 4)[::-1]
        colour = image[..., :3]
        if scene.background is not None:
            colour = colour + (1.0 - image[..., 3:]) * scene.background
        return np.nan_to_num(colour, posinf=20.0).clip(0.0, 20.0), depth

    def _load(self, mesh: Mesh) -> tuple[Any, ...]:
        """Its vertex arrays for the image and for shadows, and their buffers."""
        normals = mesh.normals
        if normals is None:
            normals = vertex_normals(mesh.points, mesh.triangles)
        paint = np.ones((len(mesh.points), 4)) if mesh.paint is None else mesh.paint
        data = np.concatenate([mesh.points, normals, mesh.uv, paint], axis=1)
        vertices = self.gl.buffer(data.astype(np.float32).tobytes())
        indices = self.gl.buffer(mesh.triangles.astype(np.int32).tobytes())
        columns = (vertices, "3f 3f 2f 4f", "position", "normal", "uv", "paint")
        full = self.gl.vertex_array(self.program, [columns], indices)
        places = (vertices, "3f 12x 2f 16x", "position", "uv")
        thin = self.gl.vertex_array(self.shadow_program, [places], indices)
        return full, thin, vertices, indices

    def _draw_shadows(self, scene: Scene, meshes: list[tuple[Mesh, Any]]) -> None:
        """What each light sees, into the texture of shadows."""
        self.gl.enable_only(self.modern.DEPTH_TEST)
        cameras = [look_from(toward, scene.centre, scene.radius) for toward in scene.toward]
        self.shadow_program["image"] = 0
        self.shadow_target.use()
        for i, camera in enumerate(cameras):
            self.shadow_target.clear(depth=1.0)
            self.shadow_program["camera"].write(camera.T.astype(np.float32).tobytes())
            for mesh, thin in meshes:
                if mesh.casts:
                    self._cull(mesh)
                    self.textures[mesh.texture].use(0)
                    self.shadow_program["cut"] = mesh.blend
                    thin.render()
            place = (0, 0, i, *self.shadow_depth.size, 1)
            self.maps.write(self.shadow_depth.read(), viewport=place)
        self.program["shadow_camera"].write(np.array([c.T for c in cameras], np.float32).tobytes())

    def _draw_parts(self, scene: Scene, meshes: list[tuple[Mesh, Any]]) -> np.ndarray:
        """Solid meshes, then what is solid of textures with alpha, then the rest of those and fur; the depth before that."""
        program, modern = self.program, self.modern
        program["image"], program["shadows"], program["noise"], program["old"] = 0, 1, 2, 3
        self.maps.use(1)
        self.textures["noise"].use(2)
        self.textures[self.wrinkled].use(3)
        program["camera"].write(scene.camera.T.astype(np.float32).tobytes())
        program["toward"].write(scene.toward.astype(np.float32).tobytes())
        program["strength"].write(scene.strength.astype(np.float32).tobytes())
        program["eye"], program["ambient"] = tuple(scene.eye), tuple(scene.ambient)
        self.target.use()
        self.target.clear(0.0, 0.0, 0.0, 0.0, depth=1.0)
        for mesh, full in meshes:
            if not mesh.blend and not mesh.shells:
                self._draw_mesh(mesh, full, 0)
        for mesh, full in meshes:
            if mesh.blend:
                self._draw_mesh(mesh, full, 1)
        depth = np.frombuffer(self.depth.read(), np.float32).reshape(self.size, self.size)
        self.gl.enable(modern.BLEND)
        over = modern.ONE_MINUS_SRC_ALPHA
        self.gl.blend_func = modern.SRC_ALPHA, over, modern.ONE, over
        self.target.depth_mask = False
        for mesh, full in meshes:
            if mesh.blend or mesh.shells:
                self._draw_mesh(mesh, full, 2)
        self.target.depth_mask = True
        return np.asarray(depth[::-1] * 2.0 - 1.0)

    def _cull(self, mesh: Mesh) -> None:
        """Leave out the far sides of closed meshes."""
        closed = mesh.kind == SKIN or mesh.shells > 0
        (self.gl.enable if closed else self.gl.disable)(self.modern.CULL_FACE)

    def _draw_mesh(self, mesh: Mesh, full: Any, part: int) -> None:
        """One part of a mesh, or all layers of its fur."""
        program = self.program
        self._cull(mesh)
        self.textures[mesh.texture].use(0)
        for name in ("kind", "gloss", "shine", "bumps", "opacity", "wrinkles", "casts", "density"):
            program[name] = getattr(mesh, name)
        program["part"], program["tint"] = 3 if mesh.shells else part, tuple(mesh.tint)
        for layer in range(1, mesh.shells + 1) if mesh.shells else [0]:
            share = layer / max(mesh.shells, 1)
            program["shell"], program["inflate"] = share, mesh.length * share
            full.render()
