"""Requests of senders who mean harm, or whose programs are broken: none gets more than a problem document."""

import base64
import json
import struct
import tempfile
import zlib

import pytest

from mobile_sam.serve.requests import MAX_PART_HEADER_BYTES

CLICK = '{"points": [[1, 1]]}'


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, *chunks):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")


BOMB = zlib.compress(bytes(200_000_000), 9)  # 200 MB of zeros in 200 kB


@pytest.mark.parametrize(
    ("picture", "status"),
    [
        (png(100_000, 100_000, chunk(b"IDAT", zlib.compress(b""))), 413),
        (png(2**31 - 1, 2**31 - 1, chunk(b"IDAT", b"")), 413),
        (png(12_000, 12_000, chunk(b"IDAT", zlib.compress(b""))), 413),
        (png(0, 10, chunk(b"IDAT", zlib.compress(b""))), 400),
        (png(8, 8, chunk(b"zTXt", b"a\0\0" + BOMB), chunk(b"IDAT", zlib.compress(bytes(200)))), 400),
        (png(8, 8, chunk(b"iTXt", b"a\0\1\0\0\0" + BOMB), chunk(b"IDAT", zlib.compress(bytes(200)))), 400),
        (png(8, 8, chunk(b"IDAT", zlib.compress(b"")[:4])), 400),
        (b"\x89PNG\r\n\x1a\n", 400),
        (b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\0;", 413),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>", 400),
        (b"%PDF-1.4", 400),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 400),
        (b"/etc/passwd", 400),
        (b"http://127.0.0.1:1/a.png", 400),
        (b"II*\0\x08\0\0\0" + b"\xff" * 64, 400),
        (b"RIFF\xff\xff\xff\xffWEBPVP8 \xff\xff\xff\xff", 400),
    ],
    ids=range(16),
)
def test_bombs_and_no_pictures_are_the_senders_mistake(client, is_problem, picture, status):
    for body in (picture, picture + bytes(100)):
        is_problem(client.post("/v1/embeddings", content=body), status)
    assert client.get("/healthz").status_code == 200


def test_no_program_is_run_for_a_picture(client, monkeypatch, is_problem):
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("PostScript was run"))
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    is_problem(client.post("/v1/embeddings", content=postscript), 400)


def test_a_photo_cut_short_is_the_senders_mistake(client, make_picture, is_problem):
    whole = make_picture(640, 480, file_format="JPEG")
    for num_bytes in (2, 100, len(whole) // 2, len(whole) - 20):
        is_problem(client.post("/v1/embeddings", content=whole[:num_bytes]), 400)


@pytest.mark.parametrize(
    "path",
    [
        "/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc/passwd", "/assets/..%5c..%5csecret", "/%00", "/index.html%00.png",
        "/v1/embeddings/..%2f..%2fetc%2fpasswd", "/v1/embeddings/emb_%00", "/v1/embeddings/%ff%fe", "//evil.example/",
        "/v1/embeddings/" + "a" * 20_000, "/models/..%2fpyproject.toml", "/v1/embeddings/%f0%9f%90%88", "/%252e%252e/a",
    ],
)  # fmt: skip
def test_no_path_leads_anywhere_else(client, is_problem, path):
    is_problem(client.get("http://127.0.0.1:8000" + path), 404)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b'{"image": "\xff", "objects": [' + CLICK.encode() + b"]}",
        b'{"image": "\\ud800", "objects": [' + CLICK.encode() + b"]}",
        b'{"image": "a", "objects": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        b'{"image": "a", "objects": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b"}",
        b'{"image": "a", "objects": [{"points": [[NaN, 1]]}]}',
        b'{"image": "a", "objects": [{"points": [[Infinity, 1]]}]}',
        b'{"image": "a", "objects": [{"points": [[-Infinity, 1]]}]}',
        b'{"image": "a", "objects": [{"points": [[1e400, 1]]}]}',
        b'{"image": "a", "objects": [{"points": [[1e300, 1]]}]}',
        b'{"image": "a", "objects": [{"points": [[' + b"9" * 5000 + b", 1]]}]}",
        b'{"image": "a", "objects": [{"points": [[true, 1]]}]}',
        b'{"image": "a", "objects": [{"points": [[1, 1]], "labels": [1e99]}]}',
        b'{"image": {"base64": "a", "path": "/etc/passwd"}, "objects": [' + CLICK.encode() + b"]}",
        b'{"image": {"url": "http://127.0.0.1/"}, "objects": [' + CLICK.encode() + b"]}",
        b'{"image": "a", "objects": [' + CLICK.encode() + b'], "__class__": "x"}',
    ],
    ids=range(21),
)
def test_broken_json_is_malformed(client, is_problem, body):
    for path in ("/v1/segment", "/v1/everything"):
        answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
        assert is_problem(answer, 422)["errors"]


def test_of_a_key_that_comes_twice_the_last_one_counts(client, embedding_id, is_problem):
    body = f'{{"image": "emb_no", "image": "{embedding_id}", "objects": [{CLICK}]}}'
    answer = client.post("/v1/segment", content=body, headers={"Content-Type": "application/json"})
    assert answer.json()["id"] == embedding_id


def test_ten_thousand_points_are_refused_unparsed(client, embedding_id, is_problem):
    objects = [{"points": 10_000 * [[1, 1]]}]
    errors = is_problem(client.post("/v1/segment", json={"image": embedding_id, "objects": objects}), 422)["errors"]
    assert "at most 64 points" in errors[0]["what"]
    objects = 100 * [{"points": 10_000 * [[1, 1]]}]
    is_problem(client.post("/v1/segment", json={"image": embedding_id, "objects": objects}), 413)


@pytest.mark.parametrize("name", ["x" * 201, "\x00" * 200, "</script>", "{}[],:" * 30])
def test_names_come_back_as_they_are_or_are_too_long(client, embedding_id, name):
    asked = {"image": embedding_id, "objects": [{"points": [[1, 1]], "name": name}]}
    answer = client.post("/v1/segment", json=asked)
    assert answer.status_code == (422 if len(name) > 200 else 200)
    if answer.status_code == 200:
        assert answer.json()["objects"][0]["name"] == name
        assert answer.headers["content-type"] == "application/json"


def form(*parts, boundary=b"xx"):
    return b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + b"--" + boundary + b"--\r\n"


def part(name, content):
    return b'Content-Disposition: form-data; name="' + name + b'"\r\n\r\n' + content


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"", "multipart/form-data", 400),
        (b"", "multipart/form-data; boundary=", 400),
        (b"", "multipart/form-data; boundary=" + 71 * "x", 400),
        (b"", "multipart/form-data; boundary=xx", 400),
        (b"no boundary here", "multipart/form-data; boundary=xx", 400),
        (form(part(b"image", b"abc"))[:-8], "multipart/form-data; boundary=xx", 400),
        (form(b"no colon\r\n\r\nabc"), "multipart/form-data; boundary=xx", 400),
        (form(b"\r\nabc"), "multipart/form-data; boundary=xx", 422),
        (form(part(b"picture", b"abc")), "multipart/form-data; boundary=xx", 422),
        (form(part(b"../image", b"abc")), "multipart/form-data; boundary=xx", 422),
        (form(part(b"image", b"a"), part(b"image", b"b")), "multipart/form-data; boundary=xx", 422),
        (form(*(9 * [part(b"image", b"a")])), "multipart/form-data; boundary=xx", 422),
        (form(b"X-A: " + b"a" * (MAX_PART_HEADER_BYTES + 1) + b"\r\n\r\na"), "multipart/form-data; boundary=xx", 400),
        (form(part(b"request", b"{}")), "multipart/form-data; boundary=xx", 422),
        (form(part(b"image", b"no picture")), "multipart/form-data; boundary=xx", 400),
    ],
    ids=range(15),
)
def test_broken_forms_are_refused(client, is_problem, body, content_type, status):
    is_problem(client.post("/v1/embeddings", content=body, headers={"Content-Type": content_type}), status)


def test_pictures_never_touch_the_disk(client, make_picture, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a temporary file was made")

    for name in ("SpooledTemporaryFile", "TemporaryFile", "NamedTemporaryFile", "mkstemp", "_TemporaryFileWrapper"):
        monkeypatch.setattr(tempfile, name, refuse)
    large = make_picture(1500, 1200, file_format="BMP")  # 5.4 MB, where forms are otherwise put into files from 1 MB on
    answer = client.post("/v1/embeddings", files={"image": ("a.bmp", large, "image/bmp")})
    assert answer.status_code == 201, answer.text
    asked = {"image": {"base64": base64.b64encode(large).decode()}, "objects": [{"points": [[1, 1]]}]}
    assert client.post("/v1/segment", json=asked).json()["id"] == answer.json()["id"]
    files = {"image": ("a.bmp", large), "request": (None, json.dumps({"objects": [{"points": [[1, 1]]}]}))}
    assert client.post("/v1/segment", files=files).json()["id"] == answer.json()["id"]
