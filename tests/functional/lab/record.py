# SPDX-License-Identifier: Apache-2.0
"""What a lab knows of itself, on disk: another program may take it over."""

import dataclasses
import fcntl
import json
import os
import pathlib
import typing

from tests.functional.lab import node
from tests.functional.lab import process
from tests.servers import settings

NAME = 'lab.json'


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """Chosen when the lab comes up, and not changed afterwards."""

    ports: dict[str, int]
    machines: list[str]
    files: node.Files
    manifest_key: str
    cloud_secret: str | None    #: None without Keystone
    options: settings.Options
    faults: bool
    started: int        #: Unix time

    def write(self, state_dir: pathlib.Path) -> None:
        """Keep it in the lab's folder."""
        (state_dir / NAME).write_text(
            json.dumps(dataclasses.asdict(self), indent=1))

    @classmethod
    def read(cls, state_dir: pathlib.Path) -> 'Record':
        """Read what :meth:`write` wrote.

        :raises LabError: there is no lab, or one of another version.
        """
        try:
            fields = json.loads((state_dir / NAME).read_text())
            return cls(**{**fields, 'files': node.Files(**fields['files'])})
        except FileNotFoundError:
            raise process.LabError(f'there is no lab in {state_dir}')
        except (ValueError, TypeError, KeyError) as error:
            raise process.LabError(
                f'the lab in {state_dir} cannot be used: {error}')


class Use:
    """The right to bring a lab up in a folder; ends with the program.

    :param state_dir: the folder, which need not be there.
    """

    def __init__(self, state_dir: pathlib.Path) -> None:
        self._path = state_dir.parent / f'.{state_dir.name}.lock'
        self._file: typing.IO[str] | None = None

    def begin(self) -> None:
        """Take the right.

        :raises LabError: another program has it, such as a test run.
        """
        if self._file is not None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = open(self._path, 'a+')
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip()
            file.close()
            raise process.LabError(
                f'the lab is in use by process {holder}, which brought it '
                'up and still runs')
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._file = file

    def end(self) -> None:
        """Give the right back."""
        if self._file is not None:
            self._file.close()
            self._file = None
