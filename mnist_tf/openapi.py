"""What the server's interface looks like, for programs and for people."""

import html
from typing import Any

from mnist_tf import __version__
from mnist_tf.predictor import Predictor

_ERRORS = {
    400: "The request cannot be understood; the message says why.",
    401: "No token, or another one.",
    404: "No such path, model or version.",
    408: "Headers or body took too long.",
    413: "The body is too large, or holds too many images.",
    415: "The body is of a type that is not read.",
    431: "The headers are too large.",
    500: "A defect of the server.",
    503: "Too much to do, or about to end; Retry-After says when to come again.",
    504: "The answer took too long.",
}
_ALWAYS = (400, 408, 413, 431, 500, 503, 504)

_BASE64 = {
    "description": "A PNG or JPEG file.",
    "type": "object",
    "properties": {"b64": {"type": "string", "contentEncoding": "base64"}},
    "required": ["b64"],
}
_PROBABILITIES = {
    "type": "array",
    "items": {"type": "array", "items": {"type": "number"}},
}
_PREDICTION = {
    "type": "object",
    "properties": {
        "label": {"type": ["string", "null"]},
        "probability": {"type": ["number", "null"]},
        "top": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "label": {"type": "string"},
                    "probability": {"type": "number"},
                },
            },
        },
        "rejected": {"type": "boolean"},
        "reason": {"type": "string"},
        "pixels": {"type": "string", "contentEncoding": "base64"},
    },
    "required": ["label", "probability", "top", "rejected", "reason"],
}
_BYTES: dict[str, Any] = {"schema": {}}
_TOKEN: list[dict[str, list]] = [{}, {"token": []}]


def document(name: str, image_shape: tuple[int, int]) -> dict[str, Any]:
    """The interface as OpenAPI 3.1 describes it.

    Args:
      name: of the model.
      image_shape: (height, width) in pixels.
    """
    instances = _instances(*image_shape)
    model, version = f"/v1/models/{name}", "/versions/{version}"
    predict = {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "oneOf": [
                            {
                                "type": "object",
                                "properties": {"instances": instances},
                                "required": ["instances"],
                            },
                            {
                                "type": "object",
                                "properties": {"inputs": instances},
                                "required": ["inputs"],
                            },
                        ]
                    }
                }
            },
        },
        "responses": _responses(
            "Probabilities of each label: of instances as predictions, of inputs as "
            "outputs.",
            {
                "type": "object",
                "properties": {
                    "predictions": _PROBABILITIES, "outputs": _PROBABILITIES
                },
            },
            401, 404, 415,
        ),
    }  # fmt: skip
    status = {
        "responses": _responses(
            "Versions and how they are.", {"type": "object"}, 401, 404
        )
    }
    metadata = {
        "responses": _responses(
            "What it takes and gives.", {"type": "object"}, 401, 404
        )
    }
    number = {
        "parameters": [
            {
                "name": "version",
                "in": "path",
                "required": True,
                "schema": {"type": "string", "examples": ["1"]},
            }
        ]
    }
    text = {"type": "string"}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"mnist_tf: {name}",
            "version": __version__,
            "description": "Says what is on small pictures.",
        },
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}
        },
        "security": _TOKEN,
        "paths": {
            "/predict": {"post": _named("Labels of a picture or of arrays", _file())},
            f"{model}:predict": {"post": _named("As TensorFlow Serving", predict)},
            f"{model}{version}:predict": number
            | {"post": _named("The same, of one version", predict)},
            model: {"get": _named("Status of the model", status)},
            f"{model}{version}": number
            | {"get": _named("Status of one version", status)},
            f"{model}/metadata": {"get": _named("Signature and labels", metadata)},
            f"{model}{version}/metadata": number
            | {"get": _named("The same, of one version", metadata)},
            "/healthz": {"get": _simple("Is the process alive?", "application/json")},
            "/readyz": {"get": _simple("Does it take requests?", "application/json")},
            "/metrics": {
                "get": _named(
                    "Metrics for Prometheus",
                    {"responses": _responses("Text.", text, 401, kind="text/plain")},
                )
            },
            "/openapi.json": {"get": _simple("This document", "application/json")},
            "/docs": {"get": _simple("The same for people", "text/html")},
            "/": {"get": _simple("A page to draw on", "text/html")},
        },
    }


def metadata(name: str, version: int, predictor: Predictor) -> dict[str, Any]:
    """What TensorFlow Serving answers to /metadata, with labels and image shape."""

    def tensor(dtype: str, *sizes: int) -> dict[str, Any]:
        dim = [{"size": str(size), "name": ""} for size in sizes]
        return {"dtype": dtype, "tensor_shape": {"dim": dim, "unknown_rank": False}}

    height, width = predictor.image_shape
    serve = {
        "inputs": {"images": tensor("DT_UINT8", -1, height, width)},
        "outputs": {"probabilities": tensor("DT_FLOAT", -1, len(predictor.labels))},
        "method_name": "tensorflow/serving/predict",
    }
    return {
        "model_spec": {"name": name, "signature_name": "", "version": str(version)},
        "metadata": {
            "signature_def": {"signature_def": {"serve": serve}},
            "labels": predictor.labels,
            "image_shape": predictor.image_shape,
        },
    }


def page(about: dict[str, Any]) -> str:
    """The document as one page of HTML that needs nothing else."""
    parts = []
    for path, item in about["paths"].items():
        for method in item.keys() & {"get", "post"}:
            operation = item[method]
            kinds = operation.get("requestBody", {}).get("content", {})
            given = [*item.get("parameters", []), *operation.get("parameters", [])]
            rows = [
                (f"{each['name']} ({each['in']})", each.get("description", ""))
                for each in given
            ]
            rows += [("body", ", ".join(kinds))] if kinds else []
            rows += [
                (code, answer["description"])
                for code, answer in operation["responses"].items()
            ]
            lines = "".join(
                f"<tr><th>{html.escape(str(head))}</th><td>{html.escape(text)}</td></tr>"
                for head, text in rows
            )
            parts.append(
                f"<section><h2><code>{method.upper()} {html.escape(path)}</code></h2>"
                f"<p>{html.escape(operation['summary'])}</p><table>{lines}</table>"
                "</section>"
            )
    title = html.escape(about["info"]["title"])
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width">'
        '<link rel="stylesheet" href="/web/docs.css">'
        f'<main><h1>{title}</h1><p><a href="/openapi.json">openapi.json</a>, '
        f'<a href="/">the page to draw on</a></p>{"".join(parts)}</main></html>\n'
    )


def _instances(height: int, width: int) -> dict[str, Any]:
    image = {
        "description": "Rows of pixels, light on dark: whole numbers of 0..255, or "
        "floats of 0..1.",
        **_list(height, _list(width, {"type": "number", "minimum": 0, "maximum": 255})),
    }
    return {"type": "array", "minItems": 1, "items": {"oneOf": [image, _BASE64]}}


def _list(length: int, items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "minItems": length, "maxItems": length, "items": items}


def _file() -> dict[str, Any]:
    form = {
        "schema": {
            "type": "object",
            "properties": {"file": {"type": "string", "format": "binary"}},
            "required": ["file"],
        }
    }
    kinds = (
        "image/png", "image/jpeg", "image/bmp", "application/octet-stream",
        "application/x-npy",
    )  # fmt: skip
    return {
        "parameters": [
            _option("top_k", "Labels to give.", {"type": "integer", "minimum": 1}),
            _option(
                "preprocess",
                "auto scales and centres pictures as MNIST was made, unless they are "
                "28x28; mnist does so always, none never.",
                {"type": "string", "enum": ["auto", "mnist", "none"]},
            ),
            _option("pixels", "Also what the network saw.", {"type": "boolean"}),
        ],
        "requestBody": {
            "required": True,
            "content": dict.fromkeys(kinds, _BYTES) | {"multipart/form-data": form},
        },
        "responses": _responses(
            "A prediction for each picture.",
            {
                "type": "object",
                "properties": {"predictions": {"type": "array", "items": _PREDICTION}},
                "required": ["predictions"],
            },
            401, 415,
        ),
    }  # fmt: skip


def _option(name: str, text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": text, "schema": schema}


def _responses(
    text: str, schema: dict[str, Any], *codes: int, kind: str = "application/json"
) -> dict[str, Any]:
    error = {"type": "object", "properties": {"error": {"type": "string"}}}
    failures = {
        str(code): {
            "description": _ERRORS[code],
            "content": {"application/json": {"schema": error}},
        }
        for code in sorted({*_ALWAYS, *codes})
    }
    good = {"description": text, "content": {kind: {"schema": schema}}}
    return {"200": good, **failures}


def _simple(summary: str, kind: str) -> dict[str, Any]:
    schema = {"type": "object" if kind == "application/json" else "string"}
    return _named(summary, {"responses": _responses(summary, schema, kind=kind)})


def _named(summary: str, operation: dict[str, Any]) -> dict[str, Any]:
    return {"summary": summary, **operation}
