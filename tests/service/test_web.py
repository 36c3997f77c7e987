"""The browser engine's files, without a browser."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

import facial_keypoints
from facial_keypoints import geometry
from facial_keypoints.inference import detector, predictor, refine

WEB = Path(facial_keypoints.__file__).parent / "service" / "web"


@pytest.mark.parametrize(
    ("file", "modules", "count"),
    [
        ("crops.js", [geometry], 3),
        ("detector.js", [detector], 10),
        ("worker.js", [refine, predictor], 4),
    ],
)
def test_constants_have_the_names_and_values_of_the_package(
    file: str, modules: list[ModuleType], count: int
) -> None:
    lines = re.findall(r"^const ([A-Z_]+) = ([\d./ ]+);", (WEB / file).read_text(), re.MULTILINE)
    assert len(lines) == count
    known = {name.lstrip("_"): value for module in modules for name, value in vars(module).items()}
    for name, value in lines:
        number, _, divisor = value.partition("/")
        assert known[name] == pytest.approx(float(number) / float(divisor or 1)), name
