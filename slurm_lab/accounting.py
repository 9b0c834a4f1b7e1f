"""The database of a lab that keeps accounts."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from .machine import RUNNER, USERS, program
from .processes import Daemon, LabError, eventually, run
from .settings import DATABASE, PASSWORD, Place, my_cnf, slurmdbd_conf

_UNTIL_STOPPED = 'until "$@" || ! [ -e "$0" ]; do sleep 0.1; done'
"""MariaDB was seen to end by a segmentation fault: then it is started again, as any service is."""


class Accounting:
    """MariaDB and slurmdbd."""

    def __init__(self, place: Place, env: dict[str, str]) -> None:
        self._place = place
        self._env = env
        slurmdbd = program("slurmdbd") or "slurmdbd"
        self.slurmdbd = Daemon((slurmdbd,), place.folder / "run" / "slurmdbd.pid", env)
        self._options = place.folder / "etc" / "my.cnf"
        self._database = Daemon(
            (program("mariadbd") or "mariadbd", f"--defaults-file={self._options}", "--user=mysql"),
            place.folder / "mysql" / "mysql.pid",
            env,
        )

    def start(self, accounts: Iterable[str]) -> None:
        """Start what is not there; the accounts have root, the runner and the other users."""
        self._configure()
        self._start_database()
        self.start_slurmdbd()
        if not self._sacctmgr("show", "cluster", self._place.cluster):
            self._sacctmgr("add", "cluster", self._place.cluster)
        have = self._sacctmgr("show", "assoc", f"cluster={self._place.cluster}", "format=account").split()
        for account in accounts:
            if account not in have:
                self._sacctmgr("add", "account", account, f"Cluster={self._place.cluster}")
                users = ",".join(("root", RUNNER, *USERS))
                self._sacctmgr("add", "user", users, f"Account={account}", f"Cluster={self._place.cluster}")

    def start_slurmdbd(self) -> None:
        """Start it, and wait until it answers."""
        self.slurmdbd.start()
        eventually(self._answers, 30, "slurmdbd does not answer")

    def stop(self) -> None:
        """Stop both."""
        self.slurmdbd.stop()
        self._database.stop()

    def _configure(self) -> None:
        self._options.write_text(my_cnf(self._place))
        slurmdbd = self._place.folder / "etc" / "slurmdbd.conf"
        slurmdbd.touch(0o600)
        shutil.chown(slurmdbd, "slurm", "slurm")
        slurmdbd.write_text(slurmdbd_conf(self._place))

    def _start_database(self) -> None:
        data = self._place.folder / "mysql"
        if not (data / "mysql").is_dir():
            self._make_database(data)
        if self._database.pid is None:
            command = ("sh", "-c", _UNTIL_STOPPED, str(self._options), *self._database.command)
            in_background = 'exec setsid --fork "$@" </dev/null >/dev/null 2>&1'
            run("sh", "-c", in_background, "sh", *command, env=self._env)
        socket = f"--socket={data}/mysql.sock"
        eventually(lambda: self._succeeds("mariadb-admin", "--no-defaults", socket, "ping"), 60, "no MariaDB")
        statements = (
            f"create database if not exists {DATABASE};"
            f"create user if not exists 'slurm'@'127.0.0.1' identified by '{PASSWORD}';"
            f"grant all on {DATABASE}.* to 'slurm'@'127.0.0.1'"
        )
        run("mariadb", "--no-defaults", socket, "-e", statements, env=self._env)

    def _make_database(self, data: Path) -> None:
        """Tried again, as MariaDB may crash at this, too; what it has logged is told."""
        install = program("mariadb-install-db") or "mariadb-install-db"
        authentication = "--auth-root-authentication-method=socket"
        options = (f"--defaults-file={self._options}", "--user=mysql", authentication, "--skip-test-db")
        for tries_left in (2, 1, 0):
            data.mkdir(exist_ok=True)
            shutil.chown(data, "mysql", "mysql")
            try:
                run(install, *options, env=self._env)
            except LabError as error:
                log = data / "mysql.log"
                logged = log.read_text(errors="replace") if log.exists() else ""
                shutil.rmtree(data)
                if not tries_left:
                    raise LabError(f"{error}\n{logged}") from None
            else:
                return

    def _answers(self) -> bool:
        return self._succeeds("sacctmgr", "-n", "show", "cluster")

    def _succeeds(self, *command: str) -> bool:
        return subprocess.run(command, check=False, capture_output=True, env=self._env).returncode == 0

    def _sacctmgr(self, *arguments: str) -> str:
        return run("sacctmgr", "-inP", *arguments, env=self._env).strip()
