"""The files of the page: read once, under addresses that change when any of them does.

So a browser keeps them for good, and its next visit asks for `/` alone. In the files' own texts the
addresses are relative, without the digest: `/page/DIGEST/main.js` imports `./api.js`.
"""

from __future__ import annotations

import hashlib
import mimetypes
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.responses import Response

from metronorm.board.uplot import uplot_folder

if TYPE_CHECKING:
    from starlette.requests import Request

PAGE = Path(__file__).parent / "page"
_TYPES = {".js": "text/javascript", ".css": "text/css", ".json": "application/json"}
_FOREVER = {"Cache-Control": f"public, max-age={365 * 86_400}, immutable"}


class PageFiles:
    """All that is given without a login, found once, so that no request can name another file.

    Raises:
        MissingDependencyError: the package was built without uPlot.
    """

    def __init__(self) -> None:
        files = _read(PAGE, "page") | _read(uplot_folder(), "vendor")
        digest = hashlib.sha256()
        for name, data in files.items():
            digest.update(f"{name} {len(data)} ".encode() + data)
        version = digest.hexdigest()[:20]
        self._tag, index = f'"{version}"', files["page/index.html"].decode()
        self._files = {}
        for name, data in files.items():
            folder, _, rest = name.partition("/")
            index = index.replace(f'="{name}"', f'="{folder}/{version}/{rest}"')
            self._files[f"/{folder}/{version}/{rest}"] = data
        self._files["/"] = index.encode()

    def answer(self, request: Request) -> Response:
        """The file at an address.

        Raises:
            HTTPException: there is none.
        """
        path = request.scope["path"]
        if path not in self._files:
            raise HTTPException(404)
        if path != "/":
            name = path.rpartition("/")[2]
            kind = _TYPES.get(Path(name).suffix) or mimetypes.guess_type(name)[0] or "text/plain"
            return Response(self._files[path], media_type=kind, headers=_FOREVER)
        headers = {"Cache-Control": "no-cache", "ETag": self._tag}
        if request.headers.get("if-none-match") == self._tag:
            return Response(status_code=304, headers=headers)
        return Response(self._files[path], media_type="text/html", headers=headers)


def _read(folder: Path, address: str) -> dict[str, bytes]:
    return {
        f"{address}/{path.relative_to(folder).as_posix()}": path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }
