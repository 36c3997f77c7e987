"""Train, compare, ship and use facial keypoint detectors.

Public names are looked up when they are first used, so that importing the package starts neither
Keras nor any other heavy library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from facial_keypoints._version import __version__

if TYPE_CHECKING:
    from facial_keypoints.data import load_dataset, load_photos
    from facial_keypoints.errors import (
        DataError,
        FacialKeypointsError,
        ImageError,
        MissingExtraError,
        ModelError,
        OutputError,
    )
    from facial_keypoints.evaluation.scores import EvaluationReport, evaluate_predictions
    from facial_keypoints.inference.alignment import AlignedFaces, align
    from facial_keypoints.inference.detector import Detections, FaceDetector, load_detector
    from facial_keypoints.inference.measure.measures import Measurements, measure
    from facial_keypoints.inference.predictor import Predictor, load_predictor
    from facial_keypoints.inference.smoothing import OneEuro
    from facial_keypoints.inference.tracker import Tracker, track_video
    from facial_keypoints.io.images import read_image
    from facial_keypoints.models.export import export_onnx
    from facial_keypoints.models.registry import shipped_models
    from facial_keypoints.models.runtime import Runtime, load_runtime
    from facial_keypoints.models.spec import ModelSpec
    from facial_keypoints.schemas import get_schema, list_schemas
    from facial_keypoints.types import (
        CropTransform,
        FaceDataset,
        Keypoints,
        KeypointSchema,
        Prediction,
    )

_HOMES = {
    "inference.alignment": ("AlignedFaces", "align"),
    "data": ("load_dataset", "load_photos"),
    "inference.detector": ("Detections", "FaceDetector", "load_detector"),
    "errors": (
        "DataError",
        "FacialKeypointsError",
        "MissingExtraError",
        "ModelError",
        "OutputError",
        "ImageError",
    ),
    "evaluation.scores": ("EvaluationReport", "evaluate_predictions"),
    "models.export": ("export_onnx",),
    "inference.measure.measures": ("Measurements", "measure"),
    "io.images": ("read_image",),
    "inference.predictor": ("Predictor", "load_predictor"),
    "models.registry": ("shipped_models",),
    "models.runtime": ("Runtime", "load_runtime"),
    "schemas": ("get_schema", "list_schemas"),
    "models.spec": ("ModelSpec",),
    "inference.smoothing": ("OneEuro",),
    "inference.tracker": ("Tracker", "track_video"),
    "types": ("CropTransform", "FaceDataset", "KeypointSchema", "Keypoints", "Prediction"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AlignedFaces",
    "CropTransform",
    "DataError",
    "Detections",
    "EvaluationReport",
    "FaceDataset",
    "FaceDetector",
    "FacialKeypointsError",
    "ImageError",
    "KeypointSchema",
    "Keypoints",
    "Measurements",
    "MissingExtraError",
    "ModelError",
    "ModelSpec",
    "OneEuro",
    "OutputError",
    "Prediction",
    "Predictor",
    "Runtime",
    "Tracker",
    "__version__",
    "align",
    "evaluate_predictions",
    "export_onnx",
    "get_schema",
    "list_schemas",
    "load_dataset",
    "load_detector",
    "load_photos",
    "load_predictor",
    "load_runtime",
    "measure",
    "read_image",
    "shipped_models",
    "track_video",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'facial_keypoints' has no attribute '{name}'")
    return getattr(import_module(f"facial_keypoints.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
