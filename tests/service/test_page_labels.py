"""The page as a tool to label own points: schemas and labels from files, projects, queues."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("playwright", reason="pip install playwright drives the page")

from PIL import Image
from playwright.sync_api import Page, Route, expect
from test_page import (  # fixtures too
    NAMES,
    SIZE,
    address,
    browser,
    choose,
    download,
    drag,
    hold,
    ort_web,
    page,
    playwright,
    png,
    predictor,
    pytestmark,
    table,
    to_screen,
    upload,
)

from facial_keypoints.data.formats.reading import read_labels
from facial_keypoints.data.synthetic.scenes import draw_scene

__all__ = ["address", "browser", "ort_web", "page", "playwright", "predictor", "pytestmark"]

SCHEMA = {
    "name": "cat",
    "keypoints": ["left_ear", "right_ear", "chin"],
    "pairs": [["left_ear", "right_ear"]],
    "edges": [["left_ear", "chin"]],
}
# A face without a box and with a missing point, and two of one photo.
CSV = """image,group,x0,y0,x1,y1,left_ear_x,left_ear_y,right_ear_x,right_ear_y,chin_x,chin_y,chin_visibility
day1/a.png,"tom, cat",,,,,120.5,60,60.25,61,90,140,1
b.png,kit,10,20,110,140,,,30,40,60,120,2
b.png,kit,200,20,300,140,270,41,230,40,250,120,2
"""


def gray(size: tuple[int, int] = SIZE) -> bytes:
    return png(np.full((*size, 3), 120, np.uint8))


def load(page: Page, **files: Any) -> None:
    """Load files that are no images; NAME_csv is NAME.csv."""
    page.set_input_files(
        "#data-input",
        [
            {
                "name": name.replace("_", "."),
                "mimeType": "text/plain",
                "buffer": (text if isinstance(text, str) else json.dumps(text)).encode(),
            }
            for name, text in files.items()
        ],  # type: ignore[arg-type]
    )
    page.locator("#notes").wait_for()


def labels(page: Page) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(download(page, "labels").decode())))


def test_labels_are_loaded_with_their_own_points_and_written_as_they_were(
    page: Page, tmp_path: Path
) -> None:
    load(page, labels_csv=CSV)  # before the photos, with the names of the labels as the schema
    posted = hold(page, "**/v1/predict*")
    choose(page, {"a.png": gray(), "b.png": gray()})
    expect(page.locator("#strip-text")).to_have_text("2 of 2 images done", timeout=20_000)
    assert posted == []  # images with labels are not predicted
    expect(page.locator("#not-here")).to_be_hidden()
    expect(page.locator("#points li")).to_have_text(
        ["left earby hand", "right earby hand", "chinoccluded"]
    )
    written = labels(page)
    given = list(csv.DictReader(io.StringIO(CSV)))
    given[0]["image"] = "a.png"  # the name of the photo that was chosen
    for row, before in zip(written, given, strict=True):
        assert row == before
    with zipfile.ZipFile(io.BytesIO(download(page, "coco"))) as archive:
        archive.extractall(tmp_path)
    found = read_labels(tmp_path)
    assert found.names == ("left_ear", "right_ear", "chin")
    assert [face.about for face in found.faces] == [
        {"group": "tom, cat"},
        {"group": "kit"},
        {"group": "kit"},
    ]
    assert found.faces[0].box is None
    assert found.faces[0].points["chin"] == (90, 140, 1)
    assert "left_ear" not in found.faces[1].points
    # COCO loaded back in a new page gives the same; its images are named by their folder.
    content = json.loads((tmp_path / "annotations.json").read_text())
    kept(page, 0)
    reopen(page)
    page.get_by_role("button", name="Not now").click()
    choose(page, {Path(i["file_name"]).name: gray() for i in content["images"]})
    load(page, annotations_json=content)
    expect(page.locator("#image-about")).to_contain_text("corrected")
    expect(page.locator("#strip-text")).to_have_text("2 of 2 images done", timeout=20_000)
    for row, before in zip(labels(page), written, strict=True):
        assert row["image"].endswith(before["image"])
        row["image"] = before["image"]
        assert {k: v for k, v in row.items() if k != "style"} == before


def test_a_schema_is_labelled_by_hand_click_by_click(page: Page) -> None:
    load(page, cat_json=SCHEMA)
    expect(page.locator("#notes")).to_be_visible()
    posted = hold(page, "**/v1/predict*")
    choose(page, {"a.png": gray()})
    expect(page.locator("#image-about")).to_contain_text("0 faces")
    corners = np.array([[200.0, 80], [360, 240]]) - 0.5
    page.click("[data-act=add-face]")
    first, last = to_screen(page, corners)
    drag(page, first, tuple(last - first))
    places = np.array([[330.0, 100], [230, 100], [280, 220]])
    for place in to_screen(page, places)[:2]:
        page.mouse.click(*place)
    expect(page.locator("#points [aria-selected=true]")).to_contain_text("chin")
    (row,) = labels(page)
    got = [[float(row[f"{n}_{a}"]) for a in "xy"] for n in SCHEMA["keypoints"][:2]]
    np.testing.assert_allclose(got, places[:2], atol=0.6)
    assert row["chin_x"] == row["chin_y"] == ""  # not labelled stays missing
    assert float(row["x0"]) == pytest.approx(200, abs=0.05)
    assert posted == []
    assert json.loads(download(page, "schema")) == SCHEMA


def test_what_cannot_be_read_is_said_and_what_is_there_is_not_replaced_unasked(page: Page) -> None:
    photo, _ = draw_scene(1, seed=1, image_size=SIZE)
    upload(page, {"a.png": png(photo)}, faces=1)
    page.locator("#canvas").focus()
    page.keyboard.press(".")
    page.keyboard.press("Shift+ArrowRight")
    before = table(page)
    content = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "categories": [{"id": 1, "name": "face", "keypoints": ["left_eye_center", "nose_tip"]}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "keypoints": [10, 10, 2, 0, 0, 0]},
            {"image_id": 9, "category_id": 1, "keypoints": [10, 10, 2, 0, 0, 0]},
        ],
    }
    dialog = page.get_by_role("dialog")
    load(page, broken_json="{", half_csv="image,eye_x,eye_y\na.png,3,\n")
    page.locator("#notes summary").click()
    expect(page.locator("#notes li")).to_contain_text(
        ["broken.json is no JSON", "half.csv, row 1: “eye” has one"]
    )
    load(page, coco_json=content)
    expect(dialog).to_contain_text("1 image of coco.json has corrections")
    page.get_by_role("button", name="Keep mine").click()
    expect(page.locator("#notes li").last).to_have_text(
        "coco.json: left out: 1 annotations of an image that is not listed"
    )
    assert table(page) == before
    load(page, coco_json=content)
    page.get_by_role("button", name="Replace them").click()
    expect(page.locator("#points .hand:not(.absent)")).to_have_count(1)
    page.click("[data-act=undo]")  # and it can be undone
    assert table(page) == before
    # Other keypoints would remove what was corrected: the page asks.
    load(page, cat_json=SCHEMA)
    expect(dialog).to_contain_text("nose tip")
    page.get_by_role("button", name="Keep the schema").click()
    assert table(page) == before


def reopen(page: Page) -> None:
    """Open the page again, as after a crash."""
    page.goto("about:blank")
    page.go_back()
    page.locator("html[data-ready]").wait_for()


def kept(page: Page, edits: int) -> None:
    page.locator(f"html[data-kept='{edits}']").wait_for()


def test_work_is_kept_in_the_browser_and_in_a_project_file(page: Page) -> None:
    load(page, cat_json=SCHEMA, labels_csv=CSV)
    choose(page, {"a.png": gray(), "c.png": gray()})  # and b.png is not here
    expect(page.locator("#strip-text")).to_have_text("2 of 2 images done")
    page.locator("#canvas").focus()
    page.keyboard.press(".")
    page.keyboard.press("h")  # the left ear is occluded
    page.keyboard.press("c")
    expect(page.locator("#strip-text")).to_have_text("2 of 2 images done, 1 checked")
    expect(page.locator("#image-name")).to_have_text("c.png")
    kept(page, 2)
    project = download(page, "project")
    before = {row["image"]: row for row in csv.DictReader(io.StringIO(CSV))}
    dialog = page.get_by_role("dialog")

    def is_back() -> None:
        expect(page.locator("#not-here summary")).to_have_text(
            re.compile("[23] labelled images not here")
        )
        choose(page, {f"{name}.png": gray() for name in "abc"})
        expect(page.locator("#strip-text")).to_have_text("3 of 3 images done, 1 checked")
        first, *others = labels(page)
        assert first["left_ear_visibility"] == "1"
        assert first["group"] == "tom, cat"
        assert [row["right_ear_x"] for row in others] == ["30", "230"]
        assert [row["group"] for row in others] == [before["b.png"]["group"]] * 2

    reopen(page)
    expect(dialog).to_contain_text("labels of 2 images")
    page.get_by_role("button", name="Not now").click()
    reopen(page)
    page.get_by_role("button", name="Restore").click()
    is_back()
    reopen(page)
    page.get_by_role("button", name="Delete them").click()
    expect(page.locator("#note")).to_contain_text("are deleted")
    reopen(page)
    load(page, project_json=project.decode())
    expect(dialog).to_have_count(0)  # nothing is kept any more
    is_back()


def test_images_are_gone_through_by_doubt_by_mark_and_by_suspicion(page: Page) -> None:
    answers = {"sure.png": 0.9, "unsure.png": 0.3, "usual.png": 0.7}

    def answer(route: Route) -> None:
        body = route.request.post_data_buffer or b""
        confidence = next(v for name, v in answers.items() if f'"{name}"'.encode() in body)
        row: dict[str, Any] = dict(
            zip(("x0", "y0", "x1", "y1", "score"), (100, 50, 300, 250, 0.9), strict=True)
        )
        for k, name in enumerate(NAMES):
            row |= {f"{name}_x": 120 + 10 * k, f"{name}_y": 150, f"{name}_confidence": confidence}
        image = {"width": SIZE[1], "height": SIZE[0], "faces": [row]}
        route.fulfill(json={"images": [image]})

    page.route("**/v1/predict*", answer)
    choose(page, {name: gray() for name in answers})
    expect(page.locator("#strip-text")).to_have_text("3 of 3 images done")
    shown = page.locator("#film li:not([hidden]) button")

    def names() -> list[str]:
        return [str(button.get_attribute("title")) for button in shown.all()]

    assert names() == ["sure.png", "unsure.png", "usual.png"]
    page.keyboard.press("t")
    expect(page.locator("#order")).to_have_value("sure")
    assert names() == ["unsure.png", "usual.png", "sure.png"]
    page.keyboard.press("x")
    expect(page.locator("#filter")).to_have_value("open")
    name = page.locator("#image-name")
    page.keyboard.press("PageUp")
    expect(name).to_have_text("usual.png")
    page.keyboard.press("c")
    expect(name).to_have_text("sure.png")
    assert names() == ["unsure.png", "sure.png"]
    page.keyboard.press("x")
    assert names() == ["unsure.png"]  # doubtful
    expect(name).to_have_text("unsure.png")
    page.select_option("#filter", "all")
    rows = "row,sample_id,keypoint,x,y,expected_x,expected_y,score\n3,photos/usual.png#0,nose_tip,1,2,3,4,9\n"
    load(
        page, suspects_csv=rows + "1,photos/usual.png#0,chin,1,2,3,4,8\n2,gone.png,chin,1,2,3,4,7\n"
    )
    assert names() == ["usual.png", "sure.png", "unsure.png"]
    expect(page.locator("#points [aria-selected=true]")).to_contain_text("nose tip")
    expect(page.locator("#notes li").last).to_have_text(
        "suspects.csv: images that are not here: gone.png"
    )


def numbers(row: dict[str, str], columns: list[str]) -> np.ndarray:
    return np.array([float(row[column]) for column in columns])


def test_a_face_and_its_box_are_moved_and_copied_to_the_next_image(page: Page) -> None:
    head, _, *rows = CSV.splitlines(keepends=True)
    load(page, labels_csv="".join([head, *rows]))
    choose(page, {"b.png": gray(), "c.png": gray(), "d.png": gray((180, 320))})
    expect(page.locator("#strip-text")).to_have_text("3 of 3 images done")
    box = ["x0", "y0", "x1", "y1"]
    points = [f"{n}_{a}" for n in ("right_ear", "chin") for a in "xy"]
    before = labels(page)
    page.locator("#canvas").focus()
    page.keyboard.press("m")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowDown")
    moved = labels(page)
    np.testing.assert_allclose(numbers(moved[0], box) - numbers(before[0], box), [1, 10, 1, 10])
    np.testing.assert_allclose(
        numbers(moved[0], points) - numbers(before[0], points), [1, 10, 1, 10]
    )
    assert moved[0]["left_ear_x"] == ""  # absent as before
    assert moved[1] == before[1]  # the other face
    page.keyboard.press("b")
    corner = to_screen(page, numbers(moved[0], box)[2:] - 0.5)
    scale = float(np.diff(to_screen(page, np.array([[0.0, 0], [1, 0]]))[:, 0])[0])
    drag(page, corner, (20 * scale, 10 * scale))
    drag(page, corner - 30 * scale, (-3 * scale, 0))  # inside: all of it
    wider = labels(page)
    np.testing.assert_allclose(
        numbers(wider[0], box) - numbers(moved[0], box), [-3, 0, 17, 10], atol=0.05
    )
    np.testing.assert_array_equal(numbers(wider[0], points), numbers(moved[0], points))
    page.keyboard.press("Escape")
    for _ in range(2):  # each drag is one step back
        page.keyboard.press("Control+z")
    assert labels(page) == moved
    # To an image without faces as they are, to a smaller one scaled, into a box that is there by that box.
    page.keyboard.press("PageDown")
    page.keyboard.press("v")
    same = [row for row in labels(page) if row["image"] == "c.png"]
    assert [{**row, "image": "b.png", "group": "kit"} for row in same] == moved
    page.keyboard.press("PageDown")
    page.keyboard.press("v")
    half = [row for row in labels(page) if row["image"] == "d.png"]
    np.testing.assert_allclose(numbers(half[0], box), numbers(moved[0], box) / 2, atol=1e-3)
    np.testing.assert_allclose(
        numbers(half[0], points) + 0.5, (numbers(moved[0], points) + 0.5) / 2, atol=1e-3
    )
    page.keyboard.press("m")
    page.keyboard.press("ArrowRight")  # now by hand
    page.keyboard.press("Escape")
    by_hand = labels(page)
    page.keyboard.press("v")
    assert labels(page) == by_hand


def test_brightness_and_loupe_change_only_what_is_seen(page: Page) -> None:
    load(page, labels_csv=CSV)
    photo = np.full((*SIZE, 3), 100, np.uint8)
    photo[140, 90] = 255, 0, 0
    choose(page, {"a.png": png(photo)})
    expect(page.locator("#image-about")).to_contain_text("1 face")

    def seen() -> np.ndarray:
        page.wait_for_timeout(100)  # a frame is drawn
        shot = page.locator("#canvas").screenshot()
        return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"), float)

    usual = seen()
    page.locator("#canvas").focus()
    for _ in range(4):
        page.keyboard.press("k")
    middle = tuple(np.array(usual.shape[:2]) // 2)
    assert usual[middle][0] == pytest.approx(100, abs=3)
    assert seen()[middle][0] == pytest.approx(200, abs=6)
    for _ in range(4):
        page.keyboard.press("j")
    np.testing.assert_array_equal(seen()[middle], usual[middle])
    for _ in range(3):
        page.keyboard.press(".")  # the chin is on the red pixel
    page.keyboard.press("l")
    loupe = seen()[-186:-10, -186:-10]
    assert loupe[88, 88] == pytest.approx([255, 0, 0], abs=30)  # the point does not cover it
    page.keyboard.press("l")
    assert seen()[-98, -98][1] > 60
    expect(page.locator("#loupe")).not_to_be_checked()


def test_the_answers_of_ones_own_model_are_a_queue(page: Page) -> None:
    photos = {"sure.png": 0.9, "unsure.png": 0.2, "usual.png": 0.7}
    lines = ["source,face,x0,y0,x1,y1,score,angle,chin_x,chin_y,chin_confidence"]
    lines += [f"{name},0,10,10,90,90,0.8,0,50,60,{value}" for name, value in photos.items()]
    load(page, points_csv="\n".join(lines))
    choose(page, {name: gray() for name in photos})
    expect(page.locator("#strip-text")).to_have_text("3 of 3 images done")
    page.keyboard.press("t")
    shown = page.locator("#film li:not([hidden]) button")
    assert [b.get_attribute("title") for b in shown.all()] == [
        "unsure.png",
        "usual.png",
        "sure.png",
    ]
    expect(page.locator("#image-about")).not_to_contain_text("corrected")
    assert [row["chin_confidence"] for row in table(page)] == list(photos.values())


def test_labels_never_go_to_an_image_that_may_be_another(page: Page) -> None:
    answer = page.evaluate(
        """async ({wanted, here}) => {
            const {imagesByName} = await import('/importing.js');
            return wanted.map((names) => imagesByName(names, here.map((name) => ({name}))).map(
              (found) => found?.name ?? (found === null ? 'none' : 'several')));
        }""",
        {
            "here": ["mine/day1/a.jpg", "mine/day2/a.jpg", "b.jpg", "c.jpg", "xc.jpg"],
            "wanted": [
                [
                    "day1/a.jpg",
                    "a.jpg",
                    "other/day1/a.jpg",
                ],  # the last: neither ends with the other
                ["b.jpg", "day1/b.jpg"],
                ["day1/b.jpg", "day2/b.jpg"],
                ["photos\\c.jpg", "d.jpg"],
            ],
        },
    )
    assert answer == [
        ["mine/day1/a.jpg", "several", "none"],
        ["b.jpg", "several"],
        ["several", "several"],
        ["c.jpg", "none"],
    ]


TWO = ["left_ear", "right_ear", "chin"]


@pytest.mark.parametrize("format", ["cvat", "label-studio", "yolo", "deeplabcut", "pts"])
def test_labels_go_to_other_tools_and_come_back(page: Page, format: str) -> None:
    photos = {"a.png": gray(), "b.png": gray((180, 320))}
    load(page, labels_csv=CSV.replace("day1/", ""))
    choose(page, photos)
    expect(page.locator("#strip-text")).to_have_text("2 of 2 images done")
    before = labels(page)
    content = download(page, format)
    files = {"annotations.xml": content}
    if format == "deeplabcut":
        files = {"labeled-data/images/CollectedData_labels.csv": content}
    elif content.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
    if format in ("pts", "deeplabcut"):
        expect(page.locator("#notes li").last).to_contain_text(
            f"written for {format}: {format} holds"
        )
    kept(page, 0)
    reopen(page)
    page.get_by_role("button", name="Delete them").click()
    if format == "pts":  # whose points have no names
        load(page, cat_json=SCHEMA)
    places = {"yolo": "images:", "deeplabcut": "labeled-data:images:"}
    # A tool's folder with the photos in it, as it is dropped.
    page.evaluate(
        """async ({texts, photos}) => {
            const transfer = new DataTransfer();
            for (const [path, text] of Object.entries(texts)) {
                transfer.items.add(new File([text], path));
            }
            for (const [name, data] of Object.entries(photos)) {
                const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
                transfer.items.add(new File([bytes], name, {type: 'image/png'}));
            }
            for (const file of transfer.files) {
                Object.defineProperty(file, 'webkitRelativePath', {value: `cats/${file.name.replaceAll(':', '/')}`});
            }
            const input = document.getElementById('folder-input');
            Object.defineProperty(input, 'files', {value: [...transfer.files], configurable: true});
            input.dispatchEvent(new Event('change'));
            delete input.files;
        }""",
        {
            "texts": {name.replace("/", ":"): text.decode() for name, text in files.items()},
            "photos": {
                places.get(format, "") + name: base64.b64encode(data).decode()
                for name, data in photos.items()
            },
        },
    )  # fmt: skip
    expect(page.locator("#strip-text")).to_have_text("2 of 2 images done")
    after = labels(page)
    one = [0, 1] if format == "pts" else [0, 1, 2]  # a face an image
    assert len(after) == len(one)
    for row, given in zip(after, [before[i] for i in one], strict=True):
        assert Path(row["image"]).name == given["image"]
        for name in (f"{n}_{a}" for n in TWO for a in "xy"):
            assert row[name] == given[name] or abs(float(row[name]) - float(given[name])) < 2e-3
        for name in ("x0", "y1") if format in ("cvat", "label-studio", "yolo") else ():
            if given[name]:
                assert float(row[name]) == pytest.approx(float(given[name]), abs=2e-3)
    expect(page.locator("#not-here")).to_be_hidden()


def test_labels_of_another_size_are_scaled_and_of_another_shape_refused(page: Page) -> None:
    names = SCHEMA["keypoints"]
    content = {
        "images": [
            {"id": i, "file_name": name, "width": 2 * SIZE[1], "height": 2 * SIZE[0]}
            for i, name in enumerate(("half.png", "cut.png"))
        ],
        "categories": [{"id": 1, "name": "cat", "keypoints": names}],
        "annotations": [
            {
                "image_id": i, "category_id": 1, "bbox": [20, 40, 100, 200],
                "keypoints": [30, 50, 2, 61, 81, 1, 0, 0, 0],
            }
            for i in range(2)
        ],
    }  # fmt: skip
    load(page, all_json=content)
    choose(page, {"half.png": gray(), "cut.png": gray((SIZE[0], SIZE[0]))})
    expect(page.locator("#strip-text")).to_have_text("2 of 2 images done")
    about = page.locator("#image-about")
    expect(about).to_contain_text("labels of 1280 × 720 px, scaled")
    (row,) = labels(page)
    assert row["image"] == "half.png"
    places = [row[f"{n}_{a}"] for n in names for a in "xy"]
    assert places == ["14.75", "24.75", "30.25", "40.25", "", ""]
    assert [row[side] for side in ("x0", "y0", "x1", "y1")] == ["10", "20", "60", "120"]
    page.keyboard.press("PageDown")
    expect(about).to_contain_text("labels of 1280 × 720 px are not taken: another shape")
    expect(page.locator("#notes li").last).to_contain_text("cut.png: its labels are of an image of")
    project = json.loads(download(page, "project"))  # which keeps them
    kept_faces = {record["name"]: record["faces"] for record in project["records"]}
    assert kept_faces["cut.png"][0]["points"][0]["x"] == 30


def test_several_suspected_labels_of_an_image_are_gone_through_by_key(page: Page) -> None:
    load(page, labels_csv=CSV)
    choose(page, {"a.png": gray(), "b.png": gray(), "c.png": gray()})
    expect(page.locator("#strip-text")).to_have_text("3 of 3 images done")
    rows = ["b.png#1,right_ear", "day1/a.png#0,chin", "b.png#0,chin", "b.png#1,chin"]
    load(page, suspects_csv="sample_id,keypoint,score\n" + "".join(f"{r},9\n" for r in rows))
    place = page.locator(
        "#image-name, #faces [aria-checked=true], #points [aria-selected=true] .name"
    )

    def at(*words: str) -> None:
        expect(place).to_have_text(list(words))

    at("b.png", "2", "right ear")
    page.keyboard.press("g")
    at("b.png", "1", "chin")
    page.keyboard.press("g")
    at("b.png", "2", "chin")
    expect(page.locator("#points .suspect .name")).to_have_text(["right ear", "chin"])
    page.keyboard.press("g")
    at("a.png", "1", "chin")
    page.keyboard.press("Shift+G")
    at("b.png", "2", "chin")
    expect(page.locator("#note")).to_have_text("Suspected label 3 of 4: chin, face 2.")
    expect(page.locator("#image-about")).to_contain_text(
        "suspected: right ear of face 2, chin of face 1, chin of face 2"
    )


def test_a_schema_in_yaml_is_loaded_and_one_of_the_model_has_its_partners(page: Page) -> None:
    schema = json.loads(download(page, "schema"))
    assert ["left_eye_center", "right_eye_center"] in schema["pairs"]
    pytest.importorskip("yaml")
    load(page, cat_yaml="keypoints: [left_ear, right_ear, chin]\npairs: [[left_ear, right_ear]]\n")
    expect(page.locator("#notes li").last).to_have_text("cat.yaml: 3 keypoints")
    assert json.loads(download(page, "schema"))["pairs"] == SCHEMA["pairs"]
    load(page, bad_yaml="keypoints: [a, a]\n", odd_xml="<nothing/>")
    expect(page.locator("#notes li")).to_contain_text([
        "model has none", "cat.yaml",
        "bad.yaml: 'keypoints' names a keypoint twice", "odd.xml holds no labels that can be read. Read are:",
    ])  # fmt: skip


def test_without_the_service_coco_and_the_project_are_written(page: Page) -> None:
    load(page, labels_csv=CSV)
    choose(page, {"b.png": gray()})
    expect(page.locator("#image-about")).to_contain_text("2 faces")
    for path in ("**/v1/convert*", "**/healthz"):
        page.route(path, lambda route: route.fulfill(status=502))
    page.click("#download summary")
    page.click("[data-save=cvat]")
    page.get_by_role("button", name="Take these").click()  # a.png is not here
    expect(page.locator("#note")).to_have_text(
        "The service does not answer. COCO and the project are written without it."
    )
    load(page, cats_tps="LM=1\n1 2\nIMAGE=b.png\n")
    expect(page.locator("#notes li").last).to_have_text(
        "The service does not answer. csv and COCO are read without it."
    )
    assert len(json.loads(download(page, "project"))["records"]) == 2
