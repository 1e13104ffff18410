# SPDX-License-Identifier: Apache-2.0
"""Reading this machine's apt sources, in both of their formats."""

import pytest

from tests.functional.lab.build import distribution

STANZAS = """\
# A comment, as the installer leaves it
Types: deb deb-src
URIs: http://mirror.test/debian
Suites: bookworm bookworm-updates bookworm-backports
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://vendor.test/apt
Suites: stable
Components: main

Enabled: no
Types: deb
URIs: http://off.test/debian
Suites: bookworm
Components: main

Types: deb-src
URIs: http://sources.test/debian
Suites: bookworm
Components: main
"""

LINES = """\
# deb http://commented.test/debian bookworm main
deb cdrom:[Debian 12]/ bookworm main
deb [arch=amd64 signed-by=/k.gpg] http://mirror.test/debian bookworm main
deb http://mirror.test/security bookworm-security main
deb http://vendor.test/apt stable main
deb-src http://mirror.test/debian bookworm main
"""


@pytest.fixture
def etc(tmp_path):
    (tmp_path / 'sources.list.d').mkdir()
    return tmp_path


def test_stanzas_of_the_release_only(etc):
    (etc / 'sources.list.d/debian.sources').write_text(STANZAS)
    assert distribution.sources('bookworm', etc) == {'lab.sources': """\
Types: deb
URIs: http://mirror.test/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""}


def test_an_embedded_key_stays(etc):
    (etc / 'sources.list.d/x.sources').write_text("""\
Types: deb
URIs: http://mirror.test/debian
Suites: bookworm
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mDMEY865UxYJKwYBBAHaRw8BAQdAd7Z0srwuhlB6JKFkcf4HU4SSS
 -----END PGP PUBLIC KEY BLOCK-----
""")
    text = distribution.sources('bookworm', etc)['lab.sources']
    assert text.endswith(' -----END PGP PUBLIC KEY BLOCK-----\n')
    assert '\n .\n' in text


def test_lines_of_the_release_only(etc):
    (etc / 'sources.list').touch()
    (etc / 'sources.list.d/main.list').write_text(LINES)
    assert distribution.sources('bookworm', etc) == {'lab.list': """\
deb [arch=amd64 signed-by=/k.gpg] http://mirror.test/debian bookworm main
deb http://mirror.test/security bookworm-security main
"""}


def test_the_old_file_is_read_as_well(etc):
    (etc / 'sources.list').write_text(
        'deb http://mirror.test/ubuntu noble main universe\n')
    assert distribution.sources('noble', etc) == {
        'lab.list': 'deb http://mirror.test/ubuntu noble main universe\n'}


def test_nothing_of_the_release(etc):
    (etc / 'sources.list.d/debian.sources').write_text(STANZAS)
    assert distribution.sources('trixie', etc) == {}
