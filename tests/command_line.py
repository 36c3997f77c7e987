"""The command line as a user types it, without a new process: importing Keras again takes seconds."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import pytest

from facial_keypoints.cli import main

ENVIRONMENT = {
    **{k: v for k, v in os.environ.items() if k != "FACIAL_KEYPOINTS_DATA"},
    "TERM": "dumb",
    "COLUMNS": "160",
}


def command_line(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """What the command line answers; the environment stays as it is."""
    line = ["facial-keypoints", *map(str, words)]
    out, errors = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, ENVIRONMENT, clear=True),
        mock.patch.object(sys, "argv", line),
        redirect_stdout(out),
        redirect_stderr(errors),
        pytest.raises(SystemExit) as end,
    ):
        main()
    return subprocess.CompletedProcess(
        line, int(end.value.code or 0), out.getvalue(), errors.getvalue()
    )
