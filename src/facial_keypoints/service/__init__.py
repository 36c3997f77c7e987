"""The service: keypoints, measures and aligned faces over HTTP, and the page that asks for them.

``create_app`` makes an ASGI application of a predictor; ``facial-keypoints serve`` runs it. Nothing of a
image is written to disk or logged. The extra ``[serve]`` brings what it needs.
"""

from facial_keypoints.service.app import create_app
from facial_keypoints.service.limits import Limits

__all__ = ["Limits", "create_app"]
