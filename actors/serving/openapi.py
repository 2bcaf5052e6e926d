"""The OpenAPI document of the HTTP interface, made from the models of its bodies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from actors.serving.http_messages import ErrorResponse

REFERENCE = "#/components/schemas/{model}"
ERRORS = {
    "400": "The request does not fit.",
    "401": "The token is missing or unknown.",
    "503": "A part of the system does not answer, or too many predictions wait.",
}


@dataclass(frozen=True)
class Route:
    """A path, what it is for, and the models of its bodies; ``is_open`` needs no token."""

    method: str
    path: str
    about: str
    response: type[BaseModel]
    request: type[BaseModel] | None = None
    is_open: bool = False


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """Describe routes as OpenAPI 3.1 does."""
    models = {ErrorResponse, *(m for route in routes for m in (route.request, route.response) if m is not None)}
    ordered = sorted(models, key=lambda model: model.__name__)
    _, schemas = models_json_schema([(model, "validation") for model in ordered], ref_template=REFERENCE)
    return {
        "openapi": "3.1.0",
        "info": {"title": "LeWorld", "version": "1", "description": "Predictions of a system, and its memory."},
        "paths": {route.path: {route.method.lower(): _operation(route)} for route in routes},
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    responses = {"200": _content(route.response, "The request was done.")}
    responses |= {code: _content(ErrorResponse, text) for code, text in ERRORS.items()}
    body = {} if route.request is None else {"requestBody": {"required": True, **_content(route.request)}}
    security = [{}] if route.is_open else [{"token": []}, {}]
    return {"summary": route.about, "security": security, **body, "responses": responses}


def _content(model: type[BaseModel], description: str = "") -> dict[str, Any]:
    schema = {"schema": {"$ref": REFERENCE.format(model=model.__name__)}}
    return {**({"description": description} if description else {}), "content": {"application/json": schema}}
