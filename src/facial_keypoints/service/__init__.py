"""The service: keypoints, measures and aligned faces over HTTP, and a page that shows them.

``create_app`` makes an ASGI application of a predictor; ``facial-keypoints serve`` runs it. No image is
written to disk or logged. Needs the extra ``serve``.
"""

from facial_keypoints.service.app import create_app
from facial_keypoints.service.limits import Limits

__all__ = ["Limits", "create_app"]
