"""The last layer of the shipped detector's network, which Keras looks up by its name to load the model.

How the whole network is built and trained is in ``references/landmark``.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops

__all__ = ["StylePoints"]

# Keypoint means of the training rows in 96-pixel crops, rounded; only where the network starts.
_MEAN_XY = (
    (66.4, 37.0), (29.8, 37.0), (60.2, 37.8), (72.7, 37.9), (36.0, 37.8), (23.4, 38.0),
    (57.1, 28.9), (79.0, 30.0), (38.8, 29.0), (16.6, 30.4), (48.3, 55.2), (62.6, 75.8),
    (33.9, 76.0), (48.1, 70.3), (48.2, 83.8),
)  # fmt: skip


@keras.saving.register_keras_serializable(package="facial_keypoints")
class StylePoints(layers.Layer):  # type: ignore[misc]
    """Output of the head to points and log error scales, for every label style.

    Args:
        styles: S.
        keypoints: K.
        input_size: Side of the input, pixels.

    Output: ``(B, S, K, 3)``: x, y in input pixels and the log of the Laplace scale in pixels.
    """

    def __init__(self, styles: int, keypoints: int, input_size: int, **kwargs: Any) -> None:
        # In bfloat16, coordinates of up to 96 would be rounded to quarters of a pixel.
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.styles, self.keypoints, self.input_size = styles, keypoints, input_size

    def call(self, inputs: Any) -> Any:
        """Map ``(B, K * (2 + 3 S))`` to ``(B, S, K, 3)``."""
        s, k = self.styles, self.keypoints
        scale = self.input_size / 96.0
        mean = np.asarray(_MEAN_XY[:k], np.float32).reshape(1, 1, k, 2) * scale
        shared = ops.reshape(inputs[:, : 2 * k], (-1, 1, k, 2))
        own = ops.reshape(inputs[:, 2 * k : 2 * k + 2 * s * k], (-1, s, k, 2))
        log_scale = ops.reshape(inputs[:, 2 * k + 2 * s * k :], (-1, s, k, 1))
        # Outputs of the head near 1 then move a point as far as it usually varies between faces.
        xy = mean + (8.0 * scale) * shared + (4.0 * scale) * own
        return ops.concatenate([xy, ops.clip(log_scale, -4.0, 4.0)], axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Arguments to rebuild the layer."""
        return {
            **super().get_config(),
            "styles": self.styles,
            "keypoints": self.keypoints,
            "input_size": self.input_size,
        }
