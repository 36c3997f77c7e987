"""Keras model to an ONNX file that gives pixels, compared with Keras before it is kept.

The file follows one contract, on which :mod:`facial_keypoints.models.runtime`, the web page and users of
ONNX Runtime rely: input ``image`` (N, H, W, C) uint8; outputs ``xy`` (N, S, K, 2) float32 in
input pixels and, where the model estimates it, ``confidence`` (N, S, K) float32 in [0, 1]; metadata
key ``facial_keypoints_spec`` with the model's description as JSON, and, where they are known,
``facial_keypoints_training_digests`` with the digests of the training images.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from facial_keypoints.errors import MissingExtraError, ModelError
from facial_keypoints.files import atomic_path
from facial_keypoints.models.keras_backend import import_keras
from facial_keypoints.models.registry import find_model, shipped_models
from facial_keypoints.models.runtime import Runtime, load_runtime, read_spec
from facial_keypoints.models.spec import (
    DIGESTS_KEY,
    METADATA_KEY,
    ModelSpec,
    digests_to_text,
    read_embedded_digests,
    read_embedded_spec,
)
from facial_keypoints.types import ImageArray

if TYPE_CHECKING:
    import keras
    import onnx

__all__ = ["OPSET", "export_onnx", "halve_weights"]

OPSET = 17
"""Of the ONNX standard; ONNX Runtime Web and every onnxruntime since 1.12 run it."""

LARGEST_DIFFERENCE_PX = 1e-2
"""Between Keras and ONNX on the same images; float32 rounding in another order stays below it."""


def export_onnx(
    model: str | os.PathLike[str], out: str | os.PathLike[str], *, samples: ImageArray | None = None
) -> ModelSpec:
    """Export a Keras model to ONNX.

    Nothing is left at ``out`` unless ONNX Runtime and Keras agree to a hundredth of a pixel on
    random images, on drawn faces and on ``samples``, alone and in batches. Of a shipped model, the ONNX file that
    is shipped with it is copied.

    Args:
        model: ``default``, a run folder or a ``.keras`` file.
        out: The file to write; replaced in one step.
        samples: (B, H, W, C) uint8 images to compare on as well.

    Returns:
        The model's description, as it stands in the file.

    Raises:
        ModelError: The model cannot be opened, cannot be expressed in ONNX, or gives other points there.
        MissingExtraError: Keras or the converter is not installed.
        OutputError: The file cannot be written.
    """
    if str(model) in shipped_models():
        with atomic_path(Path(out)) as temporary:
            shutil.copyfile(find_model(model), temporary)
        return read_spec(model)
    path = find_model(model, trainable=True)
    spec = read_embedded_spec(path)
    metadata = {METADATA_KEY: spec.to_json()}
    if (digests := read_embedded_digests(path)) is not None:
        metadata[DIGESTS_KEY] = digests_to_text(digests)
    import_keras()
    from facial_keypoints.models.keras_model import load_decoded

    reference = load_runtime(path)
    decoded = load_decoded(path, spec)
    with atomic_path(Path(out)) as temporary:
        _convert(decoded, spec, temporary)
        # Keras writes the outputs in the order of their names.
        _finish(temporary, metadata, sorted(decoded.output))
        difference = _difference(reference, load_runtime(temporary), samples)
        if not difference < LARGEST_DIFFERENCE_PX:
            raise ModelError(
                f"the exported model differs from {path} by {difference:.3g} px, so it was not kept: "
                "report this with the versions that 'facial-keypoints --version' shows."
            )
    return spec


def _convert(decoded: keras.Model, spec: ModelSpec, path: Path) -> None:
    import keras

    image = keras.InputSpec(
        shape=(None, *spec.input_size, spec.channels), dtype="uint8", name="image"
    )
    try:
        with warnings.catch_warnings():
            # Keras 3.15 asks numpy for names that tf2onnx needs and numpy 2 announces anew.
            warnings.simplefilter("ignore", FutureWarning)
            decoded.export(
                path, format="onnx", opset_version=OPSET, verbose=False, input_signature=[image]
            )
    except ImportError as error:
        # Keras converts with another package on each backend, and names it in its message only.
        if (backend := keras.backend.backend()) != "tensorflow":
            raise ModelError(
                f"exporting with the {backend} backend needs a further package ({error}); or export with "
                "KERAS_BACKEND=tensorflow, which 'facial-keypoints[train]' brings."
            ) from error
        raise MissingExtraError(error.name or "tf2onnx", "train", "Exporting to ONNX") from error


def _finish(path: Path, metadata: dict[str, str], outputs: Sequence[str]) -> None:
    """Give the batch axis and the outputs the names of the contract, and add the description.

    Args:
        path: The file to change.
        metadata: The description and the digests, by their keys.
        outputs: Names of the outputs in the file's order.
    """
    import onnx

    model = onnx.load(str(path))
    for value, name in zip(model.graph.output, outputs, strict=True):
        for node in model.graph.node:  # TensorFlow names them already, PyTorch and JAX do not
            node.output[:] = [name if n == value.name else n for n in node.output]
            node.input[:] = [name if n == value.name else n for n in node.input]
        value.name = name
    _reshape_first(model.graph)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _reshape_first(graph: Any) -> None:
    """Move a Reshape before the scalar arithmetic that feeds it, in place.

    Grey images are scaled as (N, H, W, 1), whose last axis of 1 keeps ONNX Runtime 1.32 from
    vectorising: 0.09 ms for each of the two operations, a quarter of the shipped model's time. The
    Reshape to (N, 1, H, W) that follows moves no numbers, so it may as well come first.
    """
    scalars = {i.name for i in graph.initializer if not i.dims}
    nodes = list(graph.node)
    for reshape in [n for n in nodes if n.op_type == "Reshape"]:
        made_by = {name: n for n in nodes for name in n.output}
        readers = Counter(name for n in nodes for name in n.input)
        chain: list[Any] = []
        name = reshape.input[0]
        while (
            (node := made_by.get(name)) is not None
            and node.op_type in {"Add", "Mul"}
            and len(node.input) == 2
            and node.input[1] in scalars
            and readers[name] == 1
        ):
            chain.insert(0, node)
            name = node.input[0]
        if not chain:
            continue
        result, early = reshape.output[0], f"{reshape.output[0]}_first"
        reshape.input[0], reshape.output[0] = name, early
        chain[0].input[0], chain[-1].output[0] = early, result
        nodes.remove(reshape)
        nodes.insert(nodes.index(chain[0]), reshape)
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)


def _difference(keras_model: Runtime, onnx_model: Runtime, samples: ImageArray | None) -> float:
    """Largest difference in pixels, or in confidence, whose whole range is 1."""
    spec = keras_model.spec
    shape = (*spec.input_size, spec.channels)
    rng = np.random.default_rng(0)
    sets = [rng.integers(0, 256, (3, *shape), dtype=np.uint8), _drawn(spec)]
    if samples is not None:
        sets.append(samples)
    differences = []
    for images in sets:
        for batch in (images, images[:1]):
            expected, expected_confidence = keras_model.run(batch)
            xy, confidence = onnx_model.run(batch)
            differences.append(np.abs(xy - expected).max())
            if expected_confidence is not None and confidence is not None:
                differences.append(np.abs(confidence - expected_confidence).max())
    return float(np.max(differences))  # NaN stays NaN, which is not below any limit


def _drawn(spec: ModelSpec) -> ImageArray:
    """Drawn faces at the model's input size."""
    from facial_keypoints.crops import letterbox
    from facial_keypoints.data.synthetic.faces import draw_kaggle_like

    faces = draw_kaggle_like(8, seed=0).images
    return np.stack([letterbox(face, spec.input_size, spec.channels)[0] for face in faces])


def halve_weights(graph: onnx.GraphProto) -> None:
    """Store kernels as float16, cast when the file is opened: half the size, the same speed."""
    import onnx

    for tensor in list(graph.initializer):
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype != np.float32 or array.size < 1024:
            continue
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float16), f"{name}_half"))
        graph.node.insert(
            0, onnx.helper.make_node("Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT)
        )
