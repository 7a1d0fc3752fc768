"""Pages of one file: a template with its styles, scripts, plots and data put in."""

import html
import json
import re
from collections.abc import Sequence
from importlib import resources
from typing import Any

from plotly.offline import get_plotlyjs
from plotly.utils import PlotlyJSONEncoder

LONG_CELL = 40
FILES = resources.files("gainrl_ray.report")


def page(*, title: str, subtitle: str, body: str, data: dict[str, Any], scripts: Sequence[str], version: str) -> str:
    """A whole page. `body` is HTML; all else is text, or becomes JSON that the scripts read.

    version: of the run that the page shows, for a page that is served and reloads itself; "" for a file.
    """
    values = {
        "title": html.escape(title),
        "subtitle": html.escape(subtitle),
        "body": body,
        "version": html.escape(version),
        "connect": "'self'" if version else "'none'",
        "style": _file("page.css"),
        "plotly": get_plotlyjs(),
        "data": embedded(data),
        "script": "\n".join(_file(name) for name in ("page.js", *scripts)),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], _file("page.html"))


def embedded(data: Any) -> str:
    """JSON that may stand in a script element, whatever texts it holds."""
    text = json.dumps(data, cls=PlotlyJSONEncoder, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def section(name: str, title: str, *parts: str) -> str:
    """A part of the page with its heading; nothing when it has no content."""
    content = "".join(parts)
    return f'<section id="{name}"><h2>{html.escape(title)}</h2>{content}</section>' if content else ""


def plot(name: str, title: str, note: str = "", size: str = "", rows: int = 0) -> str:
    """A place where page.js draws the figure of that name. size: "", "small" or "tall", or by `rows` if there are."""
    about = f'<p class="note">{html.escape(note)}</p>' if note else ""
    height = f' style="height:{110 + 26 * rows}px"' if rows else ""
    return (
        f'<figure class="plot {size}"><h3>{html.escape(title)}</h3>{about}'
        f'<div class="canvas" data-plot="{name}" role="img" aria-label="{html.escape(title)}"{height}></div></figure>'
    )


def tiles(figures: Sequence[tuple[str, str, str]]) -> str:
    """Large numbers: (name, value, remark)."""
    return (
        '<dl class="tiles">'
        + "".join(
            f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}<small>{html.escape(remark)}</small></dd></div>"
            for name, value, remark in figures
        )
        + "</dl>"
    )


def pairs(rows: Sequence[tuple[str, str]]) -> str:
    """A table of names and values."""
    cells = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in rows)
    return f'<div class="scroll"><table class="pairs"><tbody>{cells}</tbody></table></div>'


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], key: str = "") -> str:
    """A table that scrolls sideways where it is wide; with `key`, rows carry their first cell as data-KEY."""
    head = "".join(f"<th>{html.escape(heading)}</th>" for heading in headings)
    lines = []
    for first, *others in rows:
        mark = f' data-{key}="{html.escape(first)}"' if key else ""
        cells = "".join(f"<td{_wraps(text)}>{html.escape(text)}</td>" for text in others)
        lines.append(f"<tr{mark}><th>{html.escape(first)}</th>{cells}</tr>")
    return (
        f'<div class="scroll"><table class="figures"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _wraps(text: str) -> str:
    """The class of a cell whose text is long enough to be broken into lines."""
    return ' class="text"' if max(map(len, text.splitlines()), default=0) > LONG_CELL else ""


def short(number: float) -> str:
    """A number of 0 or more in three digits: 46491 -> 46.5k, 33.3606 -> 33.4."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{float(f'{number:.3g}'):g}"


def duration(seconds: float) -> str:
    """Seconds as a person says them: 36 s, 12 min, 3 h 5 min."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _file(name: str) -> str:
    return FILES.joinpath(name).read_text(encoding="utf-8")
