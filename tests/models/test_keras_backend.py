"""The backend of Keras, and what another project's keras.json may change."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from facial_keypoints.errors import FacialKeypointsError
from facial_keypoints.models import keras_backend
from facial_keypoints.models.keras_backend import choose_backend


@pytest.mark.parametrize(
    ("name", "why"), [("jax", "not installed"), ("numpy", "no backend that trains")]
)
def test_a_backend_that_cannot_be_used_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, name: str, why: str
) -> None:
    find = keras_backend.importlib.util.find_spec
    monkeypatch.setattr(
        keras_backend.importlib.util,
        "find_spec",
        lambda n: find("json") if n in ("keras", "tensorflow") else None,
    )
    monkeypatch.setenv("KERAS_BACKEND", name)
    with pytest.raises(
        FacialKeypointsError, match=rf"'{name}', which is {why}: unset it or set it to tensorflow"
    ):
        choose_backend()


@pytest.mark.backends
def test_the_keras_json_of_another_project_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "keras.json").write_text(
        json.dumps({"floatx": "float16", "epsilon": 1e-3, "image_data_format": "channels_first"})
    )
    code = (
        "from facial_keypoints.models.keras_backend import import_keras; import_keras(); import keras;"
        "c = keras.config; print(c.floatx(), c.dtype_policy().name, c.epsilon(), c.image_data_format())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**keras_backend.os.environ, "KERAS_HOME": str(tmp_path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["float32", "float32", "1e-07", "channels_last"]
