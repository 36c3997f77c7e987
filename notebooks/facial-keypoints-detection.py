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
# Where are the eyes, the nose and the mouth in a grey image of a face? Here are six faces with the
# points that people have marked in them.
#
# The notebook runs on faces that the package draws itself. To run it on Kaggle's files, set `DATA` to
# the folder that holds `training.csv` and run all cells again.

# %%
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # no start-up notices of TensorFlow

import keras
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from keras import layers
from matplotlib_inline.backend_inline import set_matplotlib_formats

from facial_keypoints import load_predictor
from facial_keypoints.data.audit import audit
from facial_keypoints.data.kaggle import load_kaggle
from facial_keypoints.data.missing import fill_missing
from facial_keypoints.data.synthetic.faces import draw_kaggle_like
from facial_keypoints.evaluation import plots
from facial_keypoints.geometry import flip_images, flip_xy
from facial_keypoints.training.fit import predict_keypoints, split_faces, train
from facial_keypoints.training.recipes import RECIPES

DATA = None  # or the folder with Kaggle's training.csv, such as "kaggle/"
EPOCHS, BATCH = 12, 16  # few, to be done in minutes; take 60 and 128 if you have an hour
SEEDS = (0, 1, 2)
RUNS = Path(tempfile.mkdtemp())

set_matplotlib_formats("jpeg", pil_kwargs={"quality": 80})  # small files
plt.rcParams["figure.dpi"] = 150

faces = load_kaggle(DATA) if DATA else draw_kaggle_like(1000, seed=0)


def show(image, points, axes, title=""):
    """One face with its points; missing points are NaN, which matplotlib leaves out."""
    axes.imshow(image, cmap="gray")
    axes.scatter(*points.T, s=6, color="deepskyblue")
    axes.set_title(title, fontsize=8)
    axes.axis("off")


figure, row = plt.subplots(1, 6, figsize=(9, 1.8))
for axes, i in zip(row, plots.pick_faces(faces, 6), strict=True):
    show(faces.images[i], faces.keypoints.xy[i], axes, faces.styles[i])

# %% [markdown]
# ## The task
#
# A network gets 96 × 96 grey values and gives 30 numbers: x and y of 15 points, in pixels. The data
# has a row for each face. We write $y$ for the labelled coordinates and $\hat y$ for the predicted
# ones, and measure
#
# $$\mathrm{RMSE} = \sqrt{\mathrm{mean}\,(y - \hat y)^2}$$
#
# over all labelled coordinates of faces that the network has never seen. Kaggle ranks by this number.

# %%
print("images", faces.images.shape, " points", faces.keypoints.xy.shape)
print(", ".join(faces.schema.keypoint_names))


def rmse(labels, predicted):
    """Both (faces, 15, 2) pixels; coordinates without a label (NaN) do not count."""
    return float(np.sqrt(np.nanmean((labels - predicted) ** 2)))


# %% [markdown]
# ## Labels are missing
#
# Most rows label four points only. Other people made them, with other rules: their "nose tip" is the
# base of the nose, their "bottom lip" the centre of the mouth. The package calls the two kinds
# *label styles* A (15 points) and B (4 points).

# %%
missing_chart = plots.plot_missing_labels(faces)
missing_chart.set_dpi(150)
missing_chart

# %% [markdown]
# ## Cleaning
#
# The audit looks for labels outside the image, swapped sides, improbable shapes, and for images that
# are there twice.

# %%
found = audit(faces)
print(f"{found.exact_rows} rows share their image with another row")
print(f"{len(found.flags)} warnings about labels")
for flag in found.flags[:3]:
    print(f"  row {flag.row}: {flag.reason}")

# %% [markdown]
# Copies must not be on both sides of a split, or the test would reward learning by heart. So near-
# duplicates, and images of one person where persons are known, stay together.

# %%
faces, [split], _ = split_faces(faces, seed=0)
training, test = faces.subset(split.train), faces.subset(split.test)
print(f"{len(training)} faces to train, {len(split.val)} to choose the epoch, {len(test)} to test")

# %% [markdown]
# ## Filling the missing labels
#
# The study fills a gap by interpolation down the column: between the last face above and the next face
# below that have the label. That is a label made of two other people's faces. The package's own
# default is to invent nothing and to give a missing point weight 0 (`mask`). We follow the study for
# the two networks that come now. Only training faces are filled, never test faces.

# %%
filled = fill_missing(training, "interpolate")
for name, rows in {"as they are": training, "interpolated": filled}.items():
    print(f"{name:13} {np.isnan(rows.keypoints.xy).mean():6.1%} of the coordinates are missing")

# %% [markdown]
# Networks learn better from small numbers, so the targets are (x − 48) / 48: from −1 to 1.

# %%
targets = (filled.keypoints.xy - 48) / 48
steps = EPOCHS * -(-len(targets) // BATCH)  # -(-a // b) rounds up


def pixels(model, images):
    """The model's answers in pixels."""
    return model.predict(images, verbose=0) * 48 + 48


mean_face = np.nanmean(training.keypoints.xy, axis=0)
print(f"the mean of all training faces as the answer: {rmse(test.keypoints.xy, mean_face):.2f} px")

# %% [markdown]
# A network that is not clearly better than that has learnt little. So let both networks *begin* there: their
# last layer gets no weights, only the mean face as its bias. With random weights the first epochs would
# go into finding the mean face, and dropout, which blots out a part of the units at random, would shake
# the whole face and not just what is special about it.

# %%
mean_start = {
    "kernel_initializer": "zeros",
    "bias_initializer": keras.initializers.Constant(targets.mean(axis=0).ravel()),
}

# %% [markdown]
# ## A fully connected network
#
# Each unit sees all 9,216 pixels. An epoch takes a moment, so it gets three times as many.

# %%
keras.utils.set_random_seed(0)
fc = keras.Sequential([keras.Input((96, 96, 1)), layers.Rescaling(1 / 255), layers.Flatten()])
fc.add(layers.Dense(128, activation="relu"))
fc.add(layers.Dropout(0.1))
fc.add(layers.Dense(64, activation="relu"))
fc.add(layers.Dense(30, **mean_start))
fc.add(layers.Reshape((15, 2)))
rate = keras.optimizers.schedules.CosineDecay(0.1, 3 * steps)
fc.compile(keras.optimizers.SGD(rate, momentum=0.9, nesterov=True), loss="mean_squared_error")
fc.fit(filled.images, targets, batch_size=BATCH, epochs=3 * EPOCHS, verbose=0)
print(f"fully connected: {rmse(test.keypoints.xy, pixels(fc, test.images)):.2f} px")

# %% [markdown]
# ## A convolutional network
#
# A convolution looks for the same small pattern at each place; pooling halves the image after it. Four
# of these blocks, then two layers that turn what was found into coordinates.

# %%
keras.utils.set_random_seed(0)
cnn = keras.Sequential([keras.Input((96, 96, 1)), layers.Rescaling(1 / 255)])
for filters, size, dropout in [(16, 2, 0.1), (32, 5, 0.2), (64, 5, 0.0), (128, 3, 0.4)]:
    cnn.add(layers.Conv2D(filters, size, activation="relu"))
    cnn.add(layers.Dropout(dropout))
    cnn.add(layers.MaxPooling2D())
    cnn.add(layers.BatchNormalization())
cnn.add(layers.Flatten())
for units in (500, 128):
    cnn.add(layers.Dense(units, activation="relu"))
    cnn.add(layers.Dropout(0.1))
cnn.add(layers.Dense(30, **mean_start))
cnn.add(layers.Reshape((15, 2)))
rate = keras.optimizers.schedules.CosineDecay(0.001, steps)
cnn.compile(keras.optimizers.Adam(rate), loss="mean_squared_error")
history = cnn.fit(filled.images, targets, batch_size=BATCH, epochs=EPOCHS, verbose=0)
print(f"convolutional: {rmse(test.keypoints.xy, pixels(cnn, test.images)):.2f} px")

# %%
figure, axes = plt.subplots(figsize=(5, 2.5))
axes.plot(range(1, EPOCHS + 1), 48 * np.sqrt(history.history["loss"]))
_ = axes.set(xlabel="epoch", ylabel="training RMSE, px", yscale="log")

# %% [markdown]
# ### The package's recipe
#
# The recipe `cnn` is this network with its training. It fills nothing, keeps the weights of the epoch
# that is best on the validation faces, and can go on after an interruption. `fc` is the other
# network. Both begin at the mean face too.

# %%
print(RECIPES["cnn"])
print(f"weights of the network above: {cnn.count_params():,}")

# %% [markdown]
# ## Mirrored faces
#
# A mirrored face is a new face, for free. But *left* is the person's own left: in a mirrored image the
# left eye is where the right one was. If only x is mirrored, each pair of labels is on the wrong side
# (red: `left_...` labels).

# %%
row = int(np.flatnonzero(training.keypoints.labeled.all(axis=1))[0])
image, points = training.images[row], training.keypoints.xy[row]
left = np.array([name.startswith(("left_", "mouth_left")) for name in faces.schema.keypoint_names])
mirrored = flip_images(image[None])[0]
unswapped = np.stack([95 - points[:, 0], points[:, 1]], axis=1)
swapped = flip_xy(points[None], 96, faces.schema)[0]

figure, columns = plt.subplots(1, 3, figsize=(7, 2.6))
for axes, title, pixel_values, xy in zip(
    columns,
    ("as it is", "mirrored, sides not swapped: wrong", "mirrored and swapped: right"),
    (image, mirrored, mirrored),
    (points, unswapped, swapped),
    strict=True,
):
    show(pixel_values, xy, axes, title)
    axes.scatter(*xy[left].T, s=6, color="red")

# %% [markdown]
# ## The same CNN, trained on mirrored faces too, and each network three times
#
# The recipe `cnn-flip` mirrors half of the faces, others in each epoch. Chance decides where a
# network starts and in which order it sees the faces, so one number a network says little: each recipe
# is trained with three seeds, and all are tested on the same faces.

# %%
errors, answers = {}, {}
for name, factor in {"fc": 3, "cnn": 1, "cnn-flip": 1}.items():
    recipe = RECIPES[name].override(epochs=EPOCHS * factor, batch_size=BATCH)
    errors[name] = []
    for seed in SEEDS:
        model = train(faces, split, recipe, RUNS / f"{name}-{seed}", seed=seed).load_model()
        predicted = predict_keypoints(model, test.images)
        errors[name].append(rmse(test.keypoints.xy, predicted))
        answers.setdefault(name, predicted)  # of the first seed, to look at
    listed = "  ".join(f"{error:.2f}" for error in errors[name])
    print(f"{name:9} {listed}   mean {np.mean(errors[name]):.2f} px")

# %% [markdown]
# The networks further up learnt interpolated labels, these ones (`mask`) only real ones: compare their errors.
#
# Is one network better than another? The seeds support it only if the *worst* seed of one is better
# than the *best* seed of the other. And even that is about these test faces only.

# %%
names = list(errors)
for i, a in enumerate(names):
    for b in names[i + 1 :]:
        better, other = sorted((a, b), key=lambda name: np.mean(errors[name]))
        apart = max(errors[better]) < min(errors[other])
        print(f"{better} better than {other}: {'all seeds agree' if apart else 'not shown'}")

# %% [markdown]
# ## Predictions on held-out faces
#
# Numbers hide a lot. Rings are labels, dots are predictions: first the CNN, then the fully connected
# network, on the same faces.

# %%
for name in ("cnn", "fc"):
    figure = plots.plot_keypoints_grid(test, answers[name], recipe=name, rows=2)
    figure.set_dpi(150)
    display(figure)

# %% [markdown]
# ## The shipped model on the same faces
#
# `default` comes with the package. It was trained on many thousands of photographs and knows both label
# styles. It has never seen a drawn face. With Kaggle's files its error here is too low: it
# learnt from them (an honest number is in
# [docs/results.md](../docs/results.md#the-whole-family-on-the-same-faces)).

# %%
shipped = load_predictor().predict_batch(test.images, styles=test.styles).xy
figure = plots.plot_keypoints_grid(test, shipped, recipe="default", rows=2)
figure.set_dpi(150)
figure

# %% [markdown]
# ## What to try next
#
# - Kaggle's files instead of drawn faces: set `DATA` above, and more epochs.
# - Let the networks begin with random weights in the last layer: leave `**mean_start` out. How many epochs
#   does it take them to be as good?
# - Other ways to treat missing labels: `RECIPES["cnn"].override(missing="interpolate")`, `"mean"`,
#   `"drop"`. Which is best, with three seeds each?
# - A network of your own in the place of the CNN. Does it need dropout? Does it need 500 units?
# - More than mirroring: move, turn and scale faces by a little. The points must move with them.
# - The whole study in one command, with intervals, a report and a file to submit to Kaggle:
#
# ```console
# facial-keypoints compare --data kaggle/ --seeds 3 -o out
# ```
