"""Figures: what they hold, that they draw without warnings, and that no global state is touched."""

import subprocess
import sys

import numpy as np
import pytest

from facial_keypoints.errors import MissingExtraError, OutputError
from facial_keypoints.evaluation import plots
from facial_keypoints.evaluation.scores import CED_THRESHOLDS

pytest.importorskip("matplotlib")


def predicted_for(faces, scale=1.0):
    noise = np.random.default_rng(1).normal(size=faces.keypoints.xy.shape) * scale
    return (np.nan_to_num(faces.keypoints.xy, nan=9.0) + noise).astype(np.float32)


def texts(figure):
    return [t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text"))]


def rendered(figure, tmp_path):
    return plots.save_figure(figure, tmp_path / "figure.png", dpi=40).stat().st_size


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_figure_renders_in_both_themes(faces, tmp_path, theme):
    xy = predicted_for(faces)
    errors = {"cnn": (np.arange(1, 16.0), np.stack([np.arange(15.0), np.arange(2, 17.0)], 1))}
    figures = [
        plots.plot_keypoints_grid(faces, xy, recipe="cnn", rows=2, columns=3, theme=theme),
        plots.plot_worst_best(faces, xy, recipe="cnn", count=3, theme=theme),
        plots.plot_learning_curves(
            {"cnn": {"rmse_px": [9, 4, 3], "val_rmse_px": [9, 5, 4]}}, theme=theme
        ),
        plots.plot_keypoint_errors(
            faces.schema.keypoint_names, errors, num_labels=[60] * 15, theme=theme
        ),
        plots.plot_ced(CED_THRESHOLDS, {"cnn": np.linspace(0, 1, 201)}, theme=theme),
        plots.plot_missing_labels(faces, theme=theme),
    ]
    for figure in figures:
        assert rendered(figure, tmp_path) > 1000


def test_the_grid_says_recipe_rmse_and_faces_and_explains_its_marks(faces):
    xy = np.nan_to_num(faces.keypoints.xy, nan=9.0) + np.float32([3, 4])
    found = texts(plots.plot_keypoints_grid(faces, xy, recipe="cnn-flip", rows=2, columns=2))
    assert "cnn-flip  ·  RMSE 3.54 px on 60 faces" in found
    assert {"truth (label)", "prediction", "3.54 px"} <= set(found)


def test_the_grid_draws_truth_and_prediction_at_their_places(faces):
    one = faces.subset(slice(0, 1))
    xy = predicted_for(one)
    figure = plots.plot_keypoints_grid(one, xy, recipe="fc", rows=1, columns=1)
    drawn = [line.get_xydata() for line in figure.axes[0].lines if len(line.get_xdata()) == 15]
    np.testing.assert_allclose(drawn[0], one.keypoints.xy[0])
    np.testing.assert_allclose(drawn[-1], xy[0])


def test_a_grid_without_labels_shows_predictions_alone(faces):
    bare = faces.with_keypoints(np.full_like(faces.keypoints.xy, np.nan))
    found = texts(plots.plot_keypoints_grid(bare, predicted_for(faces), recipe="fc", rows=1))
    assert "prediction without a label" in found
    assert "truth (label)" not in found
    assert not any("RMSE" in text for text in found)


def test_worst_and_best_are_the_right_faces(faces, tmp_path):
    xy = np.nan_to_num(faces.keypoints.xy, nan=9.0).astype(np.float32)
    xy += np.arange(60, dtype=np.float32)[:, None, None]  # row n is off by n pixels
    found = texts(plots.plot_worst_best(faces, xy, recipe="fc", count=2))
    assert [t for t in found if t.endswith(" px")] == ["0.00 px", "1.00 px", "59.00 px", "58.00 px"]


def test_learning_curves_name_each_recipe_with_the_value_of_its_kept_epoch(tmp_path):
    histories = {
        "fc": {"rmse_px": [5.0, 4.0, 3.0], "val_rmse_px": [6.0, 4.5, 4.75]},
        "cnn": {"rmse_px": [3.0], "val_rmse_px": [3.25]},
        "broken": {"rmse_px": [float("nan")], "val_rmse_px": [float("nan")]},
        "mean face": {},
    }
    figure = plots.plot_learning_curves(histories)
    assert {"fc  4.50", "cnn  3.25"} <= set(texts(figure))
    assert rendered(figure, tmp_path) > 1000


@pytest.mark.parametrize(
    "histories", [{}, {"fc": {}}, {"fc": {"rmse_px": [2.0]}}, {"a": {"rmse_px": [0.0]}}]
)
def test_learning_curves_of_next_to_nothing_render(histories, tmp_path):
    assert rendered(plots.plot_learning_curves(histories), tmp_path) > 1000


def test_names_at_line_ends_do_not_overlap_and_stay_in_order():
    places = plots._spread([0.50, 0.52, 0.51, 0.9], 0.1)
    ordered = sorted(places)
    assert min(np.diff(ordered)) >= 0.1 - 1e-9
    assert np.argsort(places).tolist() == [0, 2, 1, 3]
    assert places[3] == pytest.approx(0.9)
    assert np.mean(places[:3]) == pytest.approx(0.51)


def test_keypoint_errors_skip_what_is_not_labelled_and_sort_by_the_best(tmp_path):
    error = np.array([2.0, np.nan, 1.0])
    interval = np.stack([error - 0.5, error + 0.5], axis=1)
    figure = plots.plot_keypoint_errors(
        ("a_b", "c", "d"), {"fc": (error, interval)}, num_labels=[5, 0, 1200]
    )
    labels = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert labels == ["d  (1,200)", "a b  (5)", "c  (0)"]
    assert rendered(figure, tmp_path) > 1000


def test_ced_leaves_out_curves_without_faces(tmp_path):
    curves = {"cnn": np.linspace(0, 1, 201), "none": np.full(201, np.nan)}
    figure = plots.plot_ced(CED_THRESHOLDS, curves)
    assert "cnn" in texts(figure)
    assert "none" not in texts(figure)


def test_missing_labels_count_per_style(faces, tmp_path):
    figure = plots.plot_missing_labels(faces)
    assert "60  100 %" in texts(figure)
    assert "20  33 %" in texts(figure)
    assert {"kaggle-a", "kaggle-b", "not labelled"} <= set(texts(figure))
    assert rendered(plots.plot_missing_labels(faces.subset(slice(0, 0))), tmp_path) > 1000


def test_picked_faces_are_seeded_distinct_and_show_a_rare_style(faces):
    picked = plots.pick_faces(faces, 12, seed=3)
    assert picked.tolist() == plots.pick_faces(faces, 12, seed=3).tolist()
    assert picked.tolist() != plots.pick_faces(faces, 12, seed=4).tolist()
    assert len(set(picked.tolist())) == 12
    rare = faces.subset(np.r_[0:1, 20:60])  # one style A face among forty
    assert "kaggle-a" in set(rare.styles[plots.pick_faces(rare, 8)])
    assert len(plots.pick_faces(faces, 1000)) == 60
    assert len(plots.pick_faces(faces.subset(slice(0, 0)), 5)) == 0


def test_picked_faces_come_from_different_groups_while_there_are_any(faces):
    grouped = faces.subset(slice(0, 20)).with_groups(np.repeat(["p", "q", "r", "s"], 5))
    assert set(grouped.groups[plots.pick_faces(grouped, 4)]) == {"p", "q", "r", "s"}


def test_predictions_of_another_shape_are_refused(faces):
    with pytest.raises(ValueError, match=r"received \(60, 15, 2\) and \(59, 15, 2\)"):
        plots.plot_keypoints_grid(faces, predicted_for(faces)[1:], recipe="fc")


def test_a_figure_that_cannot_be_saved_leaves_nothing(faces, tmp_path):
    figure = plots.plot_missing_labels(faces)
    target = tmp_path / "folder.png"
    target.mkdir()
    with pytest.raises(OutputError, match=r"folder\.png"):
        plots.save_figure(figure, target)
    assert [p.name for p in tmp_path.iterdir()] == ["folder.png"]


def test_a_missing_matplotlib_names_the_command_to_run(faces, monkeypatch):
    monkeypatch.setattr(plots.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'facial-keypoints\[train\]'"):
        plots.plot_missing_labels(faces)


def test_plots_start_no_pyplot_and_change_no_settings():
    code = (
        "import sys, numpy as np, matplotlib\n"
        "settings = lambda: repr(list(dict.items(matplotlib.rcParams)))\n"  # past its hooks
        "before = settings()\n"
        "from facial_keypoints.evaluation import plots\n"
        "import io; plots.plot_ced(np.linspace(0, 1, 5), {'a': np.linspace(0, 1, 5)}).savefig(io.BytesIO(), format='png')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert settings() == before\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
