# SPDX-License-Identifier: Apache-2.0
"""Root file systems of the distribution this machine runs.

Suite and mirrors are read from the machine's own apt sources, so whatever
proxy, snapshot or local mirror it installs from serves the lab as well.
"""

import pathlib
import platform
import re

from tests.functional.lab import process
from tests.functional.lab.build import cache

#: The smallest kernel for virtual machines, by distribution.
KERNEL_PACKAGES = {'debian': 'linux-image-cloud-amd64',
                   'ubuntu': 'linux-image-virtual'}

#: What is in neither file system: nobody reads it there.
EXCLUDED = ('/usr/share/man/*', '/usr/share/doc/*', '/usr/share/info/*',
            '/usr/share/locale/*', '/usr/share/i18n/*',
            '/usr/share/lintian/*', '/usr/share/bug/*')


def os_release() -> tuple[str, str]:
    """Return the distribution's id and the name of its release.

    :raises LabError: it is not one the lab knows.
    """
    release = platform.freedesktop_os_release()
    if release['ID'] not in KERNEL_PACKAGES:
        raise process.LabError(
            'the lab builds its images with apt; it knows '
            f'{" and ".join(KERNEL_PACKAGES)}, not {release["ID"]}')
    return release['ID'], release['VERSION_CODENAME']


def kernel_package() -> str:
    """Return the name of the kernel package of this distribution."""
    return KERNEL_PACKAGES[os_release()[0]]


def sources(codename: str,
            etc: pathlib.Path = pathlib.Path('/etc/apt')) -> dict[str, str]:
    """Return this machine's apt sources of one release.

    Sources of others, such as vendors' repositories, are left out.

    :returns: file name -> content, one file in either format.
    """
    suites = {codename, f'{codename}-updates', f'{codename}-security',
              f'{codename}/updates'}
    lines, stanzas = [], []
    for path in sorted([etc / 'sources.list',
                        *(etc / 'sources.list.d').glob('*')]):
        if not path.is_file():
            continue
        if path.suffix == '.list':
            lines += _lines_of(path.read_text(), suites)
        elif path.suffix == '.sources':
            stanzas += _stanzas_of(path.read_text(), suites)
    found = {'lab.list': '\n'.join(lines), 'lab.sources':
             '\n\n'.join(stanzas)}
    return {name: text + '\n' for name, text in found.items() if text}


def _lines_of(text: str, suites: set[str]) -> list[str]:
    pattern = re.compile(r'deb\s+(?:\[[^\]]*\]\s*)?(?!cdrom:)\S+\s+(\S+)')
    return [line.strip() for line in text.splitlines()
            if (match := pattern.match(line.strip()))
            and match[1] in suites]


def _stanzas_of(text: str, suites: set[str]) -> list[str]:
    found = []
    for stanza in re.split(r'\n\s*\n', text):
        stanza = '\n'.join(line for line in stanza.splitlines()
                           if line and not line.startswith('#'))
        fields = {name.lower(): value.split() for name, value in
                  re.findall(r'^(\S+?):[ \t]*(.*)$', stanza, re.MULTILINE)}
        ours = [each for each in fields.get('suites', []) if each in suites]
        if (ours and 'deb' in fields.get('types', [])
                and fields.get('enabled') != ['no']):
            stanza = re.sub(r'^Types:.*$', 'Types: deb', stanza,
                            flags=re.MULTILINE | re.IGNORECASE)
            found.append(re.sub(r'^Suites:.*$', f'Suites: {" ".join(ours)}',
                                stanza, flags=re.MULTILINE | re.IGNORECASE))
    return found


def bootstrap(root: pathlib.Path, packages: list[str],
              hooks: list[str]) -> None:
    """Install a minimal system with some packages.

    :param hooks: commands run before the packages are configured, with the
        root as ``$1``.
    """
    _, codename = os_release()
    written = []
    for name, text in sources(codename).items():
        path = root.parent / name
        path.write_text(text)
        written.append(path)
    if not written:
        raise process.LabError(
            f'no apt source of {codename} in /etc/apt: apt cannot install '
            'into the images')
    # How this machine reaches its mirrors: proxies, certificates, retries.
    settings = root.parent / 'apt.conf'
    settings.write_text(cache.run(['apt-config', 'dump', 'Acquire']))
    cache.run(cache.isolated([
        'mmdebstrap', '--mode=root', '--variant=minbase', '--quiet',
        f'--include={",".join(packages)}',
        f'--aptopt={settings}',
        '--aptopt=Apt::Install-Recommends "false"',
        *(f'--dpkgopt=path-exclude={pattern}' for pattern in EXCLUDED),
        *(f'--essential-hook={hook}' for hook in hooks),
        codename, str(root), *map(str, written)]))
    for path in (*written, settings):
        path.unlink()
    # They name this machine's mirrors, which is nobody's business.
    for name in ('apt.conf.d/99mmdebstrap', 'sources.list',
                 'sources.list.d/0000lab.sources',
                 'sources.list.d/0000lab.list'):
        (root / 'etc/apt' / name).unlink(missing_ok=True)
