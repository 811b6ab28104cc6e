"""Between values and the JSON they are stored and sent as; a document that does not fit is explained field by field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from search_service.domain.errors import FieldProblem, InvalidSpec, UnreadableSpec
from search_service.domain.recipe import Recipe
from search_service.domain.result import SearchResult
from search_service.domain.search import SearchSpec

SPEC: TypeAdapter[SearchSpec] = TypeAdapter(SearchSpec)
RESULT: TypeAdapter[SearchResult] = TypeAdapter(SearchResult)
RECIPE: TypeAdapter[Recipe] = TypeAdapter(Recipe)

SHOWN_INPUT = 60  # characters of a refused value that a reason repeats


def spec_from_json(document: object) -> SearchSpec:
    """Read a search spec.

    Raises:
        UnreadableSpec: it has fields that are missing, unknown or wrong; all of them are named.
    """
    try:
        return SPEC.validate_python(document)
    except ValidationError as error:
        raise UnreadableSpec(explain(error.errors(include_url=False))) from error


def stored_spec(document: object) -> SearchSpec:
    """Read the spec of a stored search; it was checked when it was sent, so a fault in it is ours."""
    return SPEC.validate_python(document)


def spec_to_json(spec: SearchSpec) -> dict[str, Any]:
    """The JSON of a spec, every default written out; ``spec_from_json`` reads it back to an equal value."""
    document: dict[str, Any] = SPEC.dump_python(spec, mode="json")
    return document


def result_from_json(document: object) -> SearchResult:
    """Read a stored result document."""
    return RESULT.validate_python(document)


def result_to_json(result: SearchResult) -> dict[str, Any]:
    """The JSON of a result document."""
    document: dict[str, Any] = RESULT.dump_python(result, mode="json")
    return document


def recipe_from_json(document: object) -> Recipe:
    """Read what a checkpoint was made from."""
    return RECIPE.validate_python(document)


def explain(errors: Sequence[Mapping[str, Any]], whole: str = "spec") -> list[FieldProblem]:
    """Pydantic's errors in the words of this product.

    Args:
        errors: as ``ValidationError.errors()`` gives them.
        whole: what to call the document where the error is in no field of it.
    """
    return [_explain(error, whole) for error in errors]


def _explain(error: Mapping[str, Any], whole: str) -> FieldProblem:
    context = error.get("ctx") or {}
    cause = context.get("error")
    if isinstance(cause, InvalidSpec):
        return FieldProblem(cause.field, cause.reason)
    field = ".".join(str(part) for part in error["loc"]) or whole
    match error["type"]:
        case "unexpected_keyword_argument":
            reason = "unknown field"
        case "extra_forbidden":
            reason = "unknown parameter"
        case "missing" | "missing_argument":
            reason = "is required"
        case "literal_error" | "enum":
            reason = f"must be {context['expected']}, not {_shown(error['input'])}"
        case "dataclass_type" | "model_attributes_type" | "dict_type":
            reason = "must be an object of named fields"
        case "int_from_float" | "int_type" | "int_parsing":
            reason = f"must be a whole number, not {_shown(error['input'])}"
        case "float_type" | "float_parsing":
            reason = f"must be a number, not {_shown(error['input'])}"
        case "string_type":
            reason = f"must be text, not {_shown(error['input'])}"
        case _:
            message = str(error["msg"]).removeprefix("Value error, ")
            reason = message[:1].lower() + message[1:]
    return FieldProblem(field, reason)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_INPUT else text[: SHOWN_INPUT - 1] + "…"
