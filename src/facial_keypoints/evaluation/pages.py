"""Numbers as text, and HTML pages from the templates in this folder.

A page is one file with its stylesheet, charts and images. It loads nothing else, which its content
security policy forbids. All values in a template are escaped.
"""

from __future__ import annotations

import base64
import functools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from facial_keypoints.errors import MissingExtraError
from facial_keypoints.evaluation.metrics import Interval

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = [
    "data_uri",
    "duration",
    "interval",
    "percent",
    "px",
    "render",
    "require_templates",
    "setting",
]


def px(value: float) -> str:
    """Pixels with two decimals; a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.2f}"


def percent(value: float) -> str:
    """A fraction as a percentage; a dash for NaN."""
    return "–" if math.isnan(value) else f"{100 * value:.1f} %"


def interval(ends: Interval) -> str:
    """Both ends with two decimals; a dash for NaN."""
    if math.isnan(ends.low):
        return "–"
    if ends.low < 0:  # a dash beside a minus sign would be confusing
        return f"{ends.low:.2f} to {ends.high:.2f}".replace("-", "−")
    return f"{ends.low:.2f}–{ends.high:.2f}"


def duration(seconds: float) -> str:
    """Hours and minutes, minutes and seconds, or seconds; a dash for NaN."""
    if math.isnan(seconds):
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def setting(value: Any) -> str:
    """A setting as text: short numbers, yes or no, the items of containers; a dash for ``None``."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {setting(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(setting(v) for v in value)
    return "–" if value is None else str(value)


def data_uri(kind: str, content: bytes) -> str:
    """A file as a ``data:`` address; ``kind`` is its media type, as in ``image/png``."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


@functools.cache
def _environment() -> Environment:
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtraError("jinja2", "train", "Writing a page") from error
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("facial_keypoints.evaluation"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {"px": px, "percent": percent, "interval": interval, "setting": setting}
    made.filters["words"] = lambda name: str(name).replace("_", " ")
    return made


def require_templates() -> None:
    """Check before a long computation that its page can be written.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    _environment()


def render(template: str, **values: Any) -> str:
    """A page of HTML.

    Args:
        template: File name in ``templates/``.
        values: The values of all names in the template.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    return _environment().get_template(template).render(**values)
