"""The pages, all together."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header
from starlette.exceptions import HTTPException
from starlette.responses import Response

from search_service.api.access import check_host
from search_service.pages import assets, listing, reference, report, sign_in
from search_service.pages.routing import PageRoute

FOR_EVER = "public, max-age=31536000, immutable"
ASK_AGAIN = "no-cache"

router = APIRouter(include_in_schema=False, dependencies=[Depends(check_host)], route_class=PageRoute)


@router.get(assets.PREFIX + "/{digest}/{name}")
def get_asset(digest: str, name: str, accept_encoding: Annotated[str, Header()] = "") -> Response:
    """A style, a script or a picture; open to everybody, for the page to sign in needs them."""
    try:
        asset = assets.load(name)
    except FileNotFoundError as error:
        raise HTTPException(404, f"no file is called '{name}'") from error
    # A page of an earlier version names earlier content: it gets the present one, but must not keep it.
    headers = {"Cache-Control": FOR_EVER if digest == assets.digest() else ASK_AGAIN, "Vary": "Accept-Encoding"}
    if "gzip" in accept_encoding:
        return Response(asset.compressed, media_type=asset.media_type, headers={**headers, "Content-Encoding": "gzip"})
    return Response(asset.plain, media_type=asset.media_type, headers=headers)


for part in (sign_in, listing, report, reference):
    router.include_router(part.router)
