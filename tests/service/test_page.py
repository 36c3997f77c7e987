"""The page of the service, driven in Debian's Chromium as a person would use it."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
import shutil
import socket
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("playwright", reason="pip install playwright drives the page")
uvicorn = pytest.importorskip("uvicorn")

from PIL import Image
from playwright.sync_api import (
    Browser,
    CDPSession,
    Page,
    Playwright,
    Route,
    expect,
    sync_playwright,
)

from facial_keypoints import service
from facial_keypoints.crops import cut_crop
from facial_keypoints.data.formats import load_dataset
from facial_keypoints.data.synthetic.scenes import draw_scene
from facial_keypoints.errors import ModelError
from facial_keypoints.geometry import box_to_crop, face_boxes, face_crop
from facial_keypoints.inference.detector import EFFORTS, Effort, OnnxFaceDetector
from facial_keypoints.inference.measure.measures import measure
from facial_keypoints.inference.predictor import Predictor, load_predictor
from facial_keypoints.inference.smoothing import OneEuroFilter
from facial_keypoints.io.tables import columns, rows
from facial_keypoints.models.registry import shipped_models
from facial_keypoints.schemas import FROM_IBUG68, KAGGLE15
from facial_keypoints.types import Keypoints, Prediction

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ORT_VERSION = "1.30.0"
NAMES = KAGGLE15.keypoint_names
NOSE = KAGGLE15.index("nose_tip")
SIZE = (360, 640)

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium (apt-get install chromium)"),
    pytest.mark.slow,
]


def png(image: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", image[..., ::-1])[1])


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    try:
        return load_predictor(threads=1, detector="default")
    except ModelError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def ort_web(request: pytest.FixtureRequest) -> Path | None:
    """The runtime's files: a folder that was named, or npm's package, or nothing."""
    if named := os.environ.get("FACIAL_KEYPOINTS_ORT_WEB"):
        return Path(named)
    cache = getattr(request.config, "cache", None)
    if shutil.which("npm") is None or cache is None:
        return None
    folder = Path(cache.mkdir(f"ort-web-{os.environ.get('PYTEST_XDIST_WORKER', '')}"))
    dist = folder / "package" / "dist"
    wanted = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
    if all((dist / name).is_file() for name in wanted):
        return dist
    package, patience = (
        f"onnxruntime-web@{ORT_VERSION}",
        ["--fetch-retries=0", "--fetch-timeout=20000"],
    )
    command = ["npm", "pack", package, "--pack-destination", str(folder), *patience]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=120)
    except (OSError, subprocess.SubprocessError):
        return None  # no registry: nothing to test with
    packed = folder / f"onnxruntime-web-{ORT_VERSION}.tgz"
    with tarfile.open(packed) as archive:
        for name in wanted:
            content = archive.extractfile(f"package/dist/{name}")
            assert content is not None
            target = folder / "package" / "dist" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.read())
    packed.unlink()
    return dist


def serve(
    predictor: Predictor,
    ort_web: Path | None = None,
    token: str | None = None,
    port: int = 0,
    name: str = "default",
) -> Iterator[str]:
    from facial_keypoints.service import create_app
    from facial_keypoints.service.guard import Access

    detector = predictor.detector
    assert isinstance(detector, OnnxFaceDetector)
    files = {name: shipped_models()[name], "face_detector": detector.path}
    access = Access(token=token)
    app = create_app(predictor, name=name, files=files, ort_web=ort_web, threads=1, access=access)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on"))
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen()  # so that a page that opens before the server is up waits for it
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        server.should_exit = True
        thread.join(20)


@pytest.fixture(scope="module")
def address(predictor: Predictor, ort_web: Path | None) -> Iterator[str]:
    yield from serve(predictor, ort_web)


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as running:
        yield running


# Chromium's sandbox needs rights that a container's root has not.
ARGS = ["--no-sandbox", "--disable-dev-shm-usage"]


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    started = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
    yield started
    started.close()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    with_size = {"width": 1280, "height": 800}
    context = browser.new_context(viewport=with_size, accept_downloads=True)  # type: ignore[arg-type]
    yield from opened(context.new_page(), address)
    context.close()


def opened(page: Page, address: str) -> Iterator[Page]:
    """The page, ready; any error in its console fails the test."""
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
    page.goto(address)
    page.locator("html[data-ready]").wait_for()
    yield page
    expected = "status of [45]"  # Chromium's line about a refused image; the test checks the page's
    assert [text for text in wrong if not re.search(expected, text)] == []


def upload(page: Page, images: dict[str, bytes], faces: int | None = None) -> None:
    kinds = {".png": "image/png", ".jpg": "image/jpeg"}
    payload: Any = [
        {"name": name, "mimeType": kinds[Path(name).suffix], "buffer": content}
        for name, content in images.items()
    ]
    page.set_input_files("#file-input", payload)
    done = page.locator("#film .badge", has_text="…")
    expect(done).to_have_count(0, timeout=30_000)
    if faces is not None:
        expect(page.locator("#image-about")).to_contain_text(f"{faces} face")


def download(page: Page, kind: str) -> bytes:
    page.click("#download summary")
    with page.expect_download() as waiting:
        page.click(f"[data-save={kind}]")
    return Path(waiting.value.path()).read_bytes()


def table(page: Page) -> list[dict[str, Any]]:
    answer: list[dict[str, Any]] = json.loads(download(page, "json"))
    return answer


def points(row: dict[str, Any]) -> np.ndarray:
    return np.array([[row[f"{n}_x"], row[f"{n}_y"]] for n in NAMES], float)


def to_screen(page: Page, xy: np.ndarray, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Where the whole image's pixels are on the page: as large as fits, in the middle."""
    box = page.locator("#canvas").bounding_box()
    assert box is not None
    frame, (height, width) = np.array([box["width"], box["height"]]), size
    margin = min(24, frame[0] * 0.03)
    scale = min(*((frame - 2 * margin) / [width, height]), 8)
    offset = (frame - scale * np.array([width, height])) / 2
    return np.asarray((xy + 0.5) * scale + offset + [box["x"], box["y"]])


def choose(page: Page, images: dict[str, bytes]) -> None:
    """Choose files without waiting for answers."""
    payload: Any = [
        {"name": name, "mimeType": "image/png", "buffer": content}
        for name, content in images.items()
    ]
    page.set_input_files("#file-input", payload)


def hold(page: Page, what: str) -> list[Route]:
    """Requests that wait until the test answers them."""
    held: list[Route] = []

    def keep(route: Route) -> None:
        held.append(route)

    page.route(what, keep)
    return held


def until(page: Page, held: list[Route], count: int = 1) -> None:
    for _ in range(500):
        if len(held) >= count:
            return
        page.wait_for_timeout(20)
    raise AssertionError(f"{len(held)} requests instead of {count}")


def asks_before_it_closes(page: Page) -> bool:
    return bool(
        page.evaluate(
            """() => !window.dispatchEvent(new Event('beforeunload', {cancelable: true}))"""
        )
    )


def drag(page: Page, start: np.ndarray, by: tuple[float, float]) -> None:
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(start[0] + by[0] / 2, start[1] + by[1] / 2)
    page.mouse.move(start[0] + by[0], start[1] + by[1])
    page.mouse.up()


def is_point_coloured(image: np.ndarray) -> np.ndarray:
    """Pixels between the violet of points of low confidence and the orange of high."""
    low, high = np.array([108, 92, 231.0]), np.array([255, 157, 46.0])
    share = np.clip((image - low) @ (high - low) / ((high - low) @ (high - low)), 0, 1)
    return np.asarray(np.abs(image - low - share[..., None] * (high - low)).max(axis=-1) < 14)


def by_place(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(found, key=lambda row: row["x0"])


def test_the_page_takes_nothing_from_elsewhere_and_has_no_inline_code() -> None:
    web = Path(service.__file__).parent / "web"
    files = [f for f in web.iterdir() if f.suffix in (".html", ".js", ".css", ".svg")]
    assert len(files) > 8
    for file in files:
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text, file.name
    assert not re.findall(
        r"\s(?:style|on\w+)=|<script(?![^>]*src=)|<style", (web / "index.html").read_text()
    )


# --- showing -----------------------------------------------------------------------------------------


def test_points_are_drawn_where_the_faces_have_them(page: Page) -> None:
    photo, faces = draw_scene(3, seed=1, image_size=SIZE)
    upload(page, {"scene.png": png(photo)}, faces=3)
    found = np.stack([points(row) for row in by_place(table(page))])
    eyes = np.linalg.norm(faces.xy[:, 0] - faces.xy[:, 1], axis=-1)[:, None]
    assert np.mean(np.linalg.norm(found - faces.xy, axis=-1) / eyes) < 0.08
    seen = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"), float)
    mask, off = is_point_coloured(seen), []
    for x, y in to_screen(page, found).reshape(-1, 2):
        left, top = int(x) - 6, int(y) - 6
        window = slice(top, top + 13), slice(left, left + 13)
        down, across = np.mgrid[window] + 0.5
        away = np.hypot(across - x, down - y)
        dot = mask[window] & (away < 4)
        assert dot[away < 2].all()
        off.append([across[dot].mean() - x, down[dot].mean() - y])
        # The dark rim around: a dot, not a coloured wall.
        assert seen[window][np.abs(away - 4.2) < 0.6].max(axis=1).min() < 90
    # Half a pixel of the photo is 0.7 px of the screen: it would show.
    assert np.abs(off).max() < 0.7
    assert np.abs(np.mean(off, axis=0)).max() < 0.3


def test_the_tables_are_those_of_the_command_line(page: Page, predictor: Predictor) -> None:
    photo, _ = draw_scene(2, seed=5, image_size=SIZE)
    upload(page, {"two, faces.png": png(photo)}, faces=2)
    lines = list(csv.reader(io.StringIO(download(page, "csv").decode())))
    assert lines[0] == [*columns(KAGGLE15), "style"]
    expected = rows(predictor.predict(photo, source="two, faces.png"))
    assert len(lines) == 1 + len(expected)
    for line, row in zip(lines[1:], expected, strict=True):
        assert line[:2] == ["two, faces.png", str(row[1])]
        np.testing.assert_allclose([float(v) for v in line[2:-1]], row[2:], atol=2e-3)
        assert line[-1] == "kaggle-a"
    assert [list(row.values()) for row in table(page)] == [
        [line[0], int(line[1]), *map(float, line[2:-1]), line[-1]] for line in lines[1:]
    ]


def test_measurements_are_those_of_the_package(page: Page) -> None:
    photo, _ = draw_scene(2, seed=5, image_size=SIZE)
    upload(page, {"a.png": png(photo)}, faces=2)
    found = table(page)
    confidence = np.array([[row[f"{n}_confidence"] for n in NAMES] for row in found], np.float32)
    expected = measure(
        Keypoints(
            np.stack([points(r) for r in found]).astype(np.float32), KAGGLE15, confidence=confidence
        )
    )
    lines = list(csv.DictReader(io.StringIO(download(page, "measures").decode())))
    for n, line in enumerate(lines):
        for m, name in enumerate(expected.names):
            assert float(line[name]) == pytest.approx(expected.values[n, m], rel=2e-3, abs=2e-2)
            assert float(line[f"{name}_sigma"]) == pytest.approx(expected.sigma[n, m], rel=2e-2)
        assert line["warnings"] == ", ".join(expected.warnings[n])
    page.click("#tab-measures")
    expect(page.locator("#measures tr")).to_have_count(len(expected.names))
    expect(page.locator("#notice")).to_contain_text("Not a medical device")


def test_the_geometry_in_the_browser_is_that_of_the_package(page: Page) -> None:
    photo, faces = draw_scene(1, seed=3, image_size=(300, 420))
    gray = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    xy = faces.xy[0].astype(float)
    answer = page.evaluate(
        """async ({xy, names, data, width, height, box}) => {
            const f = await import('/crops.js');
            const p = await import('/pixels.js');
            const m = await import('/measurement.js');
            const gray = {data: Uint8ClampedArray.from(data), width, height};
            const placed = f.faceCrop(xy, names, 96, 1.2);
            const given = f.boxToCrop(box, 96, 180, 1.2);
            return {
              box: f.faceBox(xy, names), placed, given, from68: f.FROM_IBUG68,
              crops: [placed, given].map((map) => Array.from(p.cutCrop(gray, map, 96))),
              scale: m.errorScale(0.5),
            };
        }""",
        {"xy": xy.tolist(), "names": list(NAMES), "data": gray.ravel().tolist(),
         "width": 420, "height": 300, "box": [-20.0, 10.0, 260.0, 290.0]},
    )  # fmt: skip
    np.testing.assert_allclose(answer["box"], face_boxes(faces.xy, KAGGLE15)[0], atol=1e-3)
    assert answer["scale"] == pytest.approx(1.787, abs=2e-3)
    assert answer["from68"] == {name: list(numbers) for name, numbers in FROM_IBUG68.items()}
    crops = [
        face_crop(xy, KAGGLE15, (96, 96), scale=1.2),
        box_to_crop(np.array([-20.0, 10, 260, 290]), (96, 96), 180.0, 1.2),
    ]
    for crop, matrix, pixels in zip(
        crops, (answer["placed"], answer["given"]), answer["crops"], strict=True
    ):
        np.testing.assert_allclose(np.reshape(matrix, (2, 3)), crop.matrix, atol=1e-4)
        cut = cut_crop(gray, crop, 1)[..., 0].astype(float)
        assert np.abs(np.reshape(pixels, (96, 96)) - cut).mean() < 0.6


def test_the_camera_is_smoothed_as_tracks_are(page: Page) -> None:
    rng = np.random.default_rng(0)
    raw = 100 + np.cumsum(rng.normal(size=(12, 15, 2)), axis=0)
    times, sizes = np.cumsum(rng.uniform(0.02, 0.2, 12)), rng.uniform(30, 60, 12)
    steady = OneEuroFilter()
    expected = [steady(xy, t, s) for xy, t, s in zip(raw, times, sizes, strict=True)]
    answer = page.evaluate(
        """async ({raw, times, sizes}) => {
            const {OneEuro} = await import('/smoothing.js');
            const steady = new OneEuro();
            return raw.map((xy, n) => steady.next(xy, times[n], sizes[n]));
        }""",
        {"raw": raw.tolist(), "times": times.tolist(), "sizes": sizes.tolist()},
    )
    np.testing.assert_allclose(answer, expected, atol=1e-9)
    # Two faces that change places in the answer keep their own filter; one that was away starts anew.
    photo, _ = draw_scene(2, seed=5, image_size=SIZE)
    upload(page, {"a.png": png(photo)}, faces=2)
    faces = [
        {
            "box": [row[side] for side in ("x0", "y0", "x1", "y1")],
            "points": [{"x": x, "y": y} for x, y in points(row).tolist()],
        }
        for row in table(page)
    ]
    first, second, third = page.evaluate(
        """async ({faces, names}) => {
            const {Smoother} = await import('/smoothing.js');
            const steady = new Smoother();
            const moved = (face) => ({...face, points: face.points.map(({x, y}) => ({x: x + 1, y}))});
            return [
              steady.next(faces, 0, names),
              steady.next([moved(faces[1]), faces[0]], 0.05, names),
              (steady.next([], 0.1, names), steady.next([moved(faces[1])], 0.15, names)),
            ].map((answer) => answer.map((face) => face.points[0].x));
        }""",
        {"faces": faces, "names": list(NAMES)},
    )
    assert first[1] < second[0] < first[1] + 0.9
    assert second[1] == pytest.approx(first[0])
    assert third[0] == pytest.approx(first[1] + 1)


def test_a_photo_with_an_exif_rotation_is_upright_on_the_page_and_in_the_service(
    page: Page, tmp_path: Path
) -> None:
    photo, faces = draw_scene(1, seed=8, image_size=(320, 300))
    turned = Image.fromarray(np.rot90(photo).copy())  # stored rotated; EXIF says so
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    content = io.BytesIO()
    turned.save(content, "jpeg", quality=95, exif=exif)
    upload(page, {"turned.jpg": content.getvalue()}, faces=1)
    expect(page.locator("#image-about")).to_contain_text("300 × 320")
    assert np.abs(points(table(page)[0]) - faces.xy[0]).max() < 12
    with zipfile.ZipFile(io.BytesIO(download(page, "coco"))) as archive:
        archive.extractall(tmp_path)
    expect(page.locator("#note")).to_contain_text("Download started")
    loaded = load_dataset(tmp_path, size=(96, 96), channels=1)
    eyes = loaded.keypoints.xy[0, [0, 1]]
    assert eyes[0, 0] - eyes[1, 0] > 20  # the left eye is on the right, level
    assert abs(eyes[0, 1] - eyes[1, 1]) < 12


def test_a_file_that_is_not_an_image_is_an_error(page: Page) -> None:
    upload(page, {"broken.png": b"\x89PNG\r\n\x1a\nnothing"})
    expect(page.get_by_role("alert")).to_have_text("This browser cannot show broken.png.")
    expect(page.locator("#film .badge.bad")).to_have_count(1)
    photo, _ = draw_scene(1, seed=2, image_size=(200, 200))
    upload(page, {"good.png": png(photo)}, faces=1)
    tiny = np.full((1, 1, 3), 90, np.uint8)
    upload(page, {"tiny.png": png(tiny)})
    expect(page.locator("#image-about")).to_contain_text("1 × 1")


def test_warnings_of_an_answer_are_shown(page: Page) -> None:
    photo = png(draw_scene(1, seed=2, image_size=(200, 200))[0])
    warning = "wrong.jpg: declared as image/jpeg, but read as PNG"
    upload(page, {"right.png": photo}, faces=1)
    expect(page.locator("#image-about")).not_to_contain_text(warning)
    upload(page, {"wrong.jpg": photo})
    expect(page.locator("#image-about")).to_contain_text(warning)
    expect(page.locator("#image-about")).to_contain_text("1 face")


def test_images_are_dropped_and_pasted(page: Page) -> None:
    photo, _ = draw_scene(1, seed=2, image_size=(200, 200))
    for kind in ("drop", "paste"):
        page.evaluate(
            """({bytes, kind}) => {
                const data = new DataTransfer();
                data.items.add(new File([Uint8Array.from(bytes)], `${kind}.png`, {type: 'image/png'}));
                const own = {bubbles: true, cancelable: true, dataTransfer: data, clipboardData: data};
                const Kind = kind === 'drop' ? DragEvent : ClipboardEvent;
                document.body.dispatchEvent(new Kind(kind, own));
            }""",
            {"bytes": list(png(photo)), "kind": kind},
        )
        expect(page.locator("#image-name")).to_have_text(f"{kind}.png")
    expect(page.locator("#film .badge", has_text="1")).to_have_count(2, timeout=20_000)


# --- nothing is lost ---------------------------------------------------------------------------------


def small(seed: int) -> bytes:
    return png(draw_scene(1, seed=seed, image_size=(200, 200))[0])


def test_while_an_engine_loads_images_wait_and_go_nowhere(page: Page) -> None:
    posted: list[str] = []
    page.on("request", lambda r: posted.append(r.url) if "/v1/predict" in r.url else None)
    held = hold(page, "**/ort/ort.wasm.min.mjs")
    page.get_by_label("in this browser").check()
    until(page, held)
    choose(page, {f"{n}.png": small(n) for n in (1, 2, 3)})
    expect(page.locator("#film .badge", has_text="…")).to_have_count(3)
    expect(page.locator("#image-about")).to_contain_text("200 × 200")
    held[0].fulfill(status=404)  # it does not load: nor do they go to the service unasked then
    expect(page.locator("#strip")).to_contain_text("were not sent")
    expect(page.get_by_label("by the service")).to_be_checked()
    assert posted == []
    page.get_by_role("button", name="Send them to the service").click()
    expect(page.locator("#film .badge", has_text="1")).to_have_count(3, timeout=30_000)


def test_an_image_that_the_service_still_computes_is_not_sent_again_after_the_switch(
    page: Page,
) -> None:
    posted = hold(page, "**/v1/predict*")
    choose(page, {"a.png": small(1), "b.png": small(2)})
    until(page, posted)
    loading = hold(page, "**/ort/ort.wasm.min.mjs")
    page.get_by_label("in this browser").check()
    until(page, loading)
    # Busy: the page would have sent it again after a second.
    posted[0].fulfill(status=503, headers={"Retry-After": "0"}, body="{}")
    expect(page.locator("#film .badge", has_text="…")).to_have_count(2)
    loading[0].fulfill(status=404)
    expect(page.locator("#strip")).to_contain_text("were not sent")
    assert len(posted) == 1


def test_a_correction_made_while_an_answer_is_under_way_stays(page: Page) -> None:
    photo, _ = draw_scene(1, seed=1, image_size=SIZE)
    upload(page, {"scene.png": png(photo)}, faces=1)
    before = table(page)
    held = hold(page, "**/v1/predict*")
    page.click("#options summary")
    page.select_option("#style", "ibug")  # the image is predicted again
    page.keyboard.press("Escape")
    until(page, held)
    drag(page, to_screen(page, points(before[0])[NOSE]), (30, 18))
    after = table(page)
    assert np.abs(points(after[0]) - points(before[0])).max() > 3
    page.unroute("**/v1/predict*")  # lets them go on
    upload(page, {"next.png": png(photo)}, faces=1)  # answered after it
    assert table(page)[0] == after[0]
    assert after[0]["style"] == "kaggle-a"
    page.click("[data-act=previous]")
    page.click("[data-act=undo]")
    assert table(page)[0] == before[0]
    # What can be done again is kept too, whatever is predicted again.
    page.click("#options summary")
    page.select_option("#style", "kaggle-b")
    page.keyboard.press("Escape")
    expect(page.locator("#film .badge", has_text="1")).to_have_count(2, timeout=30_000)
    page.click("[data-act=redo]")
    assert table(page)[0] == after[0]


def test_points_that_are_replaced_are_not_dragged_on(page: Page) -> None:
    photo, _ = draw_scene(1, seed=1, image_size=SIZE)
    upload(page, {"scene.png": png(photo)}, faces=1)
    start = to_screen(page, points(table(page)[0])[NOSE])
    held = hold(page, "**/v1/predict*")
    page.click("#options summary")
    page.select_option("#style", "ibug")
    page.keyboard.press("Escape")
    until(page, held)
    page.mouse.move(*start)
    page.mouse.down()
    held[0].continue_()
    expect(page.locator("#image-about")).to_contain_text("ibug", timeout=20_000)
    page.mouse.move(start[0] + 40, start[1] + 40)
    page.mouse.up()
    expect(page.locator("#points .hand")).to_have_count(0)


def test_a_download_says_what_it_lacks_and_what_it_mixes(page: Page) -> None:
    photo, _ = draw_scene(1, seed=1, image_size=SIZE)
    upload(page, {"a.png": png(photo)}, faces=1)
    first = table(page)
    assert not asks_before_it_closes(page)
    held = hold(page, "**/v1/predict*")
    choose(page, {"b.png": png(photo), "c.png": png(photo)})
    until(page, held)
    page.click("[data-act=previous]")
    drag(page, to_screen(page, points(first[0])[NOSE]), (30, 18))
    dialog = page.get_by_role("dialog")
    page.click("#download summary")
    page.click("[data-save=json]")
    expect(dialog).to_contain_text("1 of 3 images done: wait, or take these.")
    page.get_by_role("button", name="Wait", exact=True).click()
    expect(dialog).to_have_count(0)
    page.click("#download summary")
    page.click("[data-save=json]")
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Take these").click()
    assert len(json.loads(Path(waiting.value.path()).read_bytes())) == 1
    expect(page.locator("#note")).to_contain_text("Download started")
    assert asks_before_it_closes(page)  # it was not everything
    page.unroute("**/v1/predict*")  # lets them go on
    expect(page.locator("#film .badge", has_text="1")).to_have_count(3, timeout=30_000)
    page.click("#options summary")
    page.select_option("#style", "ibug")
    page.keyboard.press("Escape")
    expect(page.locator("#note")).to_contain_text("1 corrected image keeps the label style")
    expect(page.locator("#strip-text")).to_have_text("3 of 3 images done", timeout=30_000)
    assert [row["style"] for row in table(page)] == ["kaggle-a", "ibug", "ibug"]
    assert not asks_before_it_closes(page)
    for kind in ("kaggle", "coco"):
        page.click("#download summary")
        page.click(f"[data-save={kind}]")
        expect(dialog).to_contain_text("kaggle-a (1 face), ibug (2 faces)")
        page.get_by_role("button", name="Cancel").click()
    page.click("#download summary")
    page.check("#only-corrected")
    page.keyboard.press("Escape")
    with zipfile.ZipFile(io.BytesIO(download(page, "coco"))) as archive:
        (label,) = json.loads(archive.read("annotations.json"))["annotations"]
    assert label["attributes"] == {"style": "kaggle-a"}


def test_progress_is_shown_and_can_be_cancelled(page: Page) -> None:
    held = hold(page, "**/v1/predict*")
    page.set_input_files(
        "#file-input",
        [
            {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no image"},
            *({"name": f"{n}.png", "mimeType": "image/png", "buffer": small(n)} for n in (1, 2, 3)),
        ],  # type: ignore[arg-type]
    )
    until(page, held)
    strip = page.locator("#strip")
    expect(strip).to_contain_text("0 of 3 images done")
    strip.get_by_text("1 file skipped").click()
    expect(strip.locator("li")).to_have_text(["notes.txt"])
    held[0].continue_()
    expect(strip).to_contain_text("1 of 3 images done", timeout=20_000)
    until(page, held, 2)
    page.get_by_role("button", name="Cancel").click()
    held[1].continue_()
    expect(page.locator("#film .badge", has_text="…")).to_have_count(2)
    page.unroute("**/v1/predict*")
    strip.get_by_role("button", name="Go on").click()
    expect(strip).to_contain_text("3 of 3 images done", timeout=20_000)
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
    assert len(held) == 2


def test_a_service_that_goes_away_is_waited_for(browser: Browser, predictor: Predictor) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    for address in serve(predictor, port=port):
        page.goto(address)
        page.locator("html[data-ready]").wait_for()
        upload(page, {"a.png": small(1)}, faces=1)
    choose(page, {"b.png": small(2), "c.png": small(3)})
    strip = page.locator("#strip")
    expect(strip).to_contain_text("The service does not answer.")
    expect(strip).to_contain_text("1 of 3 images done")
    strip.get_by_role("button", name="Try again").click()
    expect(strip).to_contain_text("The service does not answer.")
    for _ in serve(predictor, port=port):
        # Without a click.
        expect(strip).to_have_text(re.compile("3 of 3 images done"), timeout=30_000)
        expect(strip).not_to_contain_text("does not answer")
    context.close()


def test_what_failed_is_tried_again_one_or_all(page: Page) -> None:
    page.route("**/v1/predict*", lambda route: route.fulfill(status=422, body="{}"))
    upload(page, {f"{n}.png": small(n) for n in (1, 2, 3)})
    strip = page.locator("#strip")
    expect(strip).to_contain_text("0 of 3 images done, 3 failed")
    page.unroute("**/v1/predict*")
    page.get_by_role("button", name="Try again").click()
    expect(strip).to_contain_text("1 of 3 images done, 2 failed", timeout=20_000)
    expect(page.get_by_role("button", name="Try again")).to_have_count(0)
    strip.get_by_role("button", name="Try failed images again").click()
    expect(strip).to_contain_text("3 of 3 images done", timeout=20_000)


def test_an_image_that_ends_the_service_is_not_sent_for_ever(page: Page) -> None:
    ended = [0]  # how often the service is asked for while it starts again

    def answer(route: Route) -> None:
        if b"bad.png" in (route.request.post_data_buffer or b""):
            ended[0] = 1
            route.fulfill(status=502)
        elif "healthz" in route.request.url and ended[0]:
            ended[0] -= 1
            route.fulfill(status=502)
        else:
            route.continue_()

    page.route("**/healthz", answer)
    page.route("**/v1/predict*", answer)
    choose(page, {"bad.png": small(1), "good.png": small(2)})
    strip = page.locator("#strip")
    strip.get_by_role("button", name="Try again").click()
    expect(strip).to_contain_text("1 of 2 images done, 1 failed", timeout=20_000)


# --- correcting --------------------------------------------------------------------------------------


def test_a_dragged_point_is_where_it_was_dropped(page: Page) -> None:
    photo, _ = draw_scene(3, seed=1, image_size=SIZE)
    upload(page, {"scene.png": png(photo)}, faces=3)
    before = table(page)
    start = to_screen(page, points(before[0])[NOSE])
    drag(page, start, (30, 18))
    after = table(page)
    scale = float(np.diff(to_screen(page, np.array([[0.0, 0], [1, 0]]))[:, 0])[0])
    moved = points(after[0]) - points(before[0])
    np.testing.assert_allclose(moved[NOSE], np.array([30, 18]) / scale, atol=0.02)
    assert after[0]["nose_tip_confidence"] is None
    moved[NOSE] = 0
    assert not moved.any()
    assert after[1:] == before[1:]
    page.click("[data-act=undo]")
    assert table(page) == before
    page.click("[data-act=redo]")
    assert table(page) == after
    expect(page.locator("[data-act=redo]")).to_be_disabled()


def test_a_face_that_was_not_found_is_added_with_a_box(page: Page) -> None:
    room, _ = draw_scene(0, seed=4, image_size=SIZE)
    upload(page, {"room.png": png(room)}, faces=0)
    expect(page.locator("#note")).to_contain_text("No face of 17 pixels or more was found")
    corners = np.array([[200.0, 80], [360, 240]]) - 0.5
    page.click("[data-act=add-face]")
    first, last = to_screen(page, corners)
    drag(page, first, tuple(last - first))
    expect(page.locator("#image-about")).to_contain_text("1 face", timeout=20_000)
    (row,) = table(page)
    box = [row[side] for side in ("x0", "y0", "x1", "y1")]
    np.testing.assert_allclose(box, [200, 80, 360, 240], atol=0.05)
    assert row["score"] is None
    page.click("[data-act=undo]")
    expect(page.locator("#image-about")).to_contain_text("0 faces")


def test_everything_is_done_by_keys_alone(page: Page) -> None:
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    example = page.get_by_role("button", name="A drawn example")
    for _ in range(20):
        if example.evaluate("e => e === document.activeElement"):
            break
        page.keyboard.press("Tab")
    assert example.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    expect(page.locator("#image-about")).to_contain_text("3 faces", timeout=30_000)
    before = table(page)
    page.locator("#canvas").focus()
    for _ in range(3):
        page.keyboard.press(".")
    expect(page.locator("#live")).to_contain_text("left eye inner corner")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowDown")
    page.keyboard.press("Alt+ArrowLeft")
    page.keyboard.press("h")
    expect(page.locator("#live")).to_contain_text("occluded")
    page.keyboard.press(",")
    page.keyboard.press("Delete")
    expect(page.locator("#live")).to_have_text("right eye center: absent.")
    page.keyboard.press("f")
    page.keyboard.press("Shift+Delete")
    expect(page.locator("#image-about")).to_contain_text("2 faces")
    after = table(page)
    moved = points(after[0]) - points(before[0])
    np.testing.assert_allclose(moved[2], [0.9, 10.0], atol=2e-3)
    assert np.isnan(moved[1]).all()
    assert after[1]["x0"] == before[2]["x0"]
    # The face that was deleted, again: a box in the middle of what is seen, moved and made larger.
    page.locator("#canvas").focus()
    page.keyboard.press("a")
    box = np.array([before[1][side] for side in ("x0", "y0", "x1", "y1")])
    target = to_screen(page, (box[:2] + box[2:]) / 2 - 0.5, (480, 800))
    frame = page.locator("#canvas").bounding_box()
    assert frame is not None
    middle = np.array([frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2])
    for key, by in zip(("ArrowRight", "ArrowDown"), np.rint((target - middle) / 8), strict=True):
        name = key if by > 0 else {"ArrowRight": "ArrowLeft", "ArrowDown": "ArrowUp"}[key]
        for _ in range(int(abs(by))):
            page.keyboard.press(name)
    page.keyboard.press("Enter")
    expect(page.locator("#image-about")).to_contain_text("3 faces", timeout=20_000)
    added = table(page)[2]
    assert added["score"] is None
    assert np.linalg.norm(points(added) - points(before[1]), axis=1).mean() < 4
    page.locator("#canvas").focus()
    for _ in range(5):
        page.keyboard.press("Control+z")
    page.keyboard.press("Control+Shift+z")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_every_control_has_a_name(page: Page) -> None:
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, input, select, canvas, summary')].filter((e) =>
            !e.hidden && !e.textContent.trim() && !e.ariaLabel && !e.labels?.length).map((e) => e.outerHTML)"""
    )
    assert nameless == []


def test_a_folder_of_images_is_shown_one_by_one(page: Page, tmp_path: Path) -> None:
    for number in (1, 2, 10):
        photo, _ = draw_scene(1, seed=number, image_size=(200, 240))
        (tmp_path / f"face{number}.png").write_bytes(png(photo))
    (tmp_path / "notes.txt").write_text("no image")
    page.set_input_files("#folder-input", tmp_path)
    expect(page.locator("#strip-text")).to_have_text("3 of 3 images done", timeout=30_000)
    shown = [page.locator("#image-name").inner_text()]
    for _ in range(2):
        page.keyboard.press("PageDown")
        shown.append(page.locator("#image-name").inner_text())
    assert [Path(name).name for name in shown] == ["face1.png", "face2.png", "face10.png"]
    expect(page.locator("[data-act=next]")).to_be_disabled()
    page.click("[data-act=previous]")
    expect(page.locator("#image-about")).to_contain_text("2 of 3")


def test_corrected_labels_train_a_model(page: Page, tmp_path: Path) -> None:
    scenes = [draw_scene(3, seed=seed, image_size=SIZE)[0] for seed in (11, 12, 13)]
    upload(page, {f"{n}.png": png(scene) for n, scene in enumerate(scenes)}, faces=3)
    first = table(page)
    count = len(first)
    assert count == 9
    drag(page, to_screen(page, points(first[0])[NOSE]), (12, 9))
    page.locator("#points").focus()
    page.keyboard.press("Home")
    page.locator("#canvas").focus()
    page.keyboard.press("h")  # left eye centre: occluded
    page.keyboard.press(".")
    page.keyboard.press("Delete")  # right eye centre: absent
    edited = table(page)
    training = tmp_path / "training.csv"
    training.write_bytes(download(page, "kaggle"))
    loaded = load_dataset(training)
    assert loaded.images.shape == (count, 96, 96, 1)
    labeled = loaded.keypoints.labeled
    assert labeled[0].tolist() == [k != 1 for k in range(15)]
    # The second face: placed by its points, as the package frames it.
    box = face_boxes(points(edited[1])[None].astype(np.float32), KAGGLE15)[0]
    crop = box_to_crop(box, (96, 96))
    expected = np.where(labeled[1][:, None], crop.apply(points(edited[1])), np.nan)
    np.testing.assert_allclose(loaded.keypoints.xy[1], expected, atol=0.01)
    cut = cut_crop(scenes[0], crop, 1)[..., 0].astype(float)
    assert np.abs(loaded.images[1, ..., 0] - cut).mean() < 1.0

    with zipfile.ZipFile(io.BytesIO(download(page, "coco"))) as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path / "coco")
    written = json.loads((tmp_path / "coco" / "annotations.json").read_text())
    triples = np.reshape(written["annotations"][0]["keypoints"], (15, 3))
    assert triples[:, 2].tolist() == [1, 0, *[2] * 13]
    np.testing.assert_allclose(triples[NOSE, :2], points(edited[0])[NOSE], atol=1e-3)
    faces = load_dataset(tmp_path / "coco", size=(96, 96), channels=1)
    assert len(faces) == count
    np.testing.assert_array_equal(faces.keypoints.labeled.sum(axis=1)[0], 14)

    pytest.importorskip("keras")
    from typer.testing import CliRunner

    from facial_keypoints.cli import app

    run = tmp_path / "run"
    command = ["finetune", "--data", str(training), "-o", str(run)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert (run / "model.keras").is_file()


def test_letters_work_after_a_click_and_arrows_move_the_point_of_the_list(page: Page) -> None:
    photo, _ = draw_scene(2, seed=5, image_size=SIZE)
    upload(page, {"a.png": png(photo)}, faces=2)
    upload(page, {"b.png": png(photo)}, faces=2)
    before = table(page)
    names = page.locator(".bar [data-act=names]")
    page.click("#film button >> nth=0")
    page.keyboard.press("n")
    expect(names).to_have_attribute("aria-pressed", "true")
    page.click("[data-act=zoom-in]")
    page.keyboard.press("n")
    expect(names).to_have_attribute("aria-pressed", "false")
    page.keyboard.press("f")
    expect(page.locator("#faces [aria-checked=true]")).to_have_text("2")
    page.locator("#points li").nth(NOSE).click()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Shift+ArrowRight")
    moved = points(table(page)[1]) - points(before[1])
    np.testing.assert_allclose(moved[NOSE], [10, 1], atol=2e-3)
    page.get_by_label("occluded").check()
    page.keyboard.press("h")  # letters work on these too
    expect(page.get_by_label("visible", exact=True)).to_be_checked()
    page.locator("#points").focus()  # by keys: the list chooses, Enter goes on to the image
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowDown")
    moved = points(table(page)[1]) - points(before[1])
    np.testing.assert_allclose(moved[NOSE + 1], [0, 1], atol=2e-3)
    page.locator("#point-x").fill("")
    page.keyboard.type("12")
    page.keyboard.press("n")  # while a number is typed it is no command
    expect(names).to_have_attribute("aria-pressed", "false")


def test_the_removal_of_an_image_is_undone(page: Page) -> None:
    photo, _ = draw_scene(1, seed=1, image_size=SIZE)
    for name in ("a.png", "b.png", "c.png"):
        upload(page, {name: png(photo)}, faces=1)
    page.click("[data-act=previous]")
    drag(page, to_screen(page, points(table(page)[1])[NOSE]), (30, 18))
    before = table(page)
    page.click("[data-act=remove-image]")
    expect(page.locator("#note")).to_contain_text("b.png was removed")
    assert len(table(page)) == 2
    drag(page, to_screen(page, points(before[2])[NOSE]), (30, 18))
    page.click("[data-act=undo]")  # first what was done last
    assert len(table(page)) == 2
    page.click("[data-act=undo]")
    expect(page.locator("#image-name")).to_have_text("b.png")
    assert table(page) == before
    for _ in range(3):
        page.click("[data-act=remove-image]")
    expect(page.locator("#empty")).to_be_visible()
    for _ in range(3):
        page.click("[data-act=undo]")
    assert table(page) == before


def test_the_names_of_all_points_are_shown(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 640})
    upload(page, {"a.png": small(2)}, faces=1)
    page.evaluate(
        """() => {
            window.written = new Set();
            const {fillText} = CanvasRenderingContext2D.prototype;
            CanvasRenderingContext2D.prototype.fillText = function (text, x, y) {
                const {a} = this.getTransform();
                const inside = x >= 0 && x + this.measureText(text).width <= this.canvas.width / a;
                if (inside) window.written.add(text);
                fillText.call(this, text, x, y);
            };
        }"""
    )
    page.click("[data-act=names]")
    page.wait_for_function("() => window.written.size >= 15")
    assert set(page.evaluate("[...window.written]")) == {n.replace("_", " ") for n in NAMES}


def test_forced_colours_show_what_is_chosen(page: Page) -> None:
    photo, _ = draw_scene(2, seed=5, image_size=SIZE)
    upload(page, {"a.png": png(photo)}, faces=2)
    page.emulate_media(forced_colors="active")
    page.locator("#points li").nth(NOSE).click()
    page.click(".bar [data-act=names]")
    color = "e => getComputedStyle(e).backgroundColor"
    for chosen, other in (
        ("#points [aria-selected=true]", "#points [aria-selected=false]"),
        ("#faces [aria-checked=true]", "#faces [aria-checked=false]"),
        (".tabs [aria-selected=true]", ".tabs [aria-selected=false]"),
        (".bar [data-act=names]", ".bar [data-act=add-face]"),
        (".states :checked + span", ".states :not(:checked) + span"),
    ):
        backgrounds = [page.locator(each).first.evaluate(color) for each in (chosen, other)]
        assert backgrounds[0] != backgrounds[1], chosen


# --- elsewhere ---------------------------------------------------------------------------------------


def test_in_the_browser_alone_no_image_leaves_it(page: Page, ort_web: Path | None) -> None:
    if ort_web is None:
        page.locator("#engine label").last.click()
        expect(page.get_by_role("alert")).to_contain_text("--ort-web")
        expect(page.get_by_label("by the service")).to_be_checked()
        pytest.skip("there is no ONNX Runtime Web: no npm, or no registry")
    photo, _ = draw_scene(3, seed=1, image_size=SIZE)
    upload(page, {"scene.png": png(photo)}, faces=3)
    served = table(page)
    requests: list[str] = []
    page.on("request", lambda r: requests.append(r.method) if "/v1/predict" in r.url else None)
    page.get_by_label("in this browser").check()
    expect(page.locator("#privacy")).to_contain_text("not sent anywhere", timeout=60_000)
    expect(page.locator("#film .badge", has_text="…")).to_have_count(0, timeout=30_000)
    upload(page, {"again.png": png(photo)}, faces=3)
    own = table(page)
    assert requests == []
    for before, after in zip(served, own[3:], strict=True):
        assert np.abs(points(after) - points(before)).max() < 0.5
        for name in ("x0", "y0", "x1", "y1"):
            assert after[name] == pytest.approx(before[name], abs=1.5)
        assert after["score"] == pytest.approx(before["score"], abs=0.05)
    page.get_by_label("by the service").check()
    expect(page.locator("#privacy")).to_contain_text("the service")


def searched() -> list[tuple[np.ndarray, int]]:
    """Images, and how many faces they have; only in the first one look at one scale finds all."""
    photo, _ = draw_scene(2, seed=32)
    large, _ = draw_scene(0, seed=4, image_size=(1400, 2100))
    large[800:890, 1203:1403], _ = draw_scene(2, seed=32, image_size=(90, 200))
    near, _ = draw_scene(1, seed=3, image_size=(901, 903))
    empty, _ = draw_scene(0, seed=4, image_size=(300, 501))
    turned = [(np.rot90(photo, turns), 2) for turns in (1, 2, 3)]
    return [(photo, 2), (large, 2), (near[200:760, 180:700], 1), (empty, 0), *turned]


@pytest.mark.parametrize("effort", EFFORTS)
def test_the_search_in_the_browser_is_that_of_the_package(
    page: Page, ort_web: Path | None, predictor: Predictor, effort: Effort
) -> None:
    if ort_web is None:
        pytest.skip("there is no ONNX Runtime Web: no npm, or no registry")
    images, counts = zip(*searched(), strict=True)
    answers = answers_in_the_browser(page, images, effort)
    for image, count, answer in zip(images, counts, answers, strict=True):
        expected = predictor.predict_detected(image, predictor.detect(image, effort=effort))
        assert answer["smallest"] == pytest.approx(expected.smallest)
        assert effort == "fast" or len(expected) == count
        assert_equal_faces(answer["faces"], expected)


def answers_in_the_browser(page: Page, images: Sequence[np.ndarray], effort: Effort) -> Any:
    return page.evaluate(
        """async ({images, effort}) => {
            const {Browser, Service} = await import('/engines.js');
            const engine = new Browser(new Service());
            await engine.start();
            const answers = [];
            for (const png of images) {
              const bytes = Uint8Array.from(atob(png), (letter) => letter.charCodeAt(0));
              const bitmap = await createImageBitmap(new Blob([bytes]));
              answers.push(await engine.predict({bitmap, effort}));
            }
            return answers;
        }""",
        {"images": [base64.b64encode(png(image)).decode() for image in images], "effort": effort},
    )


def assert_equal_faces(found: list[dict[str, Any]], expected: Prediction) -> None:
    assert len(found) == len(expected)
    order = np.argsort(expected.boxes[:, 0])
    faces = sorted(found, key=lambda face: float(face["box"][0]))
    for i, face in zip(order, faces, strict=True):
        most = 0.3 + 0.001 * np.ptp(expected.boxes[i, ::2])
        xy = [[point["x"], point["y"]] for point in face["points"]]
        np.testing.assert_allclose(xy, expected.keypoints.xy[i], rtol=0, atol=most)
        np.testing.assert_allclose(face["box"], expected.boxes[i], rtol=0, atol=most)
        assert face["score"] == pytest.approx(expected.scores[i], abs=0.005)


def test_68_points_in_the_browser_are_those_of_the_package(
    browser: Browser, ort_web: Path | None
) -> None:
    if ort_web is None:
        pytest.skip("there is no ONNX Runtime Web: no npm, or no registry")
    predictor = load_predictor("ibug68", threads=1)
    photo, _ = draw_scene(2, seed=5, image_size=SIZE)
    images = [photo, np.rot90(photo, 2).copy()]
    for address in serve(predictor, ort_web, name="ibug68"):
        context = browser.new_context(accept_downloads=True)
        for page in opened(context.new_page(), address):
            for image, answer in zip(
                images, answers_in_the_browser(page, images, "normal"), strict=True
            ):
                assert_equal_faces(answer["faces"], predictor.predict(image))
            upload(page, {"a.png": png(photo)}, faces=2)
            lines = list(csv.DictReader(io.StringIO(download(page, "measures").decode())))
            expected = measure(predictor.predict(photo))
            for line, values in zip(lines, expected.values, strict=True):
                shown = [float(line[name]) for name in expected.names]
                np.testing.assert_allclose(shown, values, rtol=5e-3, atol=5e-2)
        context.close()


def test_the_camera_is_answered_live(playwright: Playwright, address: str, tmp_path: Path) -> None:
    photo, faces = draw_scene(1, seed=6, image_size=(480, 640))
    photo = photo.copy()
    photo[:, :40] = (255, 0, 0)  # to know the sides
    coded = bytes(cv2.imencode(".jpg", photo[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1])
    video = tmp_path / "face.mjpeg"
    video.write_bytes(coded * 8)
    started = playwright.chromium.launch(
        executable_path=CHROMIUM,
        args=[
            *ARGS,
            "--use-fake-device-for-media-stream",
            "--use-fake-ui-for-media-stream",
            f"--use-file-for-fake-video-capture={video}",
        ],
    )
    red = """side => {
        const {width, height} = canvas;
        const x = side === 'left' ? 0 : width / 2;
        const {data} = canvas.getContext('2d').getImageData(x, 0, width / 2, height);
        let count = 0;
        for (let i = 0; i < data.length; i += 4) count += data[i] > 200 && data[i + 1] < 60 && data[i + 2] < 60;
        return count;
    }"""
    try:
        for page in opened(started.new_page(), address):
            page.click(".choices [data-act=camera]")
            expect(page.locator("#image-about")).to_contain_text("a second", timeout=30_000)
            expect(page.locator("#image-about")).to_contain_text("1 face")
            mirror = page.get_by_role("button", name="Mirror")
            for on, side in (("true", "right"), ("false", "left"), ("true", "right")):
                expect(mirror).to_have_attribute("aria-pressed", on)
                other = {"left": "right", "right": "left"}[side]
                page.wait_for_function(f"() => ({red})('{side}') > 1000 && !({red})('{other}')")
                mirror.click()
            page.get_by_role("button", name="Keep this image").click()
            expect(page.locator("#image-name")).to_have_text("camera-001.png")
            assert asks_before_it_closes(page)  # the kept image is nowhere else
            found = points(table(page)[0])
            eyes = np.linalg.norm(faces.xy[0, 0] - faces.xy[0, 1])
            assert np.linalg.norm(found - faces.xy[0], axis=1).mean() / eyes < 0.1
            page.click(".bar [data-act=camera]")
            expect(page.locator("#image-about")).to_contain_text("a second", timeout=30_000)
            page.keyboard.press("Escape")
            expect(page.locator("#image-name")).to_have_text("camera-001.png")
    finally:
        started.close()


def test_one_of_several_cameras_is_chosen(playwright: Playwright, address: str) -> None:
    fake = ["--use-fake-device-for-media-stream=device-count=2", "--use-fake-ui-for-media-stream"]
    started = playwright.chromium.launch(executable_path=CHROMIUM, args=[*ARGS, *fake])
    try:
        for page in opened(started.new_page(), address):
            page.click(".choices [data-act=camera]")
            camera = page.get_by_label("Camera", exact=True)
            expect(camera.locator("option")).to_have_count(2)
            second = camera.locator("option").nth(1).get_attribute("value")
            camera.select_option(index=1)
            expect(page.locator("#image-about")).to_contain_text("a second", timeout=30_000)
            expect(camera).to_have_value(str(second))
            # Between two cameras there is none.
            used = "video.srcObject?.getVideoTracks()[0].getSettings().deviceId"
            page.wait_for_function(f"wanted => {used} === wanted", arg=second)
            page.get_by_role("button", name="Stop").click()
            expect(page.locator("#empty")).to_be_visible()
    finally:
        started.close()


def test_a_phone_shows_it_without_scrolling_sideways(browser: Browser, address: str) -> None:
    size: Any = {"width": 360, "height": 740}
    context = browser.new_context(viewport=size, has_touch=True, is_mobile=True)
    for page in opened(context.new_page(), address):
        photo, _ = draw_scene(1, seed=1, image_size=(320, 320))
        upload(page, {"scene.png": png(photo)}, faces=1)
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        for name in ("Photos", "Keys", "Add face"):  # shown as images here, but named
            expect(page.get_by_role("button", name=name)).to_be_visible()
        # Two fingers apart: larger; the label of the zoom says so.
        touch = context.new_cdp_session(page)
        zoom = page.locator("#zoom").text_content()
        for spread in (20, 60):
            fingers = [
                {"x": 180 - spread, "y": 330, "id": 0},
                {"x": 180 + spread, "y": 330, "id": 1},
            ]
            kind = "touchStart" if spread == 20 else "touchMove"
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        assert page.locator("#zoom").text_content() != zoom
    context.close()


def fingers(touch: CDPSession, kind: str, *places: np.ndarray) -> None:
    points = [{"x": float(x), "y": float(y), "id": n} for n, (x, y) in enumerate(places)]
    touch.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})


def swipe(touch: CDPSession, start: np.ndarray, by: np.ndarray) -> None:
    fingers(touch, "Start", start)
    for share in (0.5, 1):
        fingers(touch, "Move", start + share * by)
    fingers(touch, "End")


def test_a_finger_moves_only_the_point_that_was_chosen(browser: Browser, address: str) -> None:
    size: Any = {"width": 400, "height": 800}
    context = browser.new_context(viewport=size, has_touch=True, is_mobile=True)
    photo, _ = draw_scene(1, seed=1, image_size=(320, 320))
    by = np.array([24.0, 20.0])
    for page in opened(context.new_page(), address):
        touch = context.new_cdp_session(page)
        upload(page, {"scene.png": png(photo)}, faces=1)
        before = table(page)
        found = points(before[0])
        for place in to_screen(page, found, (320, 320)):  # no swipe over any point moves it
            swipe(touch, place, by)
            page.click("[data-act=fit]")
        assert table(page) == before
        expect(page.locator("#points [aria-selected=true]")).to_have_count(0)
        nose = to_screen(page, found[NOSE], (320, 320))
        fingers(touch, "Start", nose + 3)  # a tap chooses
        fingers(touch, "Move", nose + 6)
        fingers(touch, "End")
        expect(page.locator("#points [aria-selected=true]")).to_contain_text("nose tip")
        assert table(page) == before
        # A second finger takes the drag back, and so does the system.
        for end in ("second", "Cancel"):
            fingers(touch, "Start", nose)
            fingers(touch, "Move", nose + by)
            expect(page.locator("#points .hand")).to_have_count(1)
            if end == "second":
                fingers(touch, "Start", nose + by, nose + 60)
                fingers(touch, "End")
            else:
                fingers(touch, "Cancel")
            expect(page.locator("#points .hand")).to_have_count(0)
            expect(page.locator("[data-act=undo]")).to_be_disabled()
            page.click("[data-act=fit]")
        assert table(page) == before
        swipe(touch, nose + 5, by)
        moved = points(table(page)[0]) - found
        scale = float(np.diff(to_screen(page, np.array([[0.0, 0], [1, 0]]), (320, 320))[:, 0])[0])
        np.testing.assert_allclose(moved[NOSE], by / scale, atol=0.1)
        moved[NOSE] = 0
        assert not moved.any()
    context.close()


def test_a_service_with_a_token_is_asked_with_it(
    browser: Browser, predictor: Predictor, ort_web: Path | None
) -> None:
    for address in serve(predictor, ort_web, token="sesame"):
        context = browser.new_context()
        page = context.new_page()
        page.goto(address)
        dialog = page.get_by_role("dialog")
        expect(dialog).to_be_visible()
        expect(page.locator("#token-wrong")).to_be_hidden()
        page.fill("#token", "wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#token-wrong")).to_be_visible()
        page.keyboard.press("Escape")  # and later without a reload
        expect(page.locator("#strip")).to_contain_text("this one is wrong")
        choose(page, {"before.png": small(1)})
        page.get_by_role("button", name="Enter the token").click()
        page.fill("#token", "sesame")
        dialog.get_by_role("button", name="Continue").click()
        page.locator("html[data-ready]").wait_for()
        expect(page.locator("#image-about")).to_contain_text("1 face", timeout=20_000)
        photo, _ = draw_scene(1, seed=2, image_size=(200, 200))
        upload(page, {"a.png": png(photo)}, faces=1)
        if ort_web is not None:
            page.get_by_label("in this browser").check()
            expect(page.locator("#privacy")).to_contain_text("not sent anywhere", timeout=60_000)
        context.close()
