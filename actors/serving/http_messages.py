"""Bodies of requests and responses over HTTP, and the error of a bad body in one line.

Shapes: B: samples.  S, C, Q, Y: see ``leworld.types``.  N: SLMs.  R: ranges.  W: words of a block.
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from leworld.errors import DataError

MOST_SAMPLES = 4096
"""Largest B."""
Matrix = list[list[float]]
Address = Annotated[int, Field(description="address of a word")]
Word = Annotated[int, Field(ge=0, lt=1 << 32)]


class RequestBody(BaseModel):
    """A body that a client sends. Its fields have the right types and no others are there."""

    model_config = ConfigDict(extra="forbid", strict=True)


class PredictRequest(RequestBody):
    """Samples to predict."""

    current: Matrix = Field(description=f"(B, S) states, B up to {MOST_SAMPLES}")
    characteristics: Matrix = Field(description="(B, C) characteristics of the bodies or systems")
    past: Matrix | None = Field(None, description="(B, S) states one step before; by default current")
    info_query: Matrix | None = Field(None, description="(B, Q) of the response to the step before; by default zeros")
    seen: list[Any] | None = Field(None, description="(B, ...) of the response to the step before; null at a start")


class ReadRequest(RequestBody):
    """Ranges of words to read."""

    start: list[Address] = Field(min_length=1, description="(R,) addresses")
    length: list[int] = Field(min_length=1, description="(R,) numbers of words")


class WriteRequest(RequestBody):
    """Blocks of words to write, all of one length."""

    start: list[Address] = Field(min_length=1, description="(R,) addresses")
    words: list[list[Word]] = Field(min_length=1, description="(R, W) words in [0, 2^32)")


class ReadMade(BaseModel):
    """A range whose words a prediction used."""

    slm: int
    start: Address
    length: int
    read_confidence: float


class PredictResponse(BaseModel):
    """Predictions, and what the next step needs."""

    next_state: Matrix = Field(description="(B, Y) predicted states")
    mask: list[list[int]] = Field(description="(B, N) 1 for an SLM that the BLM trusts")
    slms: list[list[int]] = Field(description="(B, N) numbers of the SLMs that mask is about")
    reads: list[list[ReadMade]] = Field(description="ranges whose words were used, for each sample")
    info_query: Matrix = Field(description="(B, Q) for the request of the next step")
    seen: list[Any] | None = Field(description="(B, ...) for the request of the next step")


class ReadResponse(BaseModel):
    """Words that were read."""

    words: list[list[int]] = Field(description="words of each range")


class WriteResponse(BaseModel):
    """The receipt of a write."""

    sequence: int
    crc32: int


class Widths(BaseModel):
    """Numbers of a sample's fields."""

    state: int
    next_state: int
    characteristics: int
    info_query: int


class TrainedTo(BaseModel):
    """Where training stood."""

    phase: str
    step: int


class AboutResponse(BaseModel):
    """The system that is served."""

    world: str
    widths: Widths
    slms: list[int]
    trained_to: TrainedTo
    address_bits: int


class HealthResponse(BaseModel):
    """The state of the server."""

    status: Literal["ok"] = "ok"
    waiting: int = Field(description="predictions that wait")
    events: list[str] = Field(description="what died and what was done")


class ErrorResponse(BaseModel):
    """An error: what is wrong, where, and what to do."""

    error: str


Body = TypeVar("Body", bound=RequestBody)


def parse(kind: type[Body], content: bytes) -> Body:
    """Read the body of a request.

    Raises:
        DataError: it is not JSON, or does not fit.
    """
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise DataError(_complaint(kind, error)) from None


def _complaint(kind: type[RequestBody], error: ValidationError) -> str:
    """Say what is wrong first: names before types."""
    found = error.errors(include_url=False, include_context=False)
    first = min(found, key=lambda each: each["type"] not in ("missing", "extra_forbidden"))
    where, given = first["loc"], first.get("input")
    if first["type"] == "json_invalid":
        return f"the request is not JSON ({first['msg'].partition(': ')[2]}): send an object"
    if not where:
        return f"the request is a {type(given).__name__}: send a JSON object"
    name = str(where[0])
    if first["type"] == "extra_forbidden":
        return f"{name!r} is not known: {_names(kind)}"
    field = kind.model_fields[name]
    if first["type"] == "missing" or (given is None and field.is_required()):
        return f"{name} is missing: {_names(kind)}"
    return f"{_place(where)} is {reprlib.repr(given)}, {_problem(first['msg'])}: give {field.description}"


def _names(kind: type[RequestBody]) -> str:
    required = [name for name, field in kind.model_fields.items() if field.is_required()]
    optional = [name for name in kind.model_fields if name not in required]
    return f"give {', '.join(required)}" + (f", and if you like {', '.join(optional)}" if optional else "")


def _place(where: Sequence[str | int]) -> str:
    """``current[0][2]``."""
    return str(where[0]) + "".join(f"[{part}]" for part in where[1:] if isinstance(part, int))


def _problem(message: str) -> str:
    """Turn a sentence of pydantic into the middle of one of ours."""
    return message.replace("Input should be", "not").replace("valid array", "list").replace("List should", "but should")
