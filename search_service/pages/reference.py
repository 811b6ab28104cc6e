"""The API's documentation, to read and to try: Swagger UI, from this machine."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from search_service.api.access import Reader
from search_service.pages.routing import PageRoute
from search_service.pages.templates import page

router = APIRouter(route_class=PageRoute)


@router.get("/docs")
def documentation(request: Request, caller: Reader) -> Response:
    """Every path of the API; requests that are tried go out with the session's key."""
    document = request.app.openapi()
    operations = [
        (method.upper(), path, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
    ]
    return page(request, "docs", caller, title=document["info"]["title"], operations=operations)
