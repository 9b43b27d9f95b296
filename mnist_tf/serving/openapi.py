"""The OpenAPI document of the server, and its rendering as HTML."""

import html
from typing import Any

from mnist_tf import __version__
from mnist_tf.data import Preprocessing, images

FILE_TYPES = (
    "image/png", "image/jpeg", "image/bmp", "image/webp", "image/gif",
    "application/octet-stream", "application/x-npy",
)  # fmt: skip

_JSON = "application/json"
_ERRORS = {
    400: "The request is invalid; the message says why.",
    401: "The token is missing or invalid.",
    404: "The path, model or version does not exist.",
    408: "The headers or the body did not arrive in time.",
    413: "The body is too large or has too many images.",
    415: "The content type is not supported.",
    431: "The headers are too large.",
    500: "Internal server error.",
    503: "The server is overloaded or shutting down; retry after Retry-After seconds.",
    504: "The model did not respond in time.",
}
_COMMON_ERRORS = (400, 408, 413, 431, 500, 503, 504)

_STRING = {"type": "string"}
_NUMBER = {"type": "number"}
_BASE64 = {"type": "string", "contentEncoding": "base64"}
_IMAGE_FILE = {
    "description": "An image file: PNG, JPEG, BMP, WebP or GIF.",
    "type": "object",
    "properties": {"b64": _BASE64},
    "required": ["b64"],
}
_PROBABILITIES = {"type": "array", "items": {"type": "array", "items": _NUMBER}}
_PREDICTION = {
    "type": "object",
    "properties": {
        "label": {"type": ["string", "null"]},
        "probability": {"type": ["number", "null"]},
        "typicality": {
            "description": "How much the image looks like the training images, 0 to 1.",
            "type": ["number", "null"],
        },
        "top": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"label": _STRING, "probability": _NUMBER},
            },
        },
        "rejected": {"type": "boolean"},
        "reason": _STRING,
        "pixels": _BASE64,
    },
    "required": ["label", "probability", "typicality", "top", "rejected", "reason"],
}
_PREDICTIONS = {
    "type": "object",
    "properties": {"predictions": {"type": "array", "items": _PREDICTION}},
    "required": ["predictions"],
}
_FORM = {
    "type": "object",
    "properties": {"file": {"type": "string", "format": "binary"}},
    "required": ["file"],
}
_VERSION = {
    "name": "version",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "examples": ["1"]},
}


def document(name: str, preprocessing: Preprocessing) -> dict[str, Any]:
    """Returns the OpenAPI 3.1 document of a server.

    Args:
      name: the name of the model.
      preprocessing: that of the model.
    """
    model, version = f"/v1/models/{name}", "/versions/{version}"
    one = {"parameters": [_VERSION]}
    predict = {"post": _predict(preprocessing)}
    status = {"get": _get("Status of the model", 401, 404)}
    metadata = {"get": _get("Signature, labels and preprocessing", 401, 404)}
    metrics = _get("Metrics for Prometheus", 401, media_type="text/plain")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"mnist_tf: {name}",
            "version": __version__,
            "description": "Classifies images.",
        },
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}
        },
        "security": [{}, {"token": []}],
        "paths": {
            "/predict": {"post": _predict_file()},
            f"{model}:predict": predict,
            f"{model}{version}:predict": one | predict,
            model: status,
            f"{model}{version}": one | status,
            f"{model}/metadata": metadata,
            f"{model}{version}/metadata": one | metadata,
            "/healthz": {"get": _get("Liveness probe")},
            "/readyz": {"get": _get("Readiness probe")},
            "/metrics": {"get": metrics},
            "/openapi.json": {"get": _get("This document")},
            "/docs": {"get": _get("This document as HTML", media_type="text/html")},
            "/": {"get": _get("Page to try the model on", media_type="text/html")},
        },
    }


def render(document: dict[str, Any]) -> str:
    """Returns an OpenAPI document as an HTML page without scripts."""
    sections = []
    for path, item in document["paths"].items():
        for method in item.keys() & {"get", "post"}:
            operation = item[method]
            body = operation.get("requestBody", {}).get("content", {})
            parameters = item.get("parameters", []) + operation.get("parameters", [])
            rows = [
                (f"{each['name']} ({each['in']})", each.get("description", ""))
                for each in parameters
            ]
            rows += [("body", ", ".join(body))] if body else []
            rows += [
                (code, response["description"])
                for code, response in operation["responses"].items()
            ]
            table = "".join(
                f"<tr><th>{html.escape(head)}</th><td>{html.escape(text)}</td></tr>"
                for head, text in rows
            )
            sections.append(
                f"<section><h2><code>{method.upper()} {html.escape(path)}</code></h2>"
                f"<p>{html.escape(operation['summary'])}</p><table>{table}</table>"
                "</section>"
            )
    title = html.escape(document["info"]["title"])
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="web/icon.svg" type="image/svg+xml">'
        '<link rel="stylesheet" href="web/docs.css">'
        f'<main><h1>{title}</h1><p><a href="openapi.json">openapi.json</a>, '
        f'<a href="./">page to try it on</a></p>{"".join(sections)}</main></html>\n'
    )


def _predict(preprocessing: Preprocessing) -> dict[str, Any]:
    pixel = {"type": "number", "minimum": 0, "maximum": 255}
    if preprocessing.color == "rgb":
        pixel = _list_of(3, pixel)
    rows = _list_of(preprocessing.height, _list_of(preprocessing.width, pixel))
    text = "Rows of pixels: integers in 0..255 or floats in 0..1."
    if preprocessing.method == "digits":
        text = "Rows of pixels, light on dark: integers in 0..255 or floats in 0..1."
    else:
        text += " Images of another size are resized."
    image = {"description": text, **rows}
    list_of_images = {
        "type": "array",
        "minItems": 1,
        "items": {"oneOf": [image, _IMAGE_FILE]},
    }
    outputs = {
        "description": "The outputs to return; by default the probabilities alone.",
        "type": "array",
        "minItems": 1,
        "items": {"enum": ["probabilities", "typicality"]},
    }
    bodies = [
        {
            "type": "object",
            "properties": {key: list_of_images, "output_filter": outputs},
            "required": [key],
        }
        for key in ("instances", "inputs")
    ]
    keys = ("predictions", "outputs")
    answer = {"anyOf": [_PROBABILITIES, {"type": ["array", "object"]}]}
    return {
        "summary": "Predict, compatible with TensorFlow Serving",
        "requestBody": {
            "required": True,
            "content": {_JSON: {"schema": {"oneOf": bodies}}},
        },
        "responses": _responses(
            "Probabilities of all labels: predictions of instances, outputs of inputs; "
            "with several outputs, an object or a list for each.",
            {"type": "object", "properties": dict.fromkeys(keys, answer)},
            401, 404, 415,
        ),
    }  # fmt: skip


def _predict_file() -> dict[str, Any]:
    top_k = {"type": "integer", "minimum": 1}
    content: dict[str, Any] = {each: {"schema": {}} for each in FILE_TYPES}
    return {
        "summary": "Predict the labels of an image file or an npy file",
        "parameters": [
            _parameter("top_k", "Number of labels to return.", top_k),
            _parameter(
                "preprocess",
                "auto does what was done in training; digits scales and centres a "
                "digit as MNIST does; photo resizes; none keeps the pixels.",
                {"type": "string", "enum": list(images.PREPROCESS)},
            ),
            _parameter("pixels", "Return the input of the model.", {"type": "boolean"}),
        ],
        "requestBody": {
            "required": True,
            "content": content | {"multipart/form-data": {"schema": _FORM}},
        },
        "responses": _responses("A prediction for each image.", _PREDICTIONS, 401, 415),
    }


def _get(summary: str, *errors: int, media_type: str = _JSON) -> dict[str, Any]:
    schema = {"type": "object" if media_type == _JSON else "string"}
    responses = _responses(f"{summary}.", schema, *errors, media_type=media_type)
    return {"summary": summary, "responses": responses}


def _responses(
    description: str, schema: dict[str, Any], *errors: int, media_type: str = _JSON
) -> dict[str, Any]:
    failure = {"schema": {"type": "object", "properties": {"error": _STRING}}}
    success = {"description": description, "content": {media_type: {"schema": schema}}}
    return {"200": success} | {
        str(code): {"description": _ERRORS[code], "content": {_JSON: failure}}
        for code in sorted({*_COMMON_ERRORS, *errors})
    }


def _parameter(name: str, text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": text, "schema": schema}


def _list_of(length: int, items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "minItems": length, "maxItems": length, "items": items}
