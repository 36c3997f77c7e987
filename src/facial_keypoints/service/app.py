"""The web application: its paths, their parameters and replies."""

from __future__ import annotations

import asyncio
import logging
import mimetypes
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

import fastapi
import prometheus_client
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.routing import APIRoute
from pydantic import Field, create_model
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from facial_keypoints._version import __version__
from facial_keypoints.cluster import available_cores
from facial_keypoints.data.formats import WRITERS
from facial_keypoints.errors import DataError, ImageError, ModelError
from facial_keypoints.inference.alignment import TEMPLATE_POINTS
from facial_keypoints.inference.measure.measures import NOTICE
from facial_keypoints.inference.predictor import Predictor
from facial_keypoints.schemas import KAGGLE15, source_points
from facial_keypoints.service import description
from facial_keypoints.service.answers import (
    AlignQuestion,
    Answer,
    Answerer,
    Job,
    MeasureQuestion,
    Question,
)
from facial_keypoints.service.archive import Result, best_face, zip_faces
from facial_keypoints.service.batching import QueueFullError, WorkQueue
from facial_keypoints.service.guard import Access, Guard, Metrics
from facial_keypoints.service.labels import Converted, convert_labels
from facial_keypoints.service.limits import Limits
from facial_keypoints.service.problems import (
    Problem,
    busy,
    on_http_error,
    on_invalid_query,
    on_problem,
    on_unexpected,
    to_json,
)
from facial_keypoints.service.uploads import BodyMemory, json_body, read_labels_form, read_uploads

__all__ = ["DETECTOR_NAME", "create_app"]

DETECTOR_NAME = "face_detector"
"""Name under which the face detector's file is served."""

_LOG = logging.getLogger(__name__)

_NOT_ALIGNED = "Faces-Not-Aligned"
"""Header of aligned faces: how many faces are left out, since their points coincide."""

CLOSE_SECONDS = 1.0
"""Time for the threads to end after the last request."""

_WEB = Path(__file__).parent / "web"

_TYPES = {
    ".mjs": "text/javascript",
    ".js": "text/javascript",
    ".wasm": "application/wasm",
    ".onnx": "application/octet-stream",
    ".webmanifest": "application/manifest+json",
}


class _Service:
    """The predictor, its queue and the limits, shared by all paths."""

    def __init__(
        self, predictor: Predictor, name: str, limits: Limits, metrics: Metrics, threads: int
    ) -> None:
        self.predictor, self.name, self.limits, self.metrics = predictor, name, limits, metrics
        self.memory = BodyMemory(limits.memory_bytes)
        self.queue = WorkQueue[Job, Answer](
            self._work,
            lambda job: job.kind,
            threads=threads,
            capacity=limits.waiting,
            batch=limits.batch,
            wait_s=limits.batch_wait_s,
            room=limits.pixels_at_once,
            largest=limits.pixels,
            late_s=limits.seconds,
        )
        self._answerer = Answerer(predictor, limits, self.queue.lease)
        self._converting = asyncio.Lock()
        metrics.waiting.set_function(lambda: self.queue.waiting)
        metrics.held.set_function(lambda: self.memory.held)

    def _work(self, jobs: Sequence[Job]) -> list[Answer | Exception]:
        self.metrics.batch.observe(len(jobs))
        return self._answerer(jobs)

    async def ask(self, request: Request, question: Any) -> tuple[Any, list[Result]]:
        """Read the images of a request and answer them, in order.

        Returns:
            The question, with what the body adds, and the answers.

        Raises:
            Problem: The request is too large, took too long or found the service full, or its only
                image cannot be used.
        """
        uploads: list[Job | Problem] | None = None
        # Refused before the upload, so that a full service stays quick.
        if self.queue.full:
            raise _BUSY
        try:
            async with asyncio.timeout(self.limits.seconds):
                with self.memory.lease() as take:
                    self.queue.coming += 1
                    try:
                        question, uploads = await read_uploads(request, take, self.limits, question)
                    finally:
                        self.queue.coming -= 1
                    answers = await self._answers(request, uploads)
        except TimeoutError as error:
            if uploads is not None:
                raise Problem(
                    "took-too-long",
                    f"There was no answer within {self.limits.seconds:g} seconds: try again later, or "
                    "with fewer or smaller images.",
                    headers=(("Retry-After", "1"),),
                ) from error
            raise Problem(
                "slow-upload",
                f"The upload was not complete after {self.limits.seconds:g} seconds.",
                headers=(("Connection", "close"),),
            ) from error
        if len(answers) == 1 and isinstance(answers[0][1], Problem):
            raise answers[0][1]
        return question, answers

    async def _answers(self, request: Request, uploads: Sequence[Job | Problem]) -> list[Result]:
        jobs = [each for each in uploads if isinstance(each, Job)]
        try:
            futures = [asyncio.wrap_future(future) for future in self.queue.put(jobs)]
        except QueueFullError as error:
            raise _BUSY from error
        answered = asyncio.gather(*futures, return_exceptions=True)
        gone = asyncio.ensure_future(_gone(request))
        either: set[asyncio.Future[Any]] = {answered, gone}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not answered.done():
                raise Problem("bad-request", "The client did not wait for the answer.")
            results = iter(answered.result())
            return [
                (each.name, self._outcome(each, next(results)))
                if isinstance(each, Job)
                else (each.source or "", each)
                for each in uploads
            ]
        finally:
            # Jobs that no thread has begun are cancelled as well; others end at their next step.
            for job, future in zip(jobs, futures, strict=True):
                future.cancel()
                job.over.set()
            gone.cancel()

    def _outcome(self, job: Job, answer: Answer | BaseException) -> Answer | Problem:
        if isinstance(answer, Answer):
            self.metrics.images.labels("answered").inc()
            self.metrics.faces.inc(answer.found)
            return answer
        self.metrics.images.labels("refused").inc()
        if isinstance(answer, ImageError):
            return Problem("bad-image", str(answer), source=job.name)
        if isinstance(answer, DataError | ModelError):
            return Problem("not-available", str(answer), source=job.name)
        if isinstance(answer, Exception):
            _LOG.error("The answer to an image failed.", exc_info=answer)
            detail = "The service failed at this image; its log has the details."
            return Problem("internal-error", detail, source=job.name)
        raise answer

    async def convert(self, request: Request, to: str | None) -> Converted:
        """Read labels, and write them in another format; one request at a time.

        Raises:
            Problem: The request is too large or took too long, or the labels cannot be used.
        """
        try:
            async with asyncio.timeout(self.limits.seconds):
                with self.memory.lease() as take:
                    files, images, schema = await read_labels_form(request, take, self.limits)
                    async with self._converting:
                        return await asyncio.to_thread(convert_labels, files, to, images, schema)
        except TimeoutError as error:
            raise Problem(
                "took-too-long",
                f"The labels were not converted within {self.limits.seconds:g} seconds: send fewer at once.",
            ) from error
        except DataError as error:
            raise Problem("bad-labels", str(error)) from error


_BUSY = busy("The service is busy: try again in a moment.")


async def _gone(request: Request) -> None:
    """Return when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def create_app(
    predictor: Predictor,
    limits: Limits | None = None,
    *,
    name: str = "default",
    files: Mapping[str, str | os.PathLike[str]] | None = None,
    access: Access | None = None,
    threads: int | None = None,
    ort_web: str | os.PathLike[str] | None = None,
) -> FastAPI:
    """Make the service of a predictor.

    Args:
        predictor: Predictor with an ONNX model that computes with one thread; several threads of the
            service use it at once.
        limits: Limits of requests.
        name: Name of the model in replies.
        files: ONNX files served at ``/v1/models/NAME.onnx``, by name: the model and, as
            ``face_detector``, the detector.
        access: Who may send requests. When left out, everybody except web pages of other origins.
        threads: Images predicted at the same time; the number of cores when left out.
        ort_web: Folder of ONNX Runtime Web, served at ``/ort`` for the page.

    Returns:
        An ASGI application; its threads start and stop with it.
    """
    limits, access = limits or Limits(), access or Access()
    metrics = Metrics()
    service = _Service(predictor, name, limits, metrics, threads or available_cores())
    for suffix, kind in _TYPES.items():  # the machine's own table may differ
        mimetypes.add_type(kind, suffix)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.queue.start()
        yield
        await asyncio.to_thread(service.queue.close, CLOSE_SECONDS)

    app = FastAPI(
        title="facial-keypoints",
        version=__version__,
        description="Faces and their keypoints in images. Nothing that is sent is stored or logged.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # the guard drops them: clients would not send a body again
        responses=description.PROBLEMS,
        exception_handlers={
            Problem: on_problem,
            HTTPException: on_http_error,
            RequestValidationError: on_invalid_query,
            Exception: on_unexpected,
        },
    )
    app.add_middleware(
        Guard, access=access, metrics=metrics, requests=limits.requests, seconds=2 * limits.seconds
    )
    if access.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(access.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["Retry-After", _NOT_ALIGNED],
            max_age=600,
        )
    bodies = _add_questions(app, service)
    _add_labels(app, service)
    _add_models(app, service, {key: Path(path) for key, path in (files or {}).items()})
    _add_health(app, service)
    _describe(app, description.components(predictor.spec, limits, bodies), access)
    for route in app.routes:  # after the description, which would list HEAD as well
        if isinstance(route, APIRoute) and route.methods and "GET" in route.methods:
            route.methods.add("HEAD")
    if ort_web is not None:
        app.router.routes.append(Mount("/ort", StaticFiles(directory=ort_web)))
    # Tried last, so that a wrong method on one of the paths above is not a missing file.
    app.router.default = StaticFiles(directory=_WEB, html=True)
    return app


def _describe(app: FastAPI, schemas: dict[str, Any], access: Access) -> None:
    """Add the schemas of replies and the token to the OpenAPI description, and show it at ``/docs``."""
    value = app.openapi()
    app.openapi = lambda: value  # type: ignore[method-assign]
    value.setdefault("components", {})["schemas"] = schemas
    if access.token is not None:
        value["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        value["security"] = [{"token": []}]

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        policy = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
        return HTMLResponse(description.docs_page(value), headers=policy)


def _add_questions(app: FastAPI, service: _Service) -> list[type[Question]]:
    """Add the paths that answer images; returns what their JSON bodies hold."""
    spec = service.predictor.spec
    styles = tuple(style for style in spec.styles if style)
    choices: Any = Literal[styles] | None if styles else None
    style = (choices, Field(None, description="Label style of the keypoints."))

    def head(query: Any) -> dict[str, str]:
        return {"model": service.name, "style": query.style or service.predictor.style}

    async def predict(request: Request, query: Any) -> Response:
        """Find the faces of images and their keypoints, in pixels of each upright image.

        An image that cannot be used has a `problem` in place of `faces`; if it is the only image, the
        request is refused. Of more faces than the service allows, those of the highest score are kept.
        """
        question, results = await service.ask(request, query)
        return _listing(head(question), results)

    async def measure(request: Request, query: Any) -> Response:
        """Measure faces: distances as ratios, angles, asymmetry, head pose, with error bars.

        Not a medical device: for information only. Units are in `units`; images as for predict.
        """
        question, results = await service.ask(request, query)
        units: dict[str, str] = {}
        for _, answer in results:
            units |= answer.units if isinstance(answer, Answer) else {}
        return _listing({**head(question), "notice": NOTICE, "units": units}, results)

    async def align(request: Request, query: Any) -> Response:
        """Cut out faces upright, aligned to the five-point template of face-recognition networks.

        The zip holds NAME_face0.png and so on, faces.csv (source, face, file, the matrix a, b, tx, c, d,
        ty from pixels of the image to pixels of the aligned face, score) and problems.json (images
        that cannot be used or show no face, and faces whose points coincide, so that they cannot be aligned).
        """
        question, results = await service.ask(request, query)
        lost = sum(answer.lost for _, answer in results if isinstance(answer, Answer))
        headers = {_NOT_ALIGNED: str(lost)}
        if question.format == "png":
            return _reply(best_face(results), "image/png", **headers)
        body = await asyncio.to_thread(zip_faces, results)
        return _reply(body, "application/zip", **headers)

    binary = {"schema": {"type": "string", "format": "binary"}}
    aligned: dict[int | str, dict[str, Any]] = {
        200: {
            "description": "The faces.",
            "headers": {
                _NOT_ALIGNED: {
                    "description": "Number of faces left out, since their points coincide.",
                    "schema": {"type": "integer"},
                }
            },
            "content": {"application/zip": binary, "image/png": binary},
        }
    }
    bodies: list[type[Question]] = []
    for path, endpoint, base, replies in (
        ("/v1/predict", predict, Question, description.images_reply(spec, measured=False)),
        ("/v1/measure", measure, MeasureQuestion, description.images_reply(spec, measured=True)),
        ("/v1/align", align, AlignQuestion, aligned),
    ):
        # Made here, because the styles are those of the model.
        query: Any = create_model(base.__name__, __base__=base, style=style)
        bodies.append(json_body(query))
        endpoint.__annotations__["query"] = Annotated[query, Query()]
        app.add_api_route(
            path,
            endpoint,
            methods=["POST"],
            operation_id=endpoint.__name__,
            response_class=Response,
            responses=replies,
            openapi_extra=description.body(bodies[-1]),
        )
    return bodies


def _reply(body: bytes, kind: str, **headers: str) -> Response:
    return Response(body, media_type=kind, headers=headers)


def _listing(head: Mapping[str, Any], results: Sequence[Result]) -> Response:
    images = [
        answer.body
        if isinstance(answer, Answer)
        else to_json({"source": name, "problem": answer.as_dict()})
        for name, answer in results
    ]
    start = to_json(head)[:-1]
    body = start + b', "images": [\n' + b",\n".join(images) + b"\n]}\n"
    return _reply(body, "application/json")


def _add_labels(app: FastAPI, service: _Service) -> None:
    formats: Any = Literal[tuple(WRITERS)]

    async def convert(request: Request, to: Any = None) -> JSONResponse:
        """Read labels of any format, and write them in another.

        `files` of the reply has the text of each file by its path, `read` what was read and what was left out, `lost`
        what the new format cannot hold. Sizes of images are needed by formats that count in shares of the image or
        from its lower edge; the images themselves are not.
        """
        return JSONResponse(asdict(await service.convert(request, to)))

    about = "Format to write; nothing is written when left out."
    convert.__annotations__["to"] = Annotated[formats | None, Query(description=about)]
    app.add_api_route(
        "/v1/convert",
        convert,
        methods=["POST"],
        operation_id="convert_labels",
        response_class=JSONResponse,
        responses=description.LABELS_REPLY,
        openapi_extra=description.LABELS_BODY,
    )


def _add_models(app: FastAPI, service: _Service, files: dict[str, Path]) -> None:
    predictor = service.predictor
    spec = predictor.spec

    def file_of(name: str) -> dict[str, Any]:
        if name not in files:
            return {"file": None, "bytes": None}
        return {"file": f"/v1/models/{quote(name)}.onnx", "bytes": files[name].stat().st_size}

    aligns, measures = (
        all(source_points(spec.schema, name) for name in names)
        for names in (TEMPLATE_POINTS, KAGGLE15.keypoint_names)
    )
    about: dict[str, Any] = {
        "models": [
            {
                **asdict(spec),
                "name": service.name,
                "recipe": spec.name,
                "style": predictor.style,
                "effort": predictor.effort,
                "measures": measures,
                "aligns": aligns,
                **file_of(service.name),
            }
        ],
        "detector": None if DETECTOR_NAME not in files else file_of(DETECTOR_NAME),
        "limits": asdict(service.limits),
    }

    # FastAPI drops members that are null from the description, so its example has files.
    example_file = {"file": "/v1/models/NAME.onnx", "bytes": 3_000_000}
    example = {
        **about,
        "models": [{**about["models"][0], **example_file}],
        "detector": example_file,
    }

    @app.get(
        "/v1/models",
        operation_id="list_models",
        response_class=JSONResponse,
        responses=description.json_reply("ModelsReply", example, "The model and the limits."),
    )
    async def models() -> JSONResponse:
        """The model: keypoints, their partners, edges, label styles, input size; and the limits."""
        return JSONResponse(about)

    @app.get(
        "/v1/models/{name}.onnx",
        operation_id="get_model_file",
        response_class=FileResponse,
        responses={
            200: {
                "description": "The file.",
                "content": {
                    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
                },
            }
        },
    )
    async def model_file(name: Annotated[str, fastapi.Path(examples=["default"])]) -> FileResponse:
        """The ONNX file of the model or of the face detector; its metadata describe it."""
        # The model of the service, whatever its name, is also `default`.
        path = files.get(name, files.get(service.name) if name == "default" else None)
        if path is None:
            raise HTTPException(404)
        return FileResponse(path, media_type="application/octet-stream")


def _add_health(app: FastAPI, service: _Service) -> None:
    @app.get(
        "/healthz",
        operation_id="is_alive",
        response_class=JSONResponse,
        responses=description.json_reply("Health", {"status": "ok"}, "The process answers."),
    )
    async def healthz() -> JSONResponse:
        """Whether the process answers."""
        return JSONResponse({"status": "ok"})

    @app.get(
        "/readyz",
        operation_id="is_ready",
        response_class=JSONResponse,
        responses=description.json_reply("Health", {"status": "ready"}, "Images are accepted."),
    )
    async def readyz() -> JSONResponse:
        """Whether images are accepted now."""
        if not service.queue.ready or service.queue.full:
            raise _BUSY
        return JSONResponse({"status": "ready"})

    @app.get(
        "/metrics",
        operation_id="get_metrics",
        response_class=Response,
        responses={
            200: {
                "description": "The counts.",
                "content": {
                    "text/plain": {
                        "schema": {"type": "string"},
                        "example": "facial_keypoints_faces_total 12.0\n",
                    }
                },
            }
        },
    )
    async def metrics() -> Response:
        """Counts in Prometheus' text format."""
        return Response(
            prometheus_client.generate_latest(service.metrics.registry),
            media_type=prometheus_client.CONTENT_TYPE_LATEST,
        )
