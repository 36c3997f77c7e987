"""``facial-keypoints serve``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from facial_keypoints.cli import app
from facial_keypoints.cli import options as o
from facial_keypoints.cli.progress import make_log
from facial_keypoints.errors import DataError

if TYPE_CHECKING:
    from rich.console import Console


@app.command("serve")
def serve_command(
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen at. Beyond this machine: 0.0.0.0, best with a token and behind a "
            "proxy that speaks TLS."
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen at; 0 takes a free one.")
    ] = 8000,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    model: o.Model = "default",
    detector: o.Detector = "default",
    effort: o.Effort = o.EffortName.normal,
    threads: o.Threads = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the token that clients must send (Authorization: Bearer TOKEN); or set the "
            "environment variable FACIAL_KEYPOINTS_TOKEN.",
            show_default="no token",
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="Origin of another web page that may send requests, like https://example.org; * for all.",
            show_default="none",
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Further name that the service is reached by; others are refused. * for any.",
            show_default="localhost, IP addresses and the name of --host",
        ),
    ] = None,
    ort_web: Annotated[
        Path | None,
        typer.Option(
            help="Folder of ONNX Runtime Web (the npm package's dist), with which the page computes in "
            "the browser.",
            show_default="none, and the service computes",
        ),
    ] = None,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="Pixels of one image, at most.")
    ] = 50_000_000,
    max_faces: Annotated[
        int, typer.Option(min=1, help="Faces returned for one image, the best ones.")
    ] = 100,
) -> None:
    """Start a local service: a page for people at /, a REST interface for programs at /v1.

    Works offline and keeps nothing: no image is written to disk or logged. On Ctrl-C it finishes the
    requests that have begun, then stops. The REST interface describes itself at /docs. A model in
    Keras' format is exported to ONNX first, into a temporary folder.

    Examples:

        facial-keypoints serve --open

        facial-keypoints serve --model runs/cats

        facial-keypoints serve --host 0.0.0.0 --token-file token.txt --allowed-host faces.example.org
    """
    import ipaddress
    import warnings
    import webbrowser

    from facial_keypoints.models.registry import RUN_MODEL, find_detector, find_model

    # Pillow warns of odd metadata, which is not used; an image that it cannot read is an error.
    warnings.filterwarnings("ignore", module="PIL")
    path, detector_file = find_model(model), find_detector(detector, model=model)
    if ort_web is not None and not (ort_web / "ort.wasm.min.mjs").is_file():
        raise DataError(
            f"{ort_web} holds no ort.wasm.min.mjs: name the dist folder of the npm package "
            "onnxruntime-web."
        )
    from facial_keypoints.inference.detector import OnnxFaceDetector
    from facial_keypoints.inference.predictor import load_predictor
    from facial_keypoints.service.app import DETECTOR_NAME, create_app
    from facial_keypoints.service.guard import Access
    from facial_keypoints.service.limits import Limits
    from facial_keypoints.service.server import open_socket, run

    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    token = _token(token_file)
    access = Access(
        token=token,
        origins=tuple(allow_origin or ()),
        hosts=tuple(name.lower() for name in (host, *(allowed_host or ()))),
    )
    limits = Limits(pixels=max_pixels, pixels_at_once=2 * max_pixels, faces=max_faces)
    log = make_log()
    name = path.parent.resolve().name if path.name == RUN_MODEL else path.stem
    with open_socket(host, port) as listening, _as_onnx(path, log) as model_file:
        # Each thread of the service predicts whole images with one thread.
        predictor = load_predictor(
            model_file, threads=1, detector=detector_file, effort=effort.value
        )
        files = {name: model_file}
        if isinstance(predictor.detector, OnnxFaceDetector):  # the page knows no others
            files[DETECTOR_NAME] = detector_file
        service = create_app(
            predictor,
            limits,
            name=name,
            files=files,
            access=access,
            threads=threads,
            ort_web=ort_web,
        )
        shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(
            host, f"[{host}]" if ":" in host else host
        )
        address = f"http://{shown}:{listening.getsockname()[1]}"
        if not local and token is None:
            log.print(
                "anybody who reaches this machine can send requests: --token-file sets a token."
            )
        log.print(f"facial-keypoints is at {address} (Ctrl-C stops it)")
        if open_page:
            webbrowser.open(address)
        run(service, listening, limits)


@contextmanager
def _as_onnx(model: Path, log: Console) -> Iterator[Path]:
    """The ONNX file of a model: itself, or an export of a Keras model, which is deleted in the end."""
    from facial_keypoints.models.registry import is_onnx

    if is_onnx(model):
        yield model
        return
    from facial_keypoints.models.export import export_onnx

    with TemporaryDirectory(prefix="facial-keypoints-", ignore_cleanup_errors=True) as folder:
        file = Path(folder) / "model.onnx"
        with log.status(f"exporting {model} to ONNX"):
            export_onnx(model, file)
        yield file


def _token(file: Path | None) -> str | None:
    """The token of the file or the environment.

    Raises:
        DataError: It cannot be read, or cannot be sent in a header.
    """
    if file is None:
        where, token = "FACIAL_KEYPOINTS_TOKEN", os.environ.get("FACIAL_KEYPOINTS_TOKEN")
        if token is None:
            return None
    else:
        try:
            where, token = str(file), file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"the token file {file} cannot be read ({error}).") from error
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise DataError(f"{where} must hold one token of letters, digits and signs without spaces.")
    return token
