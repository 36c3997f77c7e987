"""The report page, the tables and the files of results."""

import csv
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from facial_keypoints.errors import OutputError
from facial_keypoints.evaluation.report import (
    CSV_COLUMNS,
    render_comparison,
    render_evaluation,
    write_report,
    write_results_csv,
    write_results_json,
)
from facial_keypoints.evaluation.scores import ComparisonResult, RecipeResult, evaluate_predictions

pytest.importorskip("matplotlib")

NASTY = "<script>alert('x')</script>&\"{{ 7 * 7 }}{% raise %}"


def recipe(name, faces, scale, **more):
    noise = np.random.default_rng(2).normal(size=faces.keypoints.xy.shape) * scale
    xy = (np.nan_to_num(faces.keypoints.xy, nan=9.0) + noise).astype(np.float32)
    return RecipeResult(name, f"about {name}", evaluate_predictions(faces, xy), xy, **more)


@pytest.fixture
def comparison(faces):
    history = {"rmse_px": [5.0, 3.0], "val_rmse_px": [5.5, 3.5]}
    settings = {"epochs": 50, "loss": "mean squared error", "flip": True}
    return ComparisonResult(
        faces,
        (
            recipe("fc", faces, 3.0, history=history, settings=settings, num_parameters=1234567),
            recipe("cnn", faces, 1.0, history=history, settings=settings, train_seconds=75.0),
        ),
        train=faces,
        split={"train": 100, "val": 20, "test": 60},
        split_note="Groups stay together.",
        missing_results=(recipe("mask", faces, 1.0), recipe("drop", faces, 2.0)),
        audit={"exact_duplicates": 412},
        versions={"numpy": "2.0"},
        command="facial-keypoints compare -o out",
        created="2026-01-02 03:04",
        machine="Linux",
    )


class Page(HTMLParser):
    """Collects tags, attributes and visible text, and checks that tags close."""

    VOID = frozenset({"meta", "img", "input", "source", "br"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in {"style", "script"}:
            self.text += data + " "

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def page_of(comparison, tmp_path):
    write_report(tmp_path / "report.html", comparison)
    return Page((tmp_path / "report.html").read_text("utf-8"))


def test_the_page_leads_with_the_winner_and_by_how_much(comparison, tmp_path):
    page = page_of(comparison, tmp_path)
    first, second = comparison.ranking
    assert (first.name, second.name) == ("cnn", "fc")
    gap, interval = comparison.difference(first, second)
    assert f"cnn wins: {first.report.overall.rmse_px:.2f} px" in page.text
    assert (
        f"{gap:.2f} px less than fc (95 % interval {interval.low:.2f}–{interval.high:.2f})"
        in page.text
    )
    assert "60 held-out faces of dotted faces" in page.text


def test_the_page_has_every_section(comparison, tmp_path):
    text = page_of(comparison, tmp_path).text
    for part in (
        "Results", "Held-out faces", "Learning curves", "Which points are hard",
        "How many faces are good enough", "Worst and best faces", "Missing labels",
        "How they were trained", "The split", "Data audit", "Repeat the comparison",
        "kaggle-a", "460 labels", "1,234,567", "1 min 15 s", "mean squared error",
        "Groups stay together.", "exact duplicates", "412", "facial-keypoints compare -o out",
        "numpy 2.0", "2026-01-02 03:04",
    ):  # fmt: skip
        assert part in text, part


def test_the_page_closes_every_tag_and_fetches_nothing(comparison, tmp_path):
    page = page_of(comparison, tmp_path)
    assert page.open == []
    for _, attrs in page.tags:
        for name in ("src", "srcset", "href", "data"):
            assert attrs.get(name, "data:").startswith("data:")
    assert not page.all("link")
    style = re.search(r"<style>(.*?)</style>", (tmp_path / "report.html").read_text(), re.S)
    assert style
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    assert all(image.get("alt") for image in page.all("img"))
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_each_face_is_there_once_with_the_points_of_every_recipe(comparison, tmp_path):
    page = page_of(comparison, tmp_path)
    assert len(page.all("picture")) == 4  # charts, one source of each for the dark theme
    assert len(page.all("image")) == 24 + 2 * 2 * 6  # the grid; worst and best of two recipes
    layers = [a.get("class") for a in page.all("g")]
    assert layers.count("p p0") == layers.count("p p1") == 24
    checked = [a["id"] for a in page.all("input") if "checked" in a]
    assert checked == ["r1", "w1"]  # the winner's


def test_names_of_users_are_escaped(faces, tmp_path):
    nasty = ComparisonResult(
        faces.subset(slice(0, 30)),
        (
            recipe(
                NASTY,
                faces.subset(slice(0, 30)),
                1.0,
                settings={NASTY: NASTY},
                history={"rmse_px": [1.0]},
            ),
        ),
        split={NASTY: NASTY},
        split_note=NASTY,
        audit={NASTY: [NASTY]},
        versions={NASTY: NASTY},
        command=NASTY,
        created=NASTY,
        machine=NASTY,
    )
    page = page_of(nasty, tmp_path)
    assert len(page.all("script")) == 1
    assert page.text.count(NASTY) >= 8


def test_an_unclear_lead_is_reported_as_unclear(faces, tmp_path):
    rng = np.random.default_rng(0)
    xy = [np.nan_to_num(faces.keypoints.xy, nan=9.0) + rng.normal(size=(60, 15, 2)) for _ in "ab"]
    recipes = [
        RecipeResult(n, "", evaluate_predictions(faces, p), p)
        for n, p in zip("ab", xy, strict=True)
    ]
    text = page_of(ComparisonResult(faces, tuple(recipes)), tmp_path).text
    assert "leads, but not clearly" in text
    assert re.search(r"interval −\d\.\d\d to \d\.\d\d", text)


@pytest.mark.parametrize("rows", [0, 2])
def test_a_page_without_labels_or_faces_says_so(faces, tmp_path, rows):
    bare = faces.subset(slice(0, rows))
    bare = bare.with_keypoints(np.full_like(bare.keypoints.xy, np.nan))
    xy = np.zeros_like(bare.keypoints.xy)
    result = RecipeResult("fc", "", evaluate_predictions(bare, xy), xy)
    page = page_of(ComparisonResult(bare, (result,)), tmp_path)
    assert "No held-out face is labelled" in page.text
    assert page.open == []


def test_an_output_that_cannot_be_written_is_one_error(comparison, tmp_path):
    (tmp_path / "report.html").mkdir()
    with pytest.raises(OutputError, match=r"report\.html"):
        write_report(tmp_path / "report.html", comparison)


def test_csv_has_a_row_per_recipe_style_and_keypoint(comparison, tmp_path):
    write_results_csv(tmp_path / "results.csv", comparison)
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert len(rows) == 2 * 3 * (1 + 15)
    first = rows[0]
    assert (first["recipe"], first["style"], first["keypoint"]) == ("fc", "all", "all")
    assert float(first["rmse_px"]) == pytest.approx(
        comparison.recipes[0].report.overall.rmse_px, rel=1e-5
    )
    assert first["labels"] == "460"
    brow = next(
        r for r in rows if r["style"] == "kaggle-b" and r["keypoint"] == "left_eyebrow_inner_end"
    )
    assert (brow["labels"], brow["rmse_px"], brow["nme"]) == ("0", "", "")


def test_json_holds_every_number_and_no_nan(comparison, tmp_path):
    write_results_json(tmp_path / "results.json", comparison)
    text = (tmp_path / "results.json").read_text("utf-8")
    data = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert data["ranking"] == ["cnn", "fc"]
    assert [r["name"] for r in data["missing_results"]] == ["mask", "drop"]
    assert data["recipes"][1]["report"]["overall"]["num_labels"] == 460
    assert data["recipes"][0]["train_seconds"] is None


def test_one_style_is_not_shown_twice(faces):
    one = faces.subset(np.flatnonzero(faces.styles == "kaggle-a"))
    result = ComparisonResult(one, (recipe("fc", one, 1.0),))
    for text in (
        printed(render_comparison(result, 160)),
        printed(render_evaluation(result.recipes[0].report)),
    ):
        assert "all faces" in text
        assert "kaggle-a" not in text


def printed(table, width=160):
    console = Console(width=width, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


def test_the_terminal_shows_the_best_recipe_first_with_counts(comparison):
    text = printed(render_comparison(comparison, 160))
    assert text.index("cnn") < text.index("fc ")
    assert "460 labels" in text
    low, high = comparison.ranking[0].report.overall.rmse_interval
    assert f"({low:.2f}–{high:.2f})" in text


def test_the_terminal_shows_one_report_by_keypoint_and_style(comparison):
    text = printed(render_evaluation(comparison.recipes[0].report))
    for part in ("nose tip", "kaggle-a", "all keypoints", "PCK 5 %", "60 faces"):
        assert part in text


def test_markup_in_names_is_printed_as_it_is(faces):
    result = ComparisonResult(faces, (recipe("[red]x[/red]", faces, 1.0),))
    assert "[red]x[/red]" in printed(render_comparison(result, 160))


def test_a_narrow_terminal_drops_columns_but_no_name(faces):
    names = ["specialists-ensemble", "a-recipe-with-a-really-long-name", "cnn-flip-ensemble"]
    recipes = [recipe(name, faces, i + 1.0) for i, name in enumerate(names)]
    text = printed(render_comparison(ComparisonResult(faces, tuple(recipes)), 80), 80)
    assert max(map(len, text.splitlines())) <= 80
    assert "MAE" not in text
    assert "NME\n" not in text.replace(" ", "")
    joined = "".join(line.split("│")[1].strip() for line in text.splitlines() if "│" in line)
    assert all(name in joined for name in names)


def test_a_model_that_has_seen_test_faces_is_shown_but_wins_nothing(faces, tmp_path):
    seen = recipe("default", faces, 0.1, seen_faces=7)
    result = ComparisonResult(faces, (recipe("cnn", faces, 2.0), seen, recipe("fc", faces, 3.0)))
    assert [r.name for r in result.ranking] == ["cnn", "fc", "default"]
    note = "trained on 7 of these test faces: no measure of new faces"
    assert note in " ".join(printed(render_comparison(result, 160)).split())
    text = page_of(result, tmp_path).text
    assert note in text
    assert "cnn wins" in text


def test_no_strategy_for_missing_labels_beats_the_headline(faces, tmp_path):
    better = recipe("drop", faces, 1.0)
    result = ComparisonResult(faces, (recipe("fc", faces, 3.0),), missing_results=(better,))
    assert "about drop wins" in page_of(result, tmp_path).text


def test_drawn_labels_are_called_drawn(faces, tmp_path):
    drawn = replace(faces, source="drawn faces (seed 0)")
    assert (
        "drawn label"
        in page_of(ComparisonResult(drawn, (recipe("fc", drawn, 1.0),)), tmp_path).text
    )
