"""Pages as HTML, from templates that escape whatever they are given."""

from __future__ import annotations

import json
from typing import Any

from fastapi import Request
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse

from search_service import words
from search_service.api.access import Caller
from search_service.pages import assets

_environment = Environment(
    loader=PackageLoader("search_service.pages"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters.update(
    latency=words.latency,
    times=words.times,
    span=words.span,
    moment=words.moment,
    share=words.share,
    figure=words.figure,
    signed=words.signed,
    count=words.count,
    phase=words.phase,
    indented=lambda document: json.dumps(document, indent=2, ensure_ascii=False),
)
_environment.globals["asset"] = assets.address


def page(request: Request, template: str, caller: Caller | None, status: int = 200, **content: Any) -> HTMLResponse:
    """A template as an answer.

    Args:
        request: what is answered.
        template: name of the template, without its ending.
        caller: who is signed in, if anybody.
        status: of the answer.
        content: what the template shows.
    """
    settings = request.app.state.settings
    text = _environment.get_template(f"{template}.html").render(
        caller=caller,
        here=request.url.path,
        dashboard_url=settings.dashboard_url,
        **content,
    )
    return HTMLResponse(text, status, headers={"Cache-Control": "no-store"})
