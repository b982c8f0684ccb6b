import base64

import pytest

PUBLIC = {"host": "0.0.0.0", "token": "s3cret", "url": "http://public.example"}


@pytest.mark.parametrize(
    "authorization",
    [
        None, "Bearer", "Bearer ", "Bearer s3cre", "Bearer s3cret2", "bearer", "s3cret", "Token s3cret",
        "Basic " + base64.b64encode(b"u:s3cre").decode(), b"Bearer s3cr\xc3\xa9t", "Bearer S3CRET",
    ],
)  # fmt: skip
def test_without_the_token_nothing_is_answered(serve, is_problem, authorization):
    client = serve(**PUBLIC)
    headers = {} if authorization is None else {"Authorization": authorization}
    for method, path in [
        ("POST", "/v1/embeddings"), ("POST", "/v1/segment"), ("POST", "/v1/everything"), ("GET", "/v1/models"),
        ("GET", "/metrics"), ("GET", "/openapi.json"), ("GET", "/nothing"), ("POST", "/label-studio/setup"),
        ("GET", "/healthz/"), ("GET", "/readyz/x"),
    ]:  # fmt: skip
        answer = client.request(method, path, headers=headers)
        is_problem(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"


def test_with_the_token_all_is_answered_from_any_host_and_page(serve):
    client = serve(**PUBLIC)
    for scheme in ("Bearer", "bearer"):
        headers = {"Authorization": f"{scheme} s3cret", "Origin": "https://elsewhere.example"}
        assert client.get("/v1/models", headers=headers).status_code == 200


def test_who_watches_over_servers_needs_no_token(serve):
    client = serve(**PUBLIC)
    assert (client.get("/healthz").status_code, client.get("/readyz").status_code) == (200, 200)


def test_label_studio_may_send_the_token_as_a_password(serve):
    client = serve(**PUBLIC)
    assert client.get("/label-studio/health", auth=("any", "s3cret")).status_code == 200
    assert client.get("/label-studio/health", auth=("any", "wrong")).status_code == 401
    assert client.get("/label-studio/health", headers={"Authorization": "Basic ???"}).status_code == 401
    assert client.get("/v1/models", auth=("any", "s3cret")).status_code == 401


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "", "192.168.1.4", "a@b",
     "127.0.0.1@evil.example", "[::1", "0.0.0.0:8000", "evil.example/localhost"],
)  # fmt: skip
def test_names_that_others_may_have_given_our_address_are_refused(client, is_problem, host):
    for path in ("/", "/healthz", "/v1/models"):
        is_problem(client.get(path, headers={"Host": host}), 421)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost:1234", "LOCALHOST", "[::1]:8000", "a.localhost", "127.8.9.1:80"]
)
def test_names_of_loopback_are_taken(client, host):
    assert client.get("/v1/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:9999", "http://localhost:8000", ""]
)
def test_pages_of_other_sites_are_refused_whatever_they_ask(client, picture, is_problem, origin):
    headers = {"Origin": origin}
    is_problem(client.post("/v1/embeddings", content=picture, headers=headers), 403)
    is_problem(client.get("/v1/models", headers=headers), 403)
    preflight = {**headers, "Access-Control-Request-Method": "POST"}
    answer = client.options("/v1/segment", headers=preflight)
    is_problem(answer, 403)
    assert "access-control-allow-origin" not in answer.headers


def test_the_servers_own_page_may_ask(client, picture):
    answer = client.post("/v1/embeddings", content=picture, headers={"Origin": "http://127.0.0.1:8000"})
    assert answer.status_code == 201
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_pages_that_were_allowed_may_ask_and_read(serve, picture):
    client = serve(cors_origins=("https://good.example",))
    good = {"Origin": "https://good.example"}
    preflight = client.options(
        "/v1/segment",
        headers={**good, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"},
    )
    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, "https://good.example")
    answer = client.post("/v1/embeddings", content=picture, headers=good)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (201, "https://good.example")
    assert "X-Request-Id" in answer.headers["access-control-expose-headers"]
    refused = client.post("/v1/embeddings", content=picture, headers={"Origin": "https://bad.example"})
    assert refused.status_code == 403
    assert "access-control-allow-origin" not in refused.headers
