"""A real PostgreSQL server for a test: started on the loopback address, in a folder of its own, and stopped."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

USER = "postgres"
GUARDED = "guarded"  # the only role that has to give a password; a test makes it


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of an empty database, for as long as the block lasts; skips where PostgreSQL is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))  # Debian's place, which is not on the PATH
    binaries = Path(found[-1] if found else Path(shutil.which("postgres") or "").parent)
    if not (binaries / "initdb").exists():
        pytest.skip("needs a PostgreSQL server (Debian's package postgresql)")
    pytest.importorskip("psycopg", reason="needs psycopg (pip install 'drexcache[postgres]')")
    # PostgreSQL refuses to run as root; root becomes the account that its package made.
    as_user = ["runuser", "-u", USER, "--"] if os.geteuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="drexcache-postgres-"))
    if as_user:
        shutil.chown(folder, USER)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(program: str, *arguments: str) -> None:
        done = subprocess.run(
            [*as_user, str(binaries / program), *arguments], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"

    data = str(folder / "data")
    try:
        run("initdb", "-D", data, "-U", USER, "--auth=trust", "--no-sync", "-E", "UTF8")
        rules = Path(data, "pg_hba.conf")
        rules.write_text(f"host all {GUARDED} all scram-sha-256\n{rules.read_text()}")
        options = f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off"
        run("pg_ctl", "-D", data, "-l", str(folder / "log"), "-w", "-o", options, "start")
        try:
            yield f"postgresql+psycopg://{USER}@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder)
