"""What browsers are told to refuse, and which addresses a page may send them to."""

from __future__ import annotations

from urllib.parse import urlsplit

from fastapi import Request

CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    ]
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: under that a browser sends its own forms with the origin "null", as a foreign page's.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
HOME = "/"


def local_path(wanted: str | None) -> str:
    """Where to go after signing in: a path of this service, or the first page where something else is asked for."""
    text = wanted or HOME
    # Browsers take "\\" for "/" and drop tabs and line ends, so "/\\evil" and "/<tab>/evil" would lead away.
    if not text.startswith("/") or text.startswith("//") or "\\" in text or not text.isprintable():
        return HOME
    parts = urlsplit(text)
    return HOME if parts.scheme or parts.netloc else text


def is_secure(request: Request) -> bool:
    """Whether the browser came over https, also where a proxy speaks http with this process.

    The origin of a form is the browser's own word, and has been checked to be this service's.
    """
    return request.url.scheme == "https" or urlsplit(request.headers.get("origin", "")).scheme == "https"


def comes_from_elsewhere(request: Request) -> bool:
    """Whether a foreign page led here: then a browser keeps a ``SameSite=Strict`` cookie back."""
    return request.headers.get("sec-fetch-site") in ("cross-site", "same-site")
