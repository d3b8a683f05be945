"""What license-courier takes for an authority before it asks one; how it asks is in adapters/test_courier."""

from __future__ import annotations

from pathlib import Path

import pytest

from smartserver_licensed.cli.authority import Authority, CourierUsageError


@pytest.mark.parametrize(
    "url",
    [
        "https://licenses.example.com",
        "HTTPS://licenses.example.com:8443/authority/",
        "https://[2001:db8::1]:8443",
        "http://localhost:8080",
        "http://127.0.0.1:8080",
        "http://[::1]:8080",
    ],
)
def test_https_is_taken_and_http_to_this_machine(url: str) -> None:
    Authority(url)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://licenses.example.com", "'http' to licenses.example.com, expected https"),
        ("http://10.0.0.1", "expected https"),
        ("http://127.0.0.1.example.com", "expected https"),
        ("http://localhost.example.com", "expected https"),
        ("ftp://127.0.0.1", "'ftp' to 127.0.0.1, expected https"),
        ("file:///etc/passwd", "without user and query"),
        ("licenses.example.com", "without user and query"),
        ("https://me:secret@example.com", "without user and query"),
        ("https://example.com/?a=secret", "without user and query"),
        ("https://example.com/#secret", "without user and query"),
        ("https://example.com/a b", "without user and query"),
        ("https://example.com:port", "cannot use the URL"),
        ("https://example.com\r\nX: secret", "cannot use the URL"),
    ],
)
def test_any_other_url_is_refused_and_no_password_in_it_repeated(url: str, said: str) -> None:
    with pytest.raises(CourierUsageError) as refusal:
        Authority(url)
    assert said in str(refusal.value)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"\n", b"two words\n", b"\xff\xfe\n", b"a\x00b\n"])
def test_a_file_without_a_token_is_refused_and_not_repeated(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(CourierUsageError, match="cannot read the token in") as refusal:
        Authority("https://example.com", token_file=str(file))
    assert "two words" not in str(refusal.value)


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    none = str(tmp_path / "none")
    with pytest.raises(CourierUsageError, match="none: No such file"):
        Authority("https://example.com", token_file=none)
    with pytest.raises(CourierUsageError, match=f"cannot use the certificates of {none}"):
        Authority("https://example.com", ca_file=none)
