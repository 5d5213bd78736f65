"""No command writes or prints the secrets of the addresses that it is given, or puts them on a command line."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

import flowbench
from flowbench.__main__ import main
from flowbench.system.credentials import without_credentials
from flowbench.system.databases import with_driver
from flowbench.tracking.probe import look
from tests.servers import postgres
from tests.studies import SPACE, TUNE

__all__ = ["postgres"]

SECRETS = ("S3CRET", "QU3RY")
DEAD = "127.0.0.1:1/db?user=me&sslpassword=QU3RY&api_token=QU3RY"
TRACKING = {
    "server": "http://me:S3CRET@127.0.0.1:1?token=QU3RY",
    "token": "https://S3CRET@127.0.0.1:1/?access_token=QU3RY",
    "database": f"postgresql://me:S3CRET@{DEAD}",
    "unescaped": "postgresql://me:S3CRET/QU3RY#S3CRET@127.0.0.1:1/db",
    "nothing": "ftp://me:S3CRET@127.0.0.1/x?password=QU3RY",
}
STORAGES = [
    f"postgresql://me:S3CRET@{DEAD}",
    "postgresql://me:S3CRET/QU3RY@127.0.0.1:1/db",
    f"mysql://me:S3CRET@{DEAD}",
    "grpc://me:S3CRET@:QU3RY",
    "postgresql:/me:S3CRET@127.0.0.1/QU3RY@x",
    "me:S3CRET@127.0.0.1/db",
]
TINY = ["model.features=4", "model.residual_blocks=1", "train.steps=2", "evaluate.draws=1"]
Call = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, made without tracking."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWBENCH_TRACKING", "off")
        patch.setattr(sys, "argv", ["flowbench", "train", "real_nvp/digits", *TINY, "--run-dir", str(folder)])
        with pytest.raises(SystemExit):
            main()
    return folder


@pytest.fixture
def call(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """Run a command in a folder of its own and return exit code and all that it printed; nothing may hold a secret."""
    commands: list[str] = []
    start = subprocess.Popen.__init__

    def watched(self: Any, args: Any, *rest: Any, **options: Any) -> None:
        commands.append(str(args))
        start(self, args, *rest, **options)

    def one(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["flowbench", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        printed = "".join(capfd.readouterr())
        for secret in SECRETS:
            assert secret not in printed
            assert secret not in str(commands)
            written = [path for folder in (tmp_path, finished) for path in folder.rglob("*") if path.is_file()]
            assert not [path for path in written if secret.encode() in path.read_bytes()]
        return int(caught.value.code or 0), printed

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLOWBENCH_TRACKING", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("FLOWBENCH_OFFLINE", "1")
    monkeypatch.setattr(subprocess.Popen, "__init__", watched)
    monkeypatch.setenv("PYTHONPATH", str(Path(flowbench.__file__).parent.parent))
    Path("searched.yaml").write_text(SPACE + TUNE)
    return one


@pytest.mark.parametrize("kind", TRACKING)
def test_no_address_of_mlflow_is_given_away_by_its_failure(
    kind: str, finished: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", TRACKING[kind])
    code, printed = call("track", "import", str(finished))
    assert code == (3 if kind in ("server", "token") else 2)
    assert without_credentials(TRACKING[kind]).partition("://")[2] in printed
    assert "Traceback" in call("track", "import", str(finished), "--debug")[1]
    words, remedy = look(TRACKING[kind])
    assert remedy is not None
    assert not any(secret in words + remedy for secret in SECRETS)


@pytest.mark.parametrize(
    ("code", "command"),
    [
        (2, "track ui --port 0"),
        (0, "evaluate {run} --draws 1"),
        (0, "figures {run} --kind likelihood"),
        (0, "export {run} --out model"),
        (0, "report {run} --out page"),
        (0, "compare {run} {copy}"),
        (0, "data list"),
        (2, "train real_nvp/digits postgresql://me:S3CRET@127.0.0.1/db?password=QU3RY"),
        pytest.param(1, "doctor", marks=pytest.mark.slow),
        pytest.param(0, "train real_nvp/digits {tiny}", marks=pytest.mark.slow),
        pytest.param(3, "train real_nvp/digits {tiny} train.steps=4 optim.lr=1e30", marks=pytest.mark.slow),
        pytest.param(0, "reproduce quick --only digits train.steps=0", marks=pytest.mark.slow),
        pytest.param(
            0, "throughput run real_nvp/digits {tiny} --batch 2 --repeats 5 --out t.json", marks=pytest.mark.slow
        ),
    ],
)
def test_no_command_gives_away_the_address_of_mlflow(
    code: int, command: str, finished: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", TRACKING["server"])
    copy = shutil.copytree(finished, "copy")
    found, printed = call(*command.format(run=finished, copy=copy, tiny=" ".join(TINY)).split())
    assert found == code, printed


@pytest.mark.parametrize("storage", STORAGES)
def test_no_storage_is_given_away_by_its_failure(storage: str, call: Call) -> None:
    for command in (
        ["tune", "searched.yaml", "--trials", "1"],
        ["tune", "searched.yaml", "--trials", "1", "--debug"],
        ["tune", "searched.yaml", "--storag", storage],
        ["tune", "searched.yaml", "--submit", "slurm"],
        ["compare", "--study", "a"],
    ):
        code, printed = call(*command, "--storage", storage)
        assert code == 2, printed


@pytest.fixture
def password(postgres: str) -> str:
    """The address of the test's own PostgreSQL server with a password, which that server does not ask for."""
    return postgres.replace("flowbench@", "flowbench:S3CRET@")


@pytest.mark.slow
@pytest.mark.postgres
def test_databases_that_work_hold_no_secret_either(password: str, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    with sqlalchemy.create_engine(with_driver(password), isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(sqlalchemy.text("CREATE DATABASE tracking"))
    tracking = password.replace("/postgres", "/tracking")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
    tune = [
        "tune",
        "searched.yaml",
        "train.steps=2",
        "evaluate.draws=1",
        "train.validate_every=1",
        "study.pruner=none",
        "--study",
        "a",
    ]
    told = []
    for command in (
        [*tune, "--trials", "2", "--storage", password],
        [*tune, "--trials", "3", "--storage", password, "--submit", "local", "--workers", "1"],
        ["compare", "--study", "a", "--storage", password],
    ):
        code, printed = call(*command)
        assert code == 0, printed
        told.append(printed)
    assert look(tracking) == (f"{without_credentials(tracking)}: takes runs", None)
    assert "3 complete" in told[1]
    for address in (password, tracking):
        engine = sqlalchemy.create_engine(with_driver(address))
        with engine.connect() as connection:
            for table in sqlalchemy.inspect(engine).get_table_names():
                rows = connection.execute(sqlalchemy.text(f'SELECT * FROM "{table}"')).fetchall()
                assert not any(secret in str(rows) for secret in SECRETS)
        engine.dispose()
