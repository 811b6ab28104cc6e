"""Refuses bodies that are too large, as a problem; the framework's own limit answers in plain text."""

from __future__ import annotations

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_SIZE = 256 * 1024  # bytes; a spec has about a thousand


class BodyLimit:
    """ASGI middleware that stops reading a body at ``MAX_BODY_SIZE``."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request whose body is counted as it is read."""
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MAX_BODY_SIZE:
                raise HTTPException(413, f"a body may have {MAX_BODY_SIZE} bytes")
            return message

        await self.app(scope, counted, send)
