"""Servers of a test's own, on loopback ports."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

__all__ = ["port", "postgres"]


def port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a PostgreSQL server of the test's own, on a loopback port."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(shutil.which("initdb") or "none")]
    if not found[-1].exists():
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    programs = found[-1].parent
    # The server refuses to run as root: "nobody" has no home, but needs none.
    account: dict[str, Any] = {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}
    folder = Path("/tmp") / f"flowbench-postgres-{os.getpid()}"  # tests' own folders are closed to other accounts
    folder.mkdir(mode=0o700)
    if account:
        shutil.chown(folder, **account)
    number = port()
    settings = f"-p {number} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"

    def run(*command: str) -> None:
        subprocess.run(
            command, check=True, cwd="/", stdout=subprocess.DEVNULL, extra_groups=[] if account else None, **account
        )

    try:
        run(str(programs / "initdb"), "-D", str(folder / "data"), "-U", "flowbench", "--auth=trust", "--no-sync")
        run(
            str(programs / "pg_ctl"),
            "-D",
            str(folder / "data"),
            "-l",
            str(folder / "log"),
            "-w",
            "-o",
            settings,
            "start",
        )
        yield f"postgresql://flowbench@127.0.0.1:{number}/postgres"
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            run(str(programs / "pg_ctl"), "-D", str(folder / "data"), "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)
