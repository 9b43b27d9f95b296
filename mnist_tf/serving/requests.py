"""Requests and their parsing: TensorFlow Serving's JSON, query parameters, uploads."""

import base64
import binascii
import dataclasses
import re
import urllib.parse
from typing import Any

import numpy as np
import orjson
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.exceptions import HTTPException
from starlette.types import Scope

from mnist_tf.data import Preprocessing, images
from mnist_tf.errors import UserError, unknown_name

MAX_UNPACKED = 2**26  # bytes of the arrays in an npz file, however small it is

_SIGNATURES = ("", "serve", "serving_default")
_OUTPUTS = ("probabilities", "typicality")
_PARAMETERS = ("top_k", "preprocess", "pixels")
_SHOWN = 100  # characters of what a client sent, in an error message


@dataclasses.dataclass(frozen=True)
class Request:
    """A request with its whole body.

    Attributes:
      path: path parameters by name.
      query: query parameters by name.
      media_type: content type in lower case, without parameters; "" if not given.
      headers: by name in lower case.
      body: its bytes.
    """

    path: dict[str, str]
    query: dict[str, str]
    media_type: str
    headers: dict[str, str]
    body: bytes

    @classmethod
    def build(cls, scope: Scope, headers: dict[str, str], body: bytes) -> "Request":
        """Builds the request of an ASGI scope that Starlette's router has seen."""
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        query = {}
        if scope["query_string"]:
            text = scope["query_string"].decode("latin-1")
            query = dict(urllib.parse.parse_qsl(text, keep_blank_values=True))
        return cls(scope.get("path_params", {}), query, media_type, headers, body)


def parse_instances(
    body: bytes, preprocessing: Preprocessing, max_instances: int
) -> tuple[np.ndarray, str, tuple[str, ...]]:
    """Parses the body of a predict request to TensorFlow Serving's REST API.

    Args:
      body: JSON with either `instances`, a list of images, or `inputs`, a list of
        images or {"images": that list}. An image is a list of rows (of numbers or, in
        colour, of lists of three), {"images": that list} or {"b64": an image file in
        base64}.
      preprocessing: that of the model.
      max_instances: the most images to accept.

    Returns:
      uint8 [n, H, W] or [n, H, W, 3]; the key of the response, "predictions" or
      "outputs"; and the names of the outputs that are asked for.

    Raises:
      UserError: the body is something else.
      HTTPException: there are too many images.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise UserError(f"the body is not valid JSON ({error})") from error
    keys = {"instances", "inputs"} & set(document if isinstance(document, dict) else ())
    if len(keys) != 1:
        raise UserError(
            'the body must be an object with either "instances" or "inputs"'
        )
    signature = document.get("signature_name", "")
    if signature not in _SIGNATURES:
        raise UserError(
            f"signature_name must be 'serve' or absent (got {_short(signature)})"
        )
    outputs = document.get("output_filter", [_OUTPUTS[0]])
    listed = isinstance(outputs, list) and outputs
    if not listed or not all(name in _OUTPUTS for name in outputs):
        raise UserError(
            f"output_filter must be a list of {' or '.join(_OUTPUTS)} (got "
            f"{_short(outputs)})"
        )
    (key,) = keys
    entries = document[key]
    if key == "inputs" and isinstance(entries, dict):
        entries = _only_value(entries, "images", key)
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{key} must be a list of at least one image")
    check_count(len(entries), max_instances)
    found = _images(entries, body, preprocessing, key)
    key = "predictions" if key == "instances" else "outputs"
    return found, key, tuple(dict.fromkeys(outputs))


def check_count(count: int, max_instances: int) -> None:
    """Raises `HTTPException` if a request has too many images."""
    if count > max_instances:
        raise HTTPException(
            413, f"a request may have at most {max_instances} images (got {count})"
        )


def parse_parameters(query: dict[str, str]) -> tuple[int, str, bool]:
    """Parses the query parameters top_k, preprocess and pixels.

    Raises:
      UserError: a parameter is unknown, or its value is invalid.
    """
    for name in query:
        if name not in _PARAMETERS:
            raise UserError(unknown_name("query parameter", name, _PARAMETERS))
    top_k = query.get("top_k", "3")
    if not re.fullmatch("[1-9][0-9]{0,8}", top_k):
        raise UserError(f"top_k must be an integer of at least 1 (got {top_k!r})")
    preprocess = query.get("preprocess", "auto")
    if preprocess not in images.PREPROCESS:
        raise UserError(unknown_name("preprocess", preprocess, images.PREPROCESS))
    pixels = query.get("pixels", "false")
    if pixels not in ("true", "false"):
        raise UserError(f"pixels must be true or false (got {pixels!r})")
    return int(top_k), preprocess, pixels == "true"


def parse_upload(body: bytes, content_type: str) -> bytes:
    """Returns the content of the one file in a multipart form.

    Raises:
      UserError: the form is damaged, or does not have exactly one part.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    files: list[bytearray] = []

    def begin() -> None:
        if files:
            raise UserError("the form must have one part, the file (got more)")
        files.append(bytearray())

    try:
        if not boundary:
            raise FormParserError("no boundary")
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": begin,
                "on_part_data": lambda data, start, end: files[-1].extend(
                    data[start:end]
                ),
            },
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise UserError(f"the form is damaged ({error})") from error
    if not files:
        raise UserError("the form must have one part, the file (got none)")
    return bytes(files[0])


def _images(
    entries: list, body: bytes, preprocessing: Preprocessing, key: str
) -> np.ndarray:
    entries = [
        _only_value(entry, "images", key)
        if isinstance(entry, dict) and "b64" not in entry
        else entry
        for entry in entries
    ]
    if any(isinstance(entry, dict) for entry in entries):
        files = [_decode_file(entry, preprocessing, key) for entry in entries]
        return np.concatenate(files)
    # Python would take true and false for 1 and 0; they may also stand elsewhere.
    # Finding a letter takes a fraction of the time of finding a word.
    words = (b"r" in body and b"true" in body) or (b"f" in body and b"false" in body)
    found = None if words else _from_bytes(entries, preprocessing.image_shape)
    if found is None:
        found = images.from_array(_to_array(entries, key), key, preprocessing)
    return found


def _only_value(entry: dict, name: str, key: str) -> Any:
    if entry.keys() != {name}:
        raise UserError(
            f'{key} must hold lists, {{"images": ...}} or {{"b64": ...}} '
            f"(got an object with the keys {sorted(entry)})"
        )
    return entry[name]


def _decode_file(entry: Any, preprocessing: Preprocessing, key: str) -> np.ndarray:
    if not isinstance(entry, dict):
        raise UserError(f"{key} must hold arrays only or image files only (got both)")
    text = _only_value(entry, "b64", key)
    try:
        data = base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise UserError(f"{key}: b64 is not valid base64 ({error})") from error

    def check_count(count: int) -> None:
        if count != 1:
            raise UserError(f"{key}: each b64 must hold one image (got {count})")

    return images.from_bytes(
        data, key, preprocessing, max_bytes=MAX_UNPACKED, check_count=check_count
    )


def _from_bytes(entries: list, image_shape: tuple[int, ...]) -> np.ndarray | None:
    """Converts rows of integers in 0..255, which is what nearly all clients send.

    Twice as fast as NumPy. Returns None for anything else, which may still be valid.
    """
    if len(image_shape) > 2:
        return None
    height, width = image_shape
    try:
        # Before `bytes`, which would make a row of n zeros of a number n.
        lengths = {len(row) for image in entries for row in image}
        if {len(image) for image in entries} != {height} or lengths != {width}:
            return None
        pixels = b"".join([bytes(row) for image in entries for row in image])
    except (TypeError, ValueError):
        return None
    if not pixels.strip(b"\0\1"):  # may be floats of 0..1
        return None
    return np.frombuffer(pixels, np.uint8).reshape(len(entries), height, width)


def _to_array(entries: list, key: str) -> np.ndarray:
    rows = f"{key} must hold rows of numbers of the same length"
    try:
        # Objects first: in an array of texts each would be as long as the longest.
        types = set(map(type, np.array(entries, object).ravel()))
    except ValueError as error:
        raise UserError(rows) from error
    if bool in types:
        raise UserError(f"{key} must hold numbers only (got true or false)")
    if list in types:
        raise UserError(rows)
    if not types <= {int, float}:
        raise UserError(f"{key} must hold numbers only")
    return np.array(entries)


def _short(value: Any) -> str:
    """What a client sent, as a message may repeat it."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
