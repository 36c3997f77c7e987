# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Facial keypoints detection
#
# Where are the eyes, the nose and the mouth in a 96×96 grey image of a face? This notebook tells
# the story of the well-known study on Kaggle's *Facial Keypoints Detection* data: look at the data,
# deal with the missing labels, train a fully connected network, a convolutional one, and the same
# one on mirrored faces, and compare them by
#
# $$\mathrm{RMSE} = \sqrt{\mathrm{mean}\,(y - \hat y)^2}$$
#
# in pixels on faces that none of them has seen.
#
# It runs on faces that the package draws itself. With Kaggle's own files, set
# `FACIAL_KEYPOINTS_DATA` to their folder and run it again.

# %%
import os
import tempfile
from pathlib import Path

import numpy as np
from IPython.display import Image, display

from facial_keypoints.models.keras_backend import choose_backend

choose_backend()  # TensorFlow unless KERAS_BACKEND says otherwise

from facial_keypoints.data.kaggle import load_kaggle
from facial_keypoints.data.missing import fill_missing
from facial_keypoints.data.synthetic.faces import draw_kaggle_like
from facial_keypoints.evaluation import plots
from facial_keypoints.evaluation.scores import evaluate_predictions
from facial_keypoints.training.fit import predict_keypoints, split_faces, train
from facial_keypoints.training.recipes import RECIPES

FACES = int(os.environ.get("NOTEBOOK_FACES", "1500"))
EPOCHS = int(os.environ.get("NOTEBOOK_EPOCHS", "15"))
DATA = os.environ.get("FACIAL_KEYPOINTS_DATA")
RUNS = Path(tempfile.mkdtemp())


def show(figure, dpi=70):
    """Show a figure in the notebook."""
    display(Image(plots.save_figure(figure, RUNS / "figure.png", dpi=dpi)))


# %% [markdown]
# ## The data
#
# `training.csv` has one row a face: 30 columns with the x and y of 15 keypoints, and a column
# `Image` with 96 × 96 pixel values as text. Loading makes arrays of it: images as bytes, points in
# pixels, NaN where a point is not labelled.

# %%
faces = load_kaggle(DATA) if DATA else draw_kaggle_like(FACES, seed=0)
print(faces.images.shape, faces.images.dtype, faces.keypoints.xy.shape)
faces.schema.keypoint_names

# %% [markdown]
# ### Labels are missing, and there are two kinds of rows
#
# Most rows label four points only. Those rows were labelled by other people with other rules: their
# "nose tip" is the base of the nose, their "bottom lip" the centre of the mouth. We call the two
# kinds *label styles* and report errors for each.

# %%
show(plots.plot_missing_labels(faces))
dict(zip(*np.unique(faces.styles, return_counts=True), strict=True))

# %% [markdown]
# ## Cleaning: what to do about a missing point
#
# The study filled each gap by interpolating down its column, from one face to the next: a made-up
# label from two other people's faces. Leaving incomplete rows out (`drop`) throws most faces away.
# `mask` fills nothing: an unlabelled point gets weight 0 in the loss.

# %%
point = faces.schema.index("mouth_left_corner")
for strategy in ("mask", "interpolate", "drop"):
    filled = fill_missing(faces, strategy)
    print(f"{strategy:12} {len(filled):5} rows, {filled.label_counts[point]:5} left mouth corners")

# %% [markdown]
# ## A split that does not flatter
#
# Images of one person, and near-duplicates of one image, stay on one side. A random split would
# put the same person into training and test, and report an error that no new face would see.

# %%
faces, [split], _ = split_faces(faces, seed=0)
test = faces.subset(split.test)
print(len(split.train), "train,", len(split.val), "choose the epoch,", len(test), "test")

# %% [markdown]
# ## Three networks
#
# Targets are (x − 48) / 48. The recipes hold everything else: layers, optimiser, batch size, epochs.
# To be done in minutes, this notebook takes fewer epochs than they ask for, in smaller batches.

# %%
results = {}
runs = {}
for name, factor in {"fc": 3, "cnn": 1, "cnn-flip": 1}.items():
    recipe = RECIPES[name].override(epochs=EPOCHS * factor, batch_size=32)
    runs[name] = train(faces, split, recipe, RUNS / name, seed=0)
    predicted = predict_keypoints(runs[name].load_model(), test.images)
    results[name] = predicted
    scores = evaluate_predictions(test, predicted)
    styles = "  ".join(f"{s} {r.rmse_px:.2f}" for s, r in scores.by_style.items())
    low, high = scores.overall.rmse_interval
    print(f"{name:9} {scores.overall.rmse_px:.2f} px [{low:.2f}, {high:.2f}]   {styles}")

# %% [markdown]
# The number of the study is the first one. The interval is a bootstrap over persons: with other test
# faces the number would probably have been somewhere in it.

# %%
show(plots.plot_learning_curves({name: run.history for name, run in runs.items()}))

# %% [markdown]
# ## Looking at predictions
#
# Numbers hide a lot. First the convolutional network, then the fully connected one.

# %%
show(plots.plot_keypoints_grid(test, results["cnn"], recipe="cnn"))

# %%
show(plots.plot_keypoints_grid(test, results["fc"], recipe="fc"))

# %% [markdown]
# And the faces on which the mirrored training does best and worst:

# %%
show(plots.plot_worst_best(test, results["cnn-flip"], recipe="cnn-flip"))

# %% [markdown]
# ## The same in one command
#
# ```console
# facial-keypoints compare -o out                    # these drawn faces
# facial-keypoints compare --data kaggle/ -o out     # Kaggle's files, with a submission per recipe
# ```
