"""The page at `/`: static files of `server/page/`, which may load nothing from elsewhere."""

from importlib.resources import files

from fastapi import APIRouter, Response

# What a browser must not do with the page, even where text on it turned out to be markup.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # a newer server's page must not meet an older one's script
}

FILES = {
    "/": ("index.html", "text/html"),
    "/page/page.css": ("page.css", "text/css"),
    "/page/page.js": ("page.js", "text/javascript"),
    "/page/answers.js": ("answers.js", "text/javascript"),
    "/page/api.js": ("api.js", "text/javascript"),
    "/page/drawing.js": ("drawing.js", "text/javascript"),
    "/page/words.js": ("words.js", "text/javascript"),
    "/page/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""Path → file of `server/page/` and its media type; nothing else of the disk can be asked for."""


def page_router() -> APIRouter:
    """`/` and the files under `/page/`, read once."""
    router = APIRouter(include_in_schema=False)
    folder = files("server") / "page"
    for path, (name, media_type) in FILES.items():
        _add(router, path, (folder / name).read_bytes(), media_type)
    return router


def _add(router: APIRouter, path: str, content: bytes, media_type: str) -> None:
    async def static() -> Response:
        return Response(content, headers=HEADERS, media_type=media_type)

    router.add_api_route(path, static, methods=["GET", "HEAD"])
