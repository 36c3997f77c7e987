"""An ONNX model that needs no training: every keypoint is at the brightest pixel plus an offset."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from facial_keypoints.models.spec import DIGESTS_KEY, METADATA_KEY, ModelSpec, digests_to_text
from facial_keypoints.schemas import FIVE

SPEC = ModelSpec(
    name="spot",
    schema=FIVE,
    input_size=(32, 32),
    styles=("kaggle-b", "kaggle-a"),
    confidence="always half",
)


def offsets(spec: ModelSpec) -> np.ndarray:
    """(1, S, K, 2): style s moves a point right by s pixels, and x only."""
    out = np.zeros((1, len(spec.styles), spec.schema.num_keypoints, 2), np.float32)
    out[..., 0] = np.arange(len(spec.styles))[:, None]
    return out


def spot_model(
    path: Path,
    spec: ModelSpec = SPEC,
    *,
    metadata: bool = True,
    graph_spec: ModelSpec | None = None,
    digests: Iterable[bytes] | None = None,
) -> Path:
    """Write the model; ``graph_spec`` makes the graph differ from its description.

    ``digests`` are those of the images that it claims to have learnt from.
    """
    graph_spec = graph_spec or spec
    height, width = graph_spec.input_size
    s, k = len(graph_spec.styles), graph_spec.schema.num_keypoints
    constants = {
        "flat": np.array([-1, height * width], np.int64),
        "width": np.array(width, np.int64),
        "point": np.array([-1, 1, 1, 2], np.int64),
        "offsets": offsets(graph_spec),
        "zero": np.zeros((1, s, k), np.float32),
        "half": np.array(0.5, np.float32),
        "first": np.array([-1, 1, 1], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["numbers", "flat"], ["rows"]),
        helper.make_node("ArgMax", ["rows"], ["index"], axis=1, keepdims=1),
        helper.make_node("Mod", ["index", "width"], ["x"]),
        helper.make_node("Div", ["index", "width"], ["y"]),
        helper.make_node("Concat", ["x", "y"], ["pair"], axis=1),
        helper.make_node("Cast", ["pair"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["pixels", "point"], ["spot"]),
        helper.make_node("Add", ["spot", "offsets"], ["xy"]),
        helper.make_node("ReduceMin", ["spot"], ["least"], axes=[3], keepdims=0),
        helper.make_node("Mul", ["least", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "half"], ["confidence"]),
    ]
    graph = helper.make_graph(
        nodes,
        "spot",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", height, width, 1])],
        [
            helper.make_tensor_value_info("xy", TensorProto.FLOAT, ["N", s, k, 2]),
            helper.make_tensor_value_info("confidence", TensorProto.FLOAT, ["N", s, k]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if metadata:
        claims = {} if digests is None else {DIGESTS_KEY: digests_to_text(digests)}
        helper.set_model_props(model, {METADATA_KEY: spec.to_json(), **claims})
    onnx.save(model, str(path))
    return path
