"""No form of an address gives its secret away: shown, in others' messages, on a stream."""

import io
import sys
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbench.system.credentials import ScrubbedStream, has_credentials, scrubbed, without_credentials

SECRETS = ["secret", "s3cr3t-Hunter", "ab/xyzzy", "ab?xyzzy", "ab#xyzzy", "ab@xyzzy", "12/xyzzy", "%41b%40c"]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "form",
    [
        "postgresql://me:{}@host:5/db",
        "postgresql+psycopg2://me:{}@host/db?sslmode=require",
        "http://me:{}@host:5000",
        "https://{}@host/path",
        "sqlite+pysqlcipher://:{}@/a.db",
        "me:{}@host/db",
        "postgresql://host/db?user=me&password={}",
        "https://host/path?x=1&access_token={}",
        "mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3D{}",
    ],
)
def test_an_address_is_shown_without_its_secret(form: str, secret: str) -> None:
    uri = form.format(secret)
    assert has_credentials(uri)
    for piece in ("xyzzy", "secret", "Hunter", "%40c"):
        assert piece not in without_credentials(uri)
        assert piece not in scrubbed(f"{secret}: cannot open '{uri}'", uri)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://me:secret@host:5", "http://host:5"),
        ("postgresql://me:a@b@host:5/db", "postgresql://host:5/db"),
        ("http://[::1]:5000/x", "http://[::1]:5000/x"),
        ("http://\x1b[31mred:5", "http:// [31mred:5"),
        ("sqlite:////home/me@work/#1/mlflow.db?timeout=5", "sqlite:////home/me@work/#1/mlflow.db"),
        ("sqlite:///optuna.db", "sqlite:///optuna.db"),
        ("grpc://host:13000", "grpc://host:13000"),
        ("/home/me@work/mlruns", "/home/me@work/mlruns"),
        ("./mlruns", "./mlruns"),
        ("optuna.db", "optuna.db"),
        ("databricks", "databricks"),
    ],
)
def test_what_is_no_secret_is_shown(uri: str, shown: str) -> None:
    assert without_credentials(uri) == shown


@pytest.mark.parametrize(
    "uri", ["postgresql://me@host/db", "sqlite:////a@b:c/x.db", "http://host:5000", "grpc://host:13000", "optuna.db"]
)
def test_no_secret_is_seen_where_there_is_none(uri: str) -> None:
    assert not has_credentials(uri)
    assert scrubbed(f"me, host: {uri}: refused") == f"me, host: {uri}: refused"


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"], exclude_characters=" "), min_size=3))
def test_no_password_is_shown_whatever_its_characters(password: str) -> None:
    for written in (quote(password, safe=""), password):
        uri = f"postgresql://me:S3CRET{written}T3RCES@host/db"
        assert "S3CRET" not in without_credentials(uri)
        assert "T3RCES" not in without_credentials(uri)
        message = scrubbed(f"could not parse '{uri}': invalid port 'S3CRET{written}T3RCES'", uri)
        assert "S3CRET" not in message
        assert "T3RCES" not in message


def test_a_hint_is_no_secret() -> None:
    assert scrubbed("write postgresql://USER@HOST/NAME") == "write postgresql://USER@HOST/NAME"


def test_what_the_process_was_given_is_scrubbed_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["flowbench", "tune", "x", "--storage=postgresql://me:first@host/db"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:second@host")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "third")
    assert scrubbed("first, second, third: refused, firstly") == "***, ***, ***: refused, firstly"


def test_a_stream_leaves_out_what_libraries_log() -> None:
    written = io.StringIO()
    stream = ScrubbedStream(written)
    print("GET http://me:secret@host/a?token=secret&x=1 failed\n", end="", file=stream)
    stream.writelines(["model.tokens=8 passes=train\n"])
    assert written.getvalue() == "GET http://host/a?token=***&x=1 failed\nmodel.tokens=8 passes=train\n"
    assert stream.encoding == written.encoding
