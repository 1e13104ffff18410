# SPDX-License-Identifier: Apache-2.0
"""Where the lab keeps things: the cache (outlives a lab) and its state."""

import os
import pathlib

#: The root of the source tree.
REPOSITORY = pathlib.Path(__file__).resolve().parents[3]

#: Where recipes that are not Python lie, beside this file.
FILES = pathlib.Path(__file__).resolve().parent / 'files'


def cache_dir() -> pathlib.Path:
    """Return the folder of what is built once: venv, ramdisk, OS image.

    It lies outside the source tree. Anything in it may be deleted while no
    lab is up; it is built again when next needed.
    """
    base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    path = pathlib.Path(base).expanduser().absolute() / 'ironic-snapshot'
    path.mkdir(parents=True, exist_ok=True)
    return path


def default_state_dir() -> pathlib.Path:
    """Return the folder of the lab that is meant when none is named.

    ``SNAPSHOT_LAB_STATE`` names another one, for a second lab. It should be
    short: a Unix socket's path may not be longer than 107 bytes.
    """
    named = os.environ.get('SNAPSHOT_LAB_STATE')
    return pathlib.Path(named) if named else cache_dir() / 'lab'
