"""The pages and their files, sent with a policy that lets a browser load nothing from elsewhere."""

from pathlib import Path
from typing import Any

from fastapi.responses import HTMLResponse
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

WEB = Path(__file__).parents[1] / "web"

# Scripts and styles come only from files of this server, and frames go only to this server. A page
# makes blob: addresses itself, for a frame or a video that the user has chosen.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' blob: data:; media-src blob:; base-uri 'none'; "
    "form-action 'none'",
    "Cache-Control": "no-cache",  # a browser asks again, so that a page and its script fit
}


class WebFiles(StaticFiles):
    """The files of the pages, with PAGE_HEADERS. Mount it as /web."""

    def __init__(self) -> None:
        super().__init__(directory=WEB)

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update(PAGE_HEADERS)
        return response


def page_response(file: str) -> HTMLResponse:
    """Returns a page of WEB with PAGE_HEADERS."""
    return HTMLResponse((WEB / file).read_text(encoding="utf-8"), headers=PAGE_HEADERS)
