from __future__ import annotations

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from facial_keypoints.models.codec import decode
from facial_keypoints.models.study import build_cnn, build_fc, build_specialists, start_at

pytestmark = pytest.mark.backends


def describe(model: keras.Model) -> list[tuple[str, tuple[int | None, ...]]]:
    skip = ("InputLayer", "Rescaling", "Dropout", "BatchNormalization", "Flatten", "Reshape")
    return [
        (type(layer).__name__, layer.output.shape[1:])
        for layer in model.layers
        if type(layer).__name__ not in skip
    ]


def test_the_fully_connected_network_is_the_studys() -> None:
    model = build_fc(15, (96, 96))
    assert describe(model) == [("Dense", (128,)), ("Dense", (64,)), ("Dense", (30,))]
    assert model.count_params() == 9216 * 128 + 128 + 128 * 64 + 64 + 64 * 30 + 30


def test_the_convolutional_network_is_the_studys() -> None:
    model = build_cnn(15, (96, 96))
    assert describe(model) == [
        ("Conv2D", (96, 96, 16)), ("MaxPooling2D", (48, 48, 16)),
        ("Conv2D", (44, 44, 32)), ("MaxPooling2D", (22, 22, 32)),
        ("Conv2D", (18, 18, 64)), ("MaxPooling2D", (9, 9, 64)),
        ("Conv2D", (7, 7, 128)), ("MaxPooling2D", (3, 3, 128)),
        ("Dense", (500,)), ("Dense", (128,)), ("Dense", (30,)),
    ]  # fmt: skip
    dropouts = [layer.rate for layer in model.layers if type(layer).__name__ == "Dropout"]
    assert dropouts == [0.1, 0.2, 0.4, 0.1, 0.1]


def test_images_too_small_for_the_poolings_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 56×56 pixels, received 40×96"):
        build_cnn(15, (96, 40))
    assert build_cnn(15, (56, 60)).output_shape == (None, 15, 2)


def test_a_network_can_start_at_given_points() -> None:
    model = build_fc(2, (8, 6))
    points = np.array([[1.0, 2.0], [5.0, 7.5]])

    start_at(model, points)

    images = np.random.default_rng(0).integers(0, 256, (3, 8, 6, 1), np.uint8)
    np.testing.assert_allclose(decode(np.asarray(model(images)), (8, 6)), [points] * 3, atol=1e-5)


def test_specialists_answer_in_schema_order() -> None:
    def constant(values: list[float]) -> keras.Model:
        inputs = keras.Input((8, 6, 1))
        x = keras.layers.Flatten()(inputs)
        x = keras.layers.Dense(2 * len(values), kernel_initializer="zeros", name="answer")(x)
        model = keras.Model(inputs, keras.layers.Reshape((len(values), 2))(x))
        kernel, _ = model.get_layer("answer").get_weights()
        model.get_layer("answer").set_weights([kernel, np.repeat(values, 2).astype(np.float32)])
        return model

    joined = build_specialists([constant([2.0, 0.0]), constant([1.0])], [[2, 0], [1]], (8, 6))
    answer = joined.predict(np.ones((3, 8, 6, 1), np.uint8), verbose=0)
    assert answer[0].tolist() == [[0, 0], [1, 1], [2, 2]]
    assert answer.shape == (3, 3, 2)


def test_specialists_must_cover_each_keypoint_once() -> None:
    with pytest.raises(ValueError, match="once"):
        build_specialists([build_fc(1, (8, 8)), build_fc(2, (8, 8))], [[0], [0, 1]], (8, 8))
