import numpy as np
import pytest

pytest.importorskip("keras")

from facial_keypoints.models.keras_backend import choose_backend
from facial_keypoints.models.registry import find_model
from facial_keypoints.models.runtime import load_runtime, read_training_digests

choose_backend()
from references.ship import ship


@pytest.mark.slow
def test_a_shipped_model_is_half_as_large_and_gives_the_same_points(tmp_path):
    before = find_model("default", trainable=True)
    ship(before, tmp_path, "small")
    image = np.random.default_rng(0).integers(0, 256, (3, 96, 96, 1), np.uint8)
    expected = load_runtime(before).run(image)
    for name in ("small.onnx", "small.keras"):
        assert (tmp_path / name).stat().st_size < 0.6 * before.stat().st_size
        found = load_runtime(tmp_path / name)
        assert found.spec == load_runtime(before).spec
        assert read_training_digests(tmp_path / name) == read_training_digests(before)
        for one, other in zip(found.run(image), expected, strict=True):
            np.testing.assert_allclose(one, other, atol=0.05)
