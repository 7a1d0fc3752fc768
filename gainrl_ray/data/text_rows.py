"""Rows of text files: JSON lines, JSON documents, comma- or tab-separated values."""

import csv
import io
import itertools
import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from gainrl_ray.data.rows import RawRow
from gainrl_ray.errors import DataError

_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
_PEEK_BYTES = 1 << 16
_OPEN = (b"{", b"[", b",", b":")  # ends of a first line that is no row by itself


def refuse_utf16(name: str, stream: io.BufferedReader) -> None:
    """Raise DataError for a text file in UTF-16 or UTF-32."""
    start = stream.peek(4)[:4]
    if start.startswith(_UTF16_BOMS) or b"\0" in start:
        raise DataError(
            f"{name} is UTF-16 or UTF-32 text, accepted is UTF-8: convert it, as with "
            "`iconv -f UTF-16 -t UTF-8 FILE > NEW`"
        )


def json_rows(name: str, stream: Iterable[bytes]) -> Iterator[RawRow]:
    """Rows of JSON lines, read one at a time, or of a JSON document, held in memory as a whole.

    A document is an array of objects, an object with one such array in it, or objects over several lines each.
    Raises DataError for an array that is no JSON, and for an object of columns.
    """
    head, written = [], 0
    for line in (lines := iter(stream)):
        head.append(line)
        written += bool(line.strip())
        if written == 2:
            break
    start = b"".join(head).removeprefix(_BOM).lstrip().partition(b"\n")[0].rstrip()
    lines = itertools.chain(head, lines)
    if written == 1 or start.startswith(b"[") or start.endswith(_OPEN):
        content = b"".join(lines)
        document = _array(name, content) if start.startswith(b"[") else _objects(name, content)
        if document is not None:
            yield from document
            return
        lines = io.BytesIO(content)
    for number, raw in enumerate(lines, start=1):
        line = raw.removeprefix(_BOM) if number == 1 else raw
        if line.strip():
            yield _line(name, number, line)


def csv_rows(name: str, stream: io.BufferedReader, delimiter: str | None) -> Iterator[RawRow]:
    """Rows below a line of column names, every value a text; no delimiter: the most frequent of `,` `;` and tab there.

    Raises DataError for text that is not UTF-8 and for quotes that do not close.
    """
    if delimiter is None:
        names = stream.peek(_PEEK_BYTES).partition(b"\n")[0]
        delimiter = max(",;\t", key=lambda mark: names.count(mark.encode()))
    csv.field_size_limit(sys.maxsize)
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    reader = csv.reader(text, delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        columns = next(reader, [])
        for number, cells in enumerate(filter(None, reader), start=1):
            if len(cells) == len(columns):
                yield RawRow(source=name, number=number, values=dict(zip(columns, cells, strict=True)))
            else:
                detail = f"the row has {len(cells)} cells, the first line {len(columns)}: quote text with {delimiter!r}"
                yield RawRow(source=name, number=number, fault="wrong number of cells", detail=detail)
    except UnicodeDecodeError as error:
        raise DataError(f"{name} near line {reader.line_num + 1} is not UTF-8 ({error}): convert the file") from error
    except csv.Error as error:
        raise DataError(f"{name} line {reader.line_num}: {error}: mend the quotes") from error


def _line(name: str, number: int, line: bytes) -> RawRow:
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError as error:
        fault, detail = "not UTF-8", f"byte {error.start} of the line is not UTF-8"
    except (ValueError, RecursionError) as error:
        fault, detail = "invalid JSON", f"the line is not JSON: {error}"
    else:
        return _row(name, number, "line", value)
    return RawRow(source=name, number=number, unit="line", fault=fault, detail=detail)


def _row(name: str, number: int, unit: Literal["line", "row"], value: Any) -> RawRow:
    if isinstance(value, dict):
        return RawRow(source=name, number=number, unit=unit, values=value)
    fault, detail = "not a JSON object", f"the {unit} is a JSON {type(value).__name__}, not an object"
    return RawRow(source=name, number=number, unit=unit, fault=fault, detail=detail)


def _array(name: str, content: bytes) -> Iterator[RawRow]:
    """Rows of a JSON array of objects, decoded one at a time. Raises DataError at the first syntax error."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{name} line {line}: byte {error.start} of the file is not UTF-8: convert the file") from error
    decoder, numbers = json.JSONDecoder(), itertools.count(1)
    position = _skip_space(text, text.index("[") + 1)
    while text[position : position + 1] != "]":
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{name} row {next(numbers)}: the array is not JSON ({error}): mend the file") from error
        yield _row(name, next(numbers), "row", value)
        position = _skip_space(text, position)
        if text[position : position + 1] == ",":
            position = _skip_space(text, position + 1)
        elif text[position : position + 1] != "]":
            raise DataError(f"{name}: no ',' or ']' after row {next(numbers) - 1} of the array: mend the file")
    if _skip_space(text, position + 1) < len(text):
        raise DataError(f"{name}: text after the array, which has {next(numbers) - 1} rows: give one array a file")


def _objects(name: str, content: bytes) -> Iterator[RawRow] | None:
    """Rows of objects that may go over several lines, or of the one array in a single object.

    None for JSON lines, good or bad. Raises DataError for an object of columns.
    """
    values, decoder, position = [], json.JSONDecoder(), 0
    try:
        text = content.decode("utf-8-sig")
        while (position := _skip_space(text, position)) < len(text):
            value, position = decoder.raw_decode(text, position)
            values.append(value)
    except (ValueError, RecursionError):
        return None
    if len(values) == 1 and isinstance(values[0], dict):
        tables = [value for value in values[0].values() if _is_table(value)]
        if len(tables) == 1:
            values = tables[0]
        elif values[0] and all(isinstance(value, list | dict) for value in values[0].values()):
            raise DataError(
                f"{name} is one object of lists or mappings ({', '.join(map(repr, list(values[0])[:5]))}), not rows; "
                "accepted are JSON lines, an array of objects, or an object with one such array: write a row an object"
            )
        elif len(content.strip().splitlines()) == 1:
            return None
    return (_row(name, number, "row", value) for number, value in enumerate(values, start=1))


def _is_table(value: Any) -> bool:
    """Whether a value is a list of rows, and no chat."""
    is_list = isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)
    return is_list and not {"role", "content"} <= value[0].keys()


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position
