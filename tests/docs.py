"""The parts of README.md that are made from the code, so that they cannot drift from it.

``python tests/docs.py --write`` rewrites them; ``tests/test_docs.py`` fails when they are stale.
``python tests/docs.py --notebook`` runs the notebook's text and saves it with its images;
``--image`` draws the README's images with the shipped models, ``--study`` those of its study with
networks that it trains on drawn faces.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import typer

README = Path(__file__).parents[1] / "README.md"
RESULTS = README.parent / "docs" / "results.md"


def verbs() -> Iterator[tuple[str, str]]:
    """Each verb's usage and the first sentence of its help, in the order of ``--help``."""
    from facial_keypoints.cli import app

    def walk(group: object, prefix: str) -> Iterator[tuple[str, str]]:
        for name, command in group.commands.items():  # type: ignore[attr-defined]
            path = f"{prefix}{name}"
            if hasattr(command, "commands"):
                yield from walk(command, f"{path} ")
                continue
            needed = [
                (p.name.upper() + ("..." if p.nargs == -1 else ""))
                if p.param_type_name == "argument"
                else f"{p.opts[0]} {p.name.upper()}"
                for p in command.params
                if p.required
            ]
            sentence = " ".join((command.help or "").split("\n\n")[0].split())
            yield " ".join([path, *needed]), sentence

    yield from walk(typer.main.get_command(app), "")


def command_table() -> str:
    """The README's table of commands."""
    rows = [f"| `{usage}` | {sentence} |" for usage, sentence in verbs()]
    return "\n".join(["| verb | does |", "|---|---|", *rows])


def study_table() -> str:
    """The first four columns of the study's table in docs/results.md: recipe, all, style A, style B."""
    text = RESULTS.read_text(encoding="utf-8")
    found = re.search(r"<!-- study -->\n(.*?)\n<!-- /study -->", text, re.DOTALL)
    if not found:
        raise SystemExit("docs/results.md has lost its <!-- study --> block.")
    return "\n".join("|".join(line.split("|")[:5]) + "|" for line in found[1].splitlines())


def rewritten(text: str) -> str:
    """README's text with fresh generated parts."""
    for name, fresh in {"commands": command_table(), "study": study_table()}.items():
        before, start, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"\n<!-- /{name} -->")
        if not start or not end:
            raise SystemExit(f"README.md has lost its <!-- {name} --> block.")
        text = before + start + fresh + end + after
    return text


def run_notebook() -> None:
    """Execute the notebook's text pair, and save it with what it showed."""
    import jupytext
    import nbclient

    text = README.parent / "notebooks" / "facial-keypoints-detection.py"
    notebook = jupytext.read(text)
    nbclient.NotebookClient(notebook, timeout=1800, kernel_name="python3").execute()
    for cell in notebook.cells:  # start-up notices of libraries are no part of the story
        shown = [o for o in cell.get("outputs", []) if o.get("name") != "stderr"]
        if cell.cell_type == "code":
            cell.outputs = shown
    jupytext.write(notebook, text.with_suffix(".ipynb"))


def draw_images() -> None:
    """The README's images: the shipped models on drawn faces and photos of drawn faces."""
    import numpy as np

    from facial_keypoints import align, load_predictor
    from facial_keypoints.data.synthetic.faces import draw_faces
    from facial_keypoints.data.synthetic.scenes import draw_scene
    from facial_keypoints.evaluation import plots
    from facial_keypoints.io.drawing import draw_prediction
    from facial_keypoints.io.images import write_image

    folder = README.parent / "docs" / "images"
    predictor = load_predictor()
    faces = draw_faces(24, seed=11)
    answers = predictor.predict_batch(faces.images)
    figure = plots.plot_keypoints_grid(faces, answers.xy, recipe="default", rows=2, seed=3)
    plots.save_figure(figure, folder / "keypoints.png", dpi=100)

    photo, _ = draw_scene(4, seed=4, image_size=(300, 900))
    found = predictor.predict(photo)
    write_image(folder / "photo.jpg", draw_prediction(photo, found), quality=88)
    aligned = align(photo, found)
    order = np.argsort(found.boxes[:, 0])
    write_image(folder / "aligned.jpg", np.hstack(list(aligned.images[order])), quality=88)
    draw_contact_sheet(folder)


def draw_contact_sheet(folder: Path) -> None:
    """The contact sheet of a video: two drawn faces before a swinging camera."""
    import tempfile

    import numpy as np
    from typer.testing import CliRunner

    from facial_keypoints.cli import app
    from facial_keypoints.data.synthetic.scenes import draw_scene
    from facial_keypoints.io.videos import write_video

    photo, _ = draw_scene(2, seed=9, image_size=(240, 480))
    with tempfile.TemporaryDirectory() as temporary:
        clip, table = Path(temporary) / "clip.mp4", Path(temporary) / "track.csv"
        with write_video(clip, (240, 440), rate=25) as writer:
            for i in range(100):
                shift = round(20 - 20 * np.cos(i / 8))
                writer.write(photo[:, shift : shift + 440], time_s=i / 25)
        words = ["track", clip, "-o", table, "--sheet", folder / "track.jpg", "--force"]
        CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


def draw_study() -> None:
    """``KEYPOINTS_0.png`` (CNN) and ``KEYPOINTS_1.png`` (fully connected) of drawn held-out faces."""
    import tempfile

    from facial_keypoints.data.synthetic.faces import draw_kaggle_like
    from facial_keypoints.evaluation import plots
    from facial_keypoints.models.keras_backend import choose_backend

    choose_backend()
    from facial_keypoints.training.experiment import IMAGES
    from facial_keypoints.training.fit import predict_keypoints, split_faces, train
    from facial_keypoints.training.recipes import RECIPES

    faces, [split], _ = split_faces(draw_kaggle_like(2500, seed=0))
    test = faces.subset(split.test)
    for name, epochs in {"cnn": 12, "fc": 30}.items():
        recipe = RECIPES[name].override(epochs=epochs, batch_size=32)
        with tempfile.TemporaryDirectory() as temporary:
            run = train(faces, split, recipe, Path(temporary) / name)
            predicted = predict_keypoints(run.load_model(), test.images)
        figure = plots.plot_keypoints_grid(test, predicted, recipe=name, rows=2)
        plots.save_figure(figure, README.parent / "docs" / "images" / IMAGES[name], dpi=100)


if __name__ == "__main__":
    if "--image" in sys.argv:
        draw_images()
    if "--study" in sys.argv:
        draw_study()
    if "--notebook" in sys.argv:
        run_notebook()
    fresh = rewritten(README.read_text())
    if "--write" in sys.argv:
        README.write_text(fresh)
    elif len(sys.argv) == 1 and fresh != README.read_text():
        sys.exit("README.md is stale: run make docs.")
