"""Large files over the API: with their checksum, and from the byte at which a download broke off."""

import re
from io import BytesIO
from typing import BinaryIO

from django.http import FileResponse, HttpRequest

_RANGE = re.compile(r"bytes=([0-9]{1,18})-")


def file_response(request: HttpRequest, file: BinaryIO, *, name: str, size: int, sha256: str) -> FileResponse:
    """The file, whole (200) or from a byte on (206: “Range: bytes=N-”). Its ETag is its sha256.

    Other ranges, and those of another file than If-Range names, get all of it.
    """
    etag = f'"{sha256}"'
    asked = _RANGE.fullmatch(request.headers.get("Range", ""))
    start = int(asked[1]) if asked else 0
    partial = 0 < start < size and request.headers.get("If-Range", etag) == etag
    if partial:
        file.seek(start)
    response = FileResponse(
        file,
        as_attachment=True,
        filename=name.rpartition("/")[2],
        content_type="application/octet-stream",
        status=206 if partial else 200,
    )
    response["ETag"], response["Accept-Ranges"] = etag, "bytes"
    response["Content-Length"] = str(size - start if partial else size)
    if partial:
        response["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
    return response


def opened(content: bytes) -> BinaryIO:
    """Bytes as a file."""
    return BytesIO(content)
