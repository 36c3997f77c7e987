"""The audit and the grouping: planted faults are found, good rows are left in peace."""

from __future__ import annotations

import csv
import html
import io
import json
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from facial_keypoints.cli import app
from facial_keypoints.data.audit import Flag, audit, flagged_rows
from facial_keypoints.data.duplicates import duplicate_groups, exact_groups, face_features
from facial_keypoints.errors import MissingExtraError
from facial_keypoints.evaluation import pages
from facial_keypoints.evaluation.audit_report import render_audit, write_audit
from facial_keypoints.schemas import KAGGLE15, STYLE_B_POINTS
from facial_keypoints.types import FaceDataset, Keypoints

H, W = 48, 56
MEAN = np.array(
    [[37, 18], [19, 18], [34, 18], [40, 18], [22, 18], [16, 18], [33, 13], [42, 14], [23, 13],
     [14, 14], [28, 27], [34, 36], [22, 36], [28, 34], [28, 39]], np.float64,
)  # fmt: skip
NOSE = KAGGLE15.index("nose_tip")
MOUTH = KAGGLE15.index("mouth_center_bottom_lip")


def textures(n: int, seed: int = 0) -> np.ndarray:
    """Images that resemble each other no more than strangers do."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(128, 50, (n, 7, 8)).clip(0, 255).astype(np.uint8)
    return np.stack([cv2.resize(c, (W, H), interpolation=cv2.INTER_CUBIC) for c in coarse])[
        ..., None
    ]


def faces(n: int = 120, seed: int = 0) -> FaceDataset:
    """Style A in even rows; in odd ones style B, its nose 3 px lower and its mouth 2 px higher."""
    rng = np.random.default_rng(seed)
    xy = MEAN + rng.normal(0, 0.6, (n, 15, 2)) + rng.normal(0, 1.0, (n, 1, 2))
    styles = np.array(["kaggle-a", "kaggle-b"] * n)[:n]
    odd = styles == "kaggle-b"
    xy[odd, NOSE, 1] += 3
    xy[odd, MOUTH, 1] -= 2
    four = np.isin(KAGGLE15.keypoint_names, STYLE_B_POINTS)
    xy[np.ix_(odd, ~four)] = np.nan
    return FaceDataset(
        images=textures(n, seed),
        keypoints=Keypoints(xy.astype(np.float32), KAGGLE15),
        sample_ids=np.arange(1, n + 1).astype(str),
        source="faces.csv",
        styles=styles,
    )


def changed(
    data: FaceDataset, images: np.ndarray | None = None, xy: np.ndarray | None = None
) -> FaceDataset:
    return FaceDataset(
        images=data.images if images is None else images,
        keypoints=data.keypoints if xy is None else Keypoints(xy, KAGGLE15),
        sample_ids=data.sample_ids,
        source=data.source,
        styles=data.styles,
    )


def reasons(data: FaceDataset, row: int) -> set[str]:
    return {flag.reason for flag in audit(data).flags if flag.row == row}


def test_good_rows_get_no_flag() -> None:
    assert audit(faces()).flags == []


def test_counts_patterns_and_styles() -> None:
    report = audit(faces())
    assert report.rows == 120
    assert report.image_size == (H, W)
    assert report.label_counts["nose_tip"] == 120
    assert report.label_counts["mouth_left_corner"] == 60
    assert report.styles == {"kaggle-a": 60, "kaggle-b": 60}
    assert sorted((n, len(missing)) for n, missing in report.patterns) == [(60, 0), (60, 11)]


def test_the_offset_between_styles_is_measured() -> None:
    offsets = {(o.keypoint, o.style): o for o in audit(faces(400)).style_offsets}
    nose, mouth = offsets["nose_tip", "kaggle-b"], offsets["mouth_center_bottom_lip", "kaggle-b"]
    assert (nose.dx, nose.dy) == pytest.approx((0, 3), abs=0.4)
    assert (mouth.dx, mouth.dy) == pytest.approx((0, -2), abs=0.4)
    assert len(offsets) == 2


def test_swapped_eyes_are_flagged() -> None:
    data = faces()
    xy = data.keypoints.xy.copy()
    xy[7, [0, 1]] = xy[7, [1, 0]]
    assert "swapped" in reasons(changed(data, xy=xy), 7)


@pytest.mark.parametrize("row", [4, 7])
def test_a_point_far_from_where_faces_have_it_is_flagged(row: int) -> None:
    data = faces()
    xy = data.keypoints.xy.copy()
    xy[row, NOSE] += (14, 12)
    report = audit(changed(data, xy=xy))
    (flag,) = [f for f in report.flags if f.row == row and f.reason == "shape"]
    assert "nose_tip" in flag.detail
    assert flag.sample_id == str(row + 1)
    assert flagged_rows(report).tolist() == [row]


def test_points_outside_the_image_are_flagged() -> None:
    data = faces()
    xy = data.keypoints.xy.copy()
    xy[5, MOUTH, 1] = H + 2
    assert "outside" in reasons(changed(data, xy=xy), 5)


@pytest.mark.parametrize("code", [(0.0, 0.0), (-1.0, -1.0), (55.5, 2.0)])
def test_a_place_that_stands_for_no_label_is_flagged(code: tuple[float, float]) -> None:
    data = faces()
    xy = data.keypoints.xy.copy()
    xy[[3, 8, 20], 10] = code
    found = {flag.row for flag in audit(data.with_keypoints(xy)).flags if flag.reason == "no label"}
    assert found == {3, 8, 20}
    assert not any(flag.reason == "no label" for flag in audit(data).flags)


def test_eyes_far_outside_the_image_are_no_face_to_compare() -> None:
    data = faces(n=3)
    xy = data.keypoints.xy.copy()
    xy[1, 0] = (
        68717.0,
        10.0,
    )  # a lost decimal point: its crop would be blurred over thousands of pixels
    features = face_features(data.images, Keypoints(xy, data.schema))
    assert features.any(axis=1).tolist() == [True, False, True]


def test_a_face_in_a_corner_is_flagged_as_placed_oddly() -> None:
    data = faces()
    xy = data.keypoints.xy.copy()
    xy[8] = (xy[8] - MEAN[NOSE]) * 0.2 + (48, 6)
    assert "placement" in reasons(changed(data, xy=xy), 8)


def test_a_blank_image_is_flagged() -> None:
    data = faces()
    images = data.images.copy()
    images[3] = 90
    images[3, ::2] += 3
    assert "blank" in reasons(changed(data, images=images), 3)


def test_an_image_unlike_all_faces_is_flagged() -> None:
    data = faces(400)
    basis = textures(6, seed=5).astype(np.float64)
    weights = np.random.default_rng(2).dirichlet(np.ones(6), 400)
    images = np.einsum("nb,bhwc->nhwc", weights, basis)
    images += np.random.default_rng(3).normal(0, 2, images.shape)
    images[17] = textures(1, seed=6)[0]
    still = np.tile(MEAN.astype(np.float32), (400, 1, 1))
    report = audit(changed(data, images=images.clip(0, 255).astype(np.uint8), xy=still))
    assert [f.row for f in report.flags if f.reason == "no face"] == [17]


def test_copies_are_counted_and_their_disagreement_flagged() -> None:
    data = faces()
    images, xy = data.images.copy(), data.keypoints.xy.copy()
    images[11], images[13] = images[1], images[1]
    xy[11], xy[13] = xy[1], xy[1]
    xy[13, NOSE] += (5, 0)
    report = audit(changed(data, images=images, xy=xy))
    assert (report.exact_groups, report.exact_rows, report.disagreeing_pairs) == (1, 3, 1)
    assert flagged_rows(report).tolist() == [1, 13]
    details = [f.detail for f in report.flags if f.reason == "copies disagree"]
    assert len(details) == 2
    assert all("nose_tip is 5.0 px" in detail for detail in details)


def test_images_shared_with_the_test_set_are_named() -> None:
    data, test = faces(), faces(10, seed=9)
    images = test.images.copy()
    images[2] = data.images[30]
    images[4] = cv2.GaussianBlur(data.images[40, ..., 0], (3, 3), 0)[..., None]
    report = audit(data, changed(test, images=images))
    assert report.test_exact == [("31", "3")]
    assert report.test_near == [("41", "5")]


def test_tiny_unlabelled_and_one_row_data_are_looked_over_too() -> None:
    data = faces(5)
    blind = changed(data, xy=np.full((5, 15, 2), np.nan, np.float32))
    for small in (data, data.subset([0]), blind):
        assert audit(small).rows == len(small)


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [v or "" for k, v in attrs if k in ("src", "href")]


def test_the_written_report_is_complete_and_self_contained(tmp_path: Path) -> None:
    data = faces()
    xy = data.keypoints.xy.copy()
    xy[6, NOSE] += (14, 12)
    report = audit(changed(data, xy=xy))
    write_audit(report, tmp_path / "out")
    content = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert content["flagged_rows"] == [6]
    assert content["flags"][0]["sample_id"] == "7"
    assert content["patterns"][0]["rows"] == 60
    page = (tmp_path / "out" / "audit.html").read_text()
    links = _Links()
    links.feed(page)
    assert len(links.sources) == 2  # of the flagged row, and of its suspected label
    assert links.sources[0].startswith("data:image/png;base64,")
    assert "nose_tip is furthest off" in page


def test_what_the_page_shows_of_the_data_is_escaped_and_what_it_leaves_out_is_counted(
    tmp_path: Path,
) -> None:
    nasty = "<b>{{ 7 * 7 }}</b>"
    flag = Flag(0, nasty, "shape", nasty, 1.0)
    report = replace(
        audit(faces()), source=nasty, styles={nasty: 3}, flags=[flag] * 203,
        thumbnails={0: b"png"}, patterns=[(1, ("nose_tip",))] * 60,
    )  # fmt: skip
    write_audit(report, tmp_path)
    page = (tmp_path / "audit.html").read_text()
    assert nasty not in page
    assert page.count(html.escape(nasty)) >= 200
    assert page.count("<img") == 200
    assert "3 more are in audit.json" in page
    assert "… 10 more" in page


def test_without_jinja2_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    pages._environment.cache_clear()
    with pytest.raises(MissingExtraError, match=r"facial-keypoints\[train\]"):
        write_audit(audit(faces(5)), tmp_path / "out")
    asked = CliRunner().invoke(app, ["data", "audit", "faces.csv", "-o", str(tmp_path / "out")])
    assert isinstance(asked.exception, MissingExtraError)  # before the data is read
    assert not (tmp_path / "out").exists()


def test_the_terminal_shows_counts_and_flags() -> None:
    from rich.console import Console

    data = faces()
    xy = data.keypoints.xy.copy()
    xy[6, NOSE] += (14, 12)
    out = io.StringIO()
    Console(file=out, width=120).print(render_audit(audit(changed(data, xy=xy))))
    for words in (
        "faces.csv",
        "mouth_left_corner",
        "50.0 %",
        "kaggle-b 60",
        "nose_tip is furthest",
    ):
        assert words in out.getvalue()


# --- groups ---------------------------------------------------------------------------------------


def test_identical_images_share_a_number() -> None:
    images = textures(4)
    groups = exact_groups(np.concatenate([images, images[[2]]]))
    assert groups[4] == groups[2]
    assert len(set(groups.tolist())) == 4


def test_copies_share_a_group_and_strangers_do_not() -> None:
    images = textures(60)
    noise = np.random.default_rng(1).normal(0, 4, images[:2].shape)
    noisy = np.clip(images[:2] * 0.8 + 20 + noise, 0, 255).astype(np.uint8)
    groups = duplicate_groups(np.concatenate([images, images[[5]], noisy]))
    assert groups[60:].tolist() == [5, 0, 1]
    assert groups[:60].tolist() == list(range(60))


def test_a_moved_and_turned_crop_is_known_by_its_eyes() -> None:
    data = faces(60)
    turn = cv2.getRotationMatrix2D((W / 2, H / 2), 12, 1.1)
    turn[:, 2] += (3, -2)
    moved = cv2.warpAffine(data.images[0], turn, (W, H), borderMode=cv2.BORDER_REFLECT)[..., None]
    xy = data.keypoints.xy
    moved_xy = (xy[0] @ turn[:, :2].T + turn[:, 2]).astype(np.float32)
    images = np.concatenate([data.images, moved[None]])
    both = Keypoints(np.concatenate([xy, moved_xy[None]]), KAGGLE15)
    assert duplicate_groups(images)[60] == 60
    assert duplicate_groups(images, both)[60] == 0


def test_strangers_that_all_look_alike_make_no_blob() -> None:
    rng = np.random.default_rng(0)
    base = textures(1)[0].astype(np.float64)
    images = np.clip(base + 0.25 * (textures(80, seed=3) - 128.0), 0, 255).astype(np.uint8)
    images[40] = np.clip(images[3] + rng.normal(0, 1, images[3].shape), 0, 255)
    groups = duplicate_groups(images)
    assert np.bincount(groups).max() <= 16
    assert groups[40] == groups[3]


def test_groups_of_no_and_of_one_image() -> None:
    assert duplicate_groups(textures(1)).tolist() == [0]
    assert duplicate_groups(textures(1)[:0]).tolist() == []


def test_suspected_labels_and_copies_across_groups_are_listed(tmp_path: Path) -> None:
    given = faces()
    given = given.with_groups(np.repeat([f"p{i}" for i in range(40)], 3))
    given.images[7] = given.images[0]
    given.images[1] = given.images[0]  # of one group
    given.keypoints.xy[4, NOSE] += 12
    report = audit(given)
    assert report.across_groups == [("1", "8")]
    assert [(s.sample_id, s.keypoint) for s in report.suspects][:1] == [("5", "nose_tip")]
    write_audit(report, tmp_path)
    with (tmp_path / "suspects.csv").open(newline="") as handle:
        first = next(csv.DictReader(handle))
    assert (first["sample_id"], first["keypoint"]) == ("5", "nose_tip")
    page = (tmp_path / "audit.html").read_text()
    assert page.count("times the usual distance") == len(report.suspects)
    assert "Copies in different groups" in page
