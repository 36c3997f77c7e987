"""The description of a model in its file: schema, label styles, input, version, data.

The same JSON is an extra member of a ``.keras`` archive, part of an ONNX file's metadata, and a file
beside the weights of a run. The two model files also hold digests of the training images, so that
``evaluate`` can leave those images out.
"""

from __future__ import annotations

import base64
import json
import zipfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from facial_keypoints._version import __version__
from facial_keypoints.errors import ModelError
from facial_keypoints.types import KeypointSchema

__all__ = [
    "DIGESTS_KEY",
    "METADATA_KEY",
    "ModelSpec",
    "digests_from_text",
    "digests_to_text",
    "embed_digests",
    "embed_spec",
    "read_embedded_digests",
    "read_embedded_spec",
]

METADATA_KEY = "facial_keypoints_spec"
DIGESTS_KEY = "facial_keypoints_training_digests"
_MEMBER = f"{METADATA_KEY}.json"
_DIGESTS_MEMBER = f"{DIGESTS_KEY}.txt"
_DIGEST_BYTES = 5  # of data.duplicates.image_digests


@dataclass(frozen=True)
class ModelSpec:
    """What a caller must know to use a model.

    Args:
        name: Recipe that trained it.
        schema: Its keypoints.
        styles: Label styles that it predicts, in the order of its style axis; one empty name for a
            model without styles.
        input_size: (height, width) of its input in pixels.
        channels: 1 grey or 3 RGB.
        data_digest: SHA-256 of the pixels and labels it was trained on.
        confidence: What its confidence means; empty if it gives none.
        output: Output of the Keras network before decoding: ``coordinates`` (N, K, 2), targets of the
            study, or ``points`` (N, S, K, 3), input pixels with the log of the expected error. ONNX
            files are always decoded.
        crop_scale: Side of the crop that it expects, in sides of the face box; they have the same top edge.
        version: Version of this package that wrote it.
    """

    name: str
    schema: KeypointSchema
    input_size: tuple[int, int]
    styles: tuple[str, ...] = ("",)
    channels: int = 1
    data_digest: str = ""
    confidence: str = ""
    output: str = "coordinates"
    crop_scale: float = 1.0
    version: str = __version__

    def to_json(self) -> str:
        """The spec as a JSON object."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        """Read what :meth:`to_json` wrote; unknown keys of newer versions are ignored.

        Raises:
            ModelError: The text is no model spec.
        """
        try:
            value: dict[str, Any] = json.loads(text)
            schema = value["schema"]
            return cls(
                name=str(value["name"]),
                schema=KeypointSchema(
                    name=str(schema["name"]),
                    keypoint_names=tuple(schema["keypoint_names"]),
                    swap=tuple(int(i) for i in schema["swap"]),
                    norm_pair=(schema["norm_pair"][0], schema["norm_pair"][1]),
                    edges=tuple((int(a), int(b)) for a, b in schema.get("edges", ())),
                    styles=tuple(schema.get("styles", ())),
                ),
                input_size=(int(value["input_size"][0]), int(value["input_size"][1])),
                styles=tuple(value.get("styles", ("",))),
                channels=int(value.get("channels", 1)),
                data_digest=str(value.get("data_digest", "")),
                confidence=str(value.get("confidence", "")),
                output=str(value.get("output", "coordinates")),
                crop_scale=float(value.get("crop_scale", 1.0)),
                version=str(value.get("version", "")),
            )
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise ModelError(f"the model's description cannot be read ({error!r}).") from error


def embed_spec(keras_file: Path, spec: ModelSpec) -> None:
    """Add the spec to a ``.keras`` archive, which is a zip that Keras reads by member name."""
    with zipfile.ZipFile(keras_file, "a") as archive:
        archive.writestr(_MEMBER, spec.to_json())


def embed_digests(keras_file: Path, digests: Iterable[bytes]) -> None:
    """Add the digests of the training images to a ``.keras`` archive.

    Args:
        keras_file: The archive.
        digests: What :func:`facial_keypoints.data.duplicates.image_digests` gave for the training and
            validation images at the model's input size; duplicates and order do not count.
    """
    with zipfile.ZipFile(keras_file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(_DIGESTS_MEMBER, digests_to_text(digests))


def read_embedded_spec(keras_file: Path) -> ModelSpec:
    """Read the spec from a ``.keras`` archive.

    Raises:
        ModelError: The file is no archive or carries no spec.
    """
    text = _read_member(keras_file, _MEMBER)
    if text is None:
        raise ModelError(f"{keras_file} was not saved by this package: it carries no {_MEMBER}.")
    return ModelSpec.from_json(text)


def read_embedded_digests(keras_file: Path) -> frozenset[bytes] | None:
    """Read what :func:`embed_digests` added; ``None`` if there are no digests in the archive.

    Raises:
        ModelError: The file is no archive, or the digests are damaged.
    """
    text = _read_member(keras_file, _DIGESTS_MEMBER)
    return None if text is None else digests_from_text(text)


def digests_to_text(digests: Iterable[bytes]) -> str:
    """Digests of images as text (base64), for a model file."""
    return base64.b64encode(b"".join(sorted(set(digests)))).decode()


def digests_from_text(text: str) -> frozenset[bytes]:
    """Inverse of :func:`digests_to_text`.

    Raises:
        ModelError: The text holds no digests.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ModelError(
            f"the model's digests of its training images are damaged ({error})."
        ) from error
    return frozenset(data[i : i + _DIGEST_BYTES] for i in range(0, len(data), _DIGEST_BYTES))


def _read_member(keras_file: Path, name: str) -> str | None:
    try:
        with zipfile.ZipFile(keras_file) as archive:
            return archive.read(name).decode() if name in archive.namelist() else None
    except (zipfile.BadZipFile, OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{keras_file} is no readable .keras file ({error}).") from error
