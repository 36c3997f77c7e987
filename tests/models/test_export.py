from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from command_line import command_line

keras = pytest.importorskip("keras")
onnx = pytest.importorskip("onnx")

from facial_keypoints.errors import MissingExtraError, ModelError
from facial_keypoints.models import export
from facial_keypoints.models.codec import decode
from facial_keypoints.models.export import OPSET, export_onnx
from facial_keypoints.models.keras_model import load_keras_model, with_decoding
from facial_keypoints.models.landmark import NetworkConfig, Stage, build_network
from facial_keypoints.models.registry import find_model
from facial_keypoints.models.runtime import Runtime, load_runtime, read_spec, read_training_digests
from facial_keypoints.models.spec import METADATA_KEY, ModelSpec, embed_digests, embed_spec
from facial_keypoints.models.study import build_cnn, build_fc, build_specialists
from facial_keypoints.schemas import KAGGLE15
from spot_model import SPEC as SPOT
from spot_model import spot_model

STUDY = ModelSpec("fc", KAGGLE15, (40, 32))
POINTS = ModelSpec("landmark", KAGGLE15, (32, 32), styles=KAGGLE15.styles, output="points")


def small_landmark() -> keras.Model:
    return build_network(NetworkConfig((Stage("ir", 8, 1),), stem_channels=8, input_size=(32, 32)))


def small_specialists() -> keras.Model:
    groups = [[0, 2], [1]]
    experts = [build_cnn(len(g), (56, 57), name=f"e{i}") for i, g in enumerate(groups)]
    return build_specialists(experts, groups, (56, 57))


THREE = replace(
    KAGGLE15,
    name="three",
    keypoint_names=KAGGLE15.keypoint_names[:3],
    swap=(1, 0, 2),
    edges=(),
)
MODELS: dict[str, tuple[Callable[[], keras.Model], ModelSpec]] = {
    "fc": (lambda: build_fc(15, (40, 32)), STUDY),
    "cnn": (lambda: build_cnn(15, (56, 57)), replace(STUDY, input_size=(56, 57))),
    "specialists": (small_specialists, ModelSpec("specialists", THREE, (56, 57))),
    "landmark": (small_landmark, POINTS),
}


def saved(path: Path, name: str = "fc") -> Path:
    """A model with random weights, saved as training saves it."""
    keras.utils.set_random_seed(3)
    build, spec = MODELS[name]
    build().save(path)
    embed_spec(path, spec)
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, ModelSpec]]:
    """Run folders with a model in both forms, exported once each and to be read only."""

    @cache
    def folder_and_spec(name: str) -> tuple[Path, ModelSpec]:
        run = tmp_path_factory.mktemp(name)
        saved(run / "model.keras", name)
        return run, export_onnx(run, run / "model.onnx")

    return folder_and_spec


@pytest.mark.parametrize("name", MODELS)
def test_onnx_answers_what_keras_answers(
    name: str, exported: Callable[[str], tuple[Path, ModelSpec]]
) -> None:
    run, spec = exported(name)
    assert spec == MODELS[name][1]
    ours, theirs = load_runtime(run / "model.onnx"), load_runtime(run)
    assert ours.spec == theirs.spec == spec
    images = np.random.default_rng(5).integers(
        0, 256, (5, *spec.input_size, spec.channels), dtype=np.uint8
    )
    for batch in (images, images[:1], images[:0]):
        xy, confidence = ours.run(batch)
        expected, sure = theirs.run(batch)
        assert xy.shape == (len(batch), len(spec.styles), spec.schema.num_keypoints, 2)
        np.testing.assert_allclose(xy, expected, atol=1e-3)
        assert (confidence is None) == (sure is None) == (name != "landmark")
        if confidence is not None:
            np.testing.assert_allclose(confidence, sure, atol=1e-5)
    # Different images have different answers: agreement on a constant would show nothing.
    assert np.ptp(theirs.run(images)[0], axis=0).max() > 0.01


def test_the_file_keeps_to_the_contract(
    exported: Callable[[str], tuple[Path, ModelSpec]],
) -> None:
    model = onnx.load(str(exported("landmark")[0] / "model.onnx"))
    assert {o.version for o in model.opset_import if o.domain == ""} == {OPSET}
    assert model.ir_version <= 8

    def shape(value: onnx.ValueInfoProto) -> list[object]:
        return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]

    [image] = model.graph.input
    assert (image.name, shape(image)) == ("image", ["N", 32, 32, 1])
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert {o.name: shape(o) for o in model.graph.output} == {
        "xy": ["N", 4, 15, 2],
        "confidence": ["N", 4, 15],
    }


def test_outputs_get_the_contracts_names_whatever_the_converter_called_them(tmp_path: Path) -> None:
    # PyTorch's and JAX's converters number the outputs, in the order that Keras flattens them in.
    model = onnx.load(str(spot_model(tmp_path / "m.onnx", metadata=False)))
    for node in model.graph.node:
        node.output[:] = [{"xy": "7", "confidence": "9"}.get(name, name) for name in node.output]
    values = {value.name: value for value in model.graph.output}
    values["xy"].name, values["confidence"].name = "7", "9"
    ordered = [values["confidence"], values["xy"]]
    model.graph.ClearField("output")
    model.graph.output.extend(ordered)
    onnx.save(model, str(tmp_path / "m.onnx"))
    export._finish(tmp_path / "m.onnx", {METADATA_KEY: SPOT.to_json()}, ["confidence", "xy"])
    image = np.zeros((1, 32, 32, 1), np.uint8)
    image[0, 5, 9] = 200
    xy, confidence = load_runtime(tmp_path / "m.onnx").run(image)
    assert xy[0, 0, 0].tolist() == [9, 5]
    assert confidence is not None
    assert confidence[0, 0, 0] == 0.5


def test_the_studys_targets_become_pixels(tmp_path: Path) -> None:
    file = saved(tmp_path / "model.keras")
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 32, 1), dtype=np.uint8)
    bare = np.asarray(load_keras_model(file).predict(images, verbose=0))
    xy, confidence = load_runtime(file).run(images)
    np.testing.assert_allclose(xy[:, 0], decode(bare, (40, 32)), atol=1e-4)
    assert confidence is None


def test_confidence_is_the_probability_of_being_near() -> None:
    # With scale b the distance has the density d / b^2 exp(-d / b); within r = 1 px of 32 it holds
    # 1 - (1 + r / b) exp(-r / b): 0.264 for b = 1.
    image = keras.Input((32, 32, 1))
    numbers = keras.layers.Flatten()(image)
    answer = keras.layers.Dense(4 * 15 * 3, kernel_initializer="zeros", name="numbers")(numbers)
    model = keras.Model(image, keras.layers.Reshape((4, 15, 3))(answer))
    bias = np.zeros((4, 15, 3), np.float32)
    bias[0, 0] = (7, 8, 0.0)
    bias[3, 14] = (9, 10, np.log(0.5))
    model.get_layer("numbers").set_weights([np.zeros((1024, 180), np.float32), bias.ravel()])
    found = with_decoding(model, POINTS).predict(np.zeros((1, 32, 32, 1), np.uint8), verbose=0)
    assert found["xy"][0, 0, 0].tolist() == [7, 8]
    assert found["xy"][0, 3, 14].tolist() == [9, 10]
    assert found["confidence"][0, 0, 0] == pytest.approx(1 - 2 * np.exp(-1), abs=1e-6)
    assert found["confidence"][0, 3, 14] == pytest.approx(1 - 3 * np.exp(-2), abs=1e-6)


class Shifted:
    """A runtime that answers a little to the right of another."""

    def __init__(self, runtime: Runtime, shift: float) -> None:
        self.runtime, self.shift, self.spec = runtime, shift, runtime.spec

    def run(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        xy, confidence = self.runtime.run(images)
        return xy + np.float32(self.shift), confidence


@pytest.mark.parametrize("shift", [0.02, np.nan])
def test_a_file_that_answers_otherwise_is_not_kept(
    shift: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = saved(tmp_path / "model.keras")

    def load(model: Path) -> Runtime:
        runtime = load_runtime(model)
        return runtime if model == file else Shifted(runtime, shift)

    monkeypatch.setattr(export, "load_runtime", load)
    (tmp_path / "model.onnx").write_text("old")
    with pytest.raises(ModelError, match="px, so it was not kept"):
        export_onnx(file, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.keras", "model.onnx"]


def test_given_images_are_compared_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = saved(tmp_path / "model.keras")
    seen: list[int] = []

    class Counting(Shifted):
        def run(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
            seen.append(len(images))
            return super().run(images)

    monkeypatch.setattr(export, "load_runtime", lambda model: Counting(load_runtime(model), 0.0))
    export_onnx(file, tmp_path / "m.onnx", samples=np.zeros((11, 40, 32, 1), np.uint8))
    assert seen.count(11) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        replace(STUDY, styles=("a", "b")),
        replace(STUDY, input_size=(32, 40)),
        replace(STUDY, output="points"),
        replace(STUDY, output="newer"),
    ],
)
def test_a_network_that_contradicts_its_description_gets_a_sentence(
    wrong: ModelSpec, tmp_path: Path
) -> None:
    build_fc(15, (40, 32)).save(tmp_path / "m.keras")
    embed_spec(tmp_path / "m.keras", wrong)
    with pytest.raises(ModelError, match=r"description says|does not know"):
        export_onnx(tmp_path / "m.keras", tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


def test_an_onnx_file_is_not_exported_again(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is an ONNX model"):
        export_onnx(tmp_path / "m.onnx", tmp_path / "n.onnx")


def test_a_missing_converter_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = saved(tmp_path / "model.keras")
    monkeypatch.setitem(sys.modules, "tf2onnx", None)

    def refuse(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'tf2onnx'", name="tf2onnx")

    monkeypatch.setattr(keras.Model, "export", refuse)
    with pytest.raises(MissingExtraError, match=r"facial-keypoints\[train\]"):
        export_onnx(file, tmp_path / "m.onnx")


def test_the_command_exports_and_refuses_to_overwrite(tmp_path: Path) -> None:
    file = saved(tmp_path / "model.keras")
    for target, code, says in (
        ("m.onnx", 0, "wrote"),
        ("m.onnx", 1, "--force"),
        ("m.tflite", 1, "ends in .onnx"),
    ):
        done = command_line("export", file, "-o", tmp_path / target)
        assert done.returncode == code, done.stderr
        assert says in done.stderr
        assert "Traceback" not in done.stderr


def test_reshaping_moves_before_the_scaling_and_nothing_else_changes() -> None:
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    from facial_keypoints.models.export import _reshape_first

    nodes = [
        helper.make_node("Mul", ["x", "half"], ["a"]),
        helper.make_node("Add", ["a", "two"], ["b"]),
        helper.make_node("Reshape", ["b", "shape"], ["y"]),
    ]
    constants = {"half": np.float32(0.5), "two": np.float32(2), "shape": np.array([-1, 1, 4, 4])}
    graph = helper.make_graph(
        nodes,
        "scaling",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 4, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1, 4, 4])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    _reshape_first(model.graph)
    onnx.checker.check_model(model)
    assert [n.op_type for n in model.graph.node] == ["Reshape", "Mul", "Add"]
    x = np.arange(32, dtype=np.float32).reshape(2, 4, 4, 1)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], (x * 0.5 + 2).reshape(2, 1, 4, 4))


def test_the_export_keeps_the_digests_of_the_training_images(
    exported: Callable[[str], tuple[Path, ModelSpec]], tmp_path: Path
) -> None:
    run, _ = exported("fc")
    assert read_training_digests(run) is read_training_digests(run / "model.onnx") is None
    file, out = saved(tmp_path / "model.keras"), tmp_path / "model.onnx"
    digests = {b"12345", b"\0\0\0\0\0", b"abcd\n"}
    embed_digests(file, digests)
    export_onnx(file, out)
    assert read_training_digests(file) == read_training_digests(out) == digests


def test_of_a_shipped_model_the_shipped_file_is_written(tmp_path: Path) -> None:
    spec = export_onnx("default", tmp_path / "copy.onnx")
    assert (tmp_path / "copy.onnx").read_bytes() == find_model("default").read_bytes()
    assert spec == read_spec("default")
