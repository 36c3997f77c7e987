"""The command line: arguments, exit codes and printing; no logic.

Results go to stdout or files, progress and logs to stderr. Exit 0 done, 1 failed, 2 wrong usage.
Heavy libraries are imported inside the verbs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

import typer

from facial_keypoints._version import __version__
from facial_keypoints.errors import FacialKeypointsError, MissingExtraError

__all__ = ["app", "main"]

app = typer.Typer(
    name="facial-keypoints",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""
Train, compare, ship and use facial keypoint detectors.

Examples:

    facial-keypoints compare -o out                    # three networks on built-in faces

    facial-keypoints compare --data kaggle/ -o out     # the same on Kaggle's files
""",
)

EXTRAS = {
    "keras": ("train", "Training and Keras models"),
    "tensorflow": ("train", "Training and Keras models"),
    "fastapi": ("serve", "The service"),
    "uvicorn": ("serve", "The service"),
    "python_multipart": ("serve", "The service"),
    "prometheus_client": ("serve", "The service"),
    "pyarrow": ("ray", "Running on Ray"),
}


ENDING = ("SIGTERM", "SIGHUP")
"""Signals that end a command as Ctrl-C does."""


def _show_version(wanted: bool) -> None:
    if not wanted:
        return
    from importlib.metadata import PackageNotFoundError, version

    def installed(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "not installed"

    typer.echo(f"facial-keypoints {__version__}")
    for name in ("numpy", "onnxruntime", "keras", "tensorflow-cpu", "tensorflow", "torch", "jax"):
        typer.echo(f"  {name} {installed(name)}")
    raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            help="Show the versions of this package and of the libraries it uses, and exit.",
        ),
    ] = False,
) -> None:
    pass


def _fail(message: str) -> int:
    from rich.console import Console

    Console(stderr=True).print(f"[bold red]error:[/] {_escape(message)}", soft_wrap=True)
    return 1


def _with_notes(error: BaseException, message: str = "") -> str:
    return " ".join([message or str(error), *getattr(error, "__notes__", ())])


def _escape(message: str) -> str:
    from rich.markup import escape

    return escape(" ".join(message.split()))


def main() -> None:
    """Run the command line; an error of the user prints one sentence and exits with 1.

    What ends a process from outside (``docker stop``, Slurm, a closed terminal) ends it as Ctrl-C does.
    """
    for name in ENDING:
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if (
            number is not None and signal.getsignal(number) is signal.SIG_DFL
        ):  # nohup ignores SIGHUP
            signal.signal(number, signal.default_int_handler)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's start-up notices
    try:
        app()
    except FacialKeypointsError as error:
        sys.exit(_fail(_with_notes(error)))
    except SystemExit as ended:
        # After Ctrl-C, Typer exits without a word.
        cause = ended.__context__ and ended.__context__.__cause__
        if isinstance(cause, KeyboardInterrupt):
            message = "interrupted: finished work is kept; train, compare, sweep and batch continue with --resume."
            _fail(_with_notes(cause, message))
            sys.exit(130)
        raise
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in EXTRAS:
            raise
        extra, purpose = EXTRAS[package]
        sys.exit(_fail(str(MissingExtraError(package, extra, purpose))))


# Verbs register themselves on app; --help lists them in this order.
from facial_keypoints.cli import (  # noqa: E402, I001
    compare,
    predict,
    track,
    measure,
    align,
    serve,
    batch,
    train,
    finetune,
    sweep,
    evaluate,
    submit,
    export,
    models,
    data,
    benchmark,
)

_ = (
    compare, predict, track, measure, align, serve, batch, train,
    finetune, sweep, evaluate, submit, export, models, data, benchmark,
)  # fmt: skip
