"""The API's description of itself."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from search_service.api.access import Reader

router = APIRouter(include_in_schema=False)


@router.get("/openapi.json")
def openapi(request: Request, _: Reader) -> dict[str, Any]:
    """The OpenAPI document."""
    document: dict[str, Any] = request.app.openapi()
    return document
