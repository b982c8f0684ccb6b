import dataclasses

import pytest

from mobile_sam.serve.settings import MIN_CACHE_BYTES, ServeSettings, is_loopback


def test_the_defaults_are_for_this_machine_alone():
    settings = ServeSettings()
    assert (settings.host, settings.port, settings.token, settings.cors_origins) == ("127.0.0.1", 8000, None, ())


def test_settings_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ServeSettings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.5.6.7", "::1", "[::1]", "localhost", "LocalHost"])
def test_loopback_needs_no_token(host):
    assert is_loopback(host)
    assert ServeSettings(host=host).token is None


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.168.1.4", "example.org", "localhost.example.org", "127.0.0.1.nip.io"]
)
def test_what_others_can_reach_needs_a_token(host):
    with pytest.raises(ValueError, match="can be reached from other machines, so a token is needed"):
        ServeSettings(host=host)
    assert ServeSettings(host=host, token="secret").token == "secret"


@pytest.mark.parametrize("token", ["", " ", "two words", "line\nbreak", "tab\there", "schlüssel", "nul\0"])
def test_a_token_must_fit_into_a_header_and_is_not_shown(token):
    with pytest.raises(ValueError, match="printable ASCII") as raised:
        ServeSettings(token=token)
    assert not token.strip() or token not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", -1),
        ("port", 65_536),
        ("workers", 0),
        ("workers", 1.5),
        ("workers", True),
        ("num_threads", -1),
        ("max_pixels", 0),
        ("max_body_bytes", 0),
        ("max_objects", 0),
        ("max_points", 0),
        ("max_waiting", 0),
        ("cache_bytes", MIN_CACHE_BYTES - 1),
        ("timeout_s", 0),
        ("timeout_s", -1.0),
        ("timeout_s", float("nan")),
        ("timeout_s", float("inf")),
        ("shutdown_s", -0.1),
        ("shutdown_s", "5"),
        ("host", ""),
        ("cors_origins", "https://example.org"),
        ("cors_origins", ("",)),
        ("cors_origins", (1,)),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_name(name, value):
    with pytest.raises(ValueError, match=name):
        ServeSettings(**{name: value})


def test_the_ends_of_the_ranges_are_taken():
    ServeSettings(port=0, workers=1, cache_bytes=MIN_CACHE_BYTES, shutdown_s=0, timeout_s=0.001, max_waiting=1)
    ServeSettings(port=65_535, workers=256, cors_origins=["https://example.org"])  # type: ignore[arg-type]
