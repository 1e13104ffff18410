# SPDX-License-Identifier: Apache-2.0
"""A system in memory that mounts what the kernel of this machine may not.

Its kernel is the distribution's for real machines, with every file system;
the one for virtual machines lacks some. Its programs are this machine's own,
each with the libraries it asks for. It boots in some seconds.
"""

import dataclasses
import pathlib
import re
import shutil

from tests.functional.lab import paths
from tests.functional.lab import process
from tests.functional.lab.build import cache
from tests.functional.lab.build import distribution

KERNEL_PACKAGES = {'debian': 'linux-image-amd64',
                   'ubuntu': 'linux-image-generic'}

PROGRAMS = ['busybox', 'kmod', 'mkfs.ext4', 'mkfs.vfat', 'mkfs.f2fs', 'lvm',
            'mdadm', 'blkid', 'partx', 'prlimit']
#: Other names of programs that do what they are called.
LINKS = {'modprobe': 'kmod', 'pvcreate': 'lvm', 'vgcreate': 'lvm',
         'lvcreate': 'lvm', 'lvextend': 'lvm', 'vgchange': 'lvm'}

#: Loaded when it starts, in this order.
MODULES = ['virtio_pci', 'virtio_blk', 'virtio_console', 'crc32c_generic',
           'ext4', 'nls_cp437', 'nls_iso8859-1', 'nls_ascii', 'nls_utf8',
           'vfat', 'crc32_generic', 'f2fs', 'dm-mod', 'dm-snapshot',
           'dm-thin-pool', 'raid1']


@dataclasses.dataclass(frozen=True, slots=True)
class Workbench:
    """What a machine boots."""

    kernel: pathlib.Path
    initramfs: pathlib.Path


def build() -> Workbench:
    """Return the system, building it when it is not in the cache."""
    packages = _kernel_packages()
    build_key = cache.key(
        'workbench', pathlib.Path(__file__), paths.FILES / 'workbench',
        paths.FILES / 'lab-shell', *packages,
        *(_program(name) for name in PROGRAMS))
    folder = cache.build_once('workbench', build_key,
                              lambda folder: _build(folder, packages))
    return Workbench(kernel=folder / 'kernel',
                     initramfs=folder / 'initramfs')


def _kernel_packages() -> list[str]:
    """Return the packages of the kernel and of its modules."""
    found: list[str] = []
    wanted = [KERNEL_PACKAGES[distribution.os_release()[0]]]
    while wanted:
        name = wanted.pop()
        found.append(name)
        wanted += [
            each for each in re.findall(
                r'^  Depends: (linux-(?:image|modules)\S+)$',
                cache.run(['apt-cache', 'depends', '--important', name]),
                re.MULTILINE)
            if each not in found + wanted]
    return found


def _program(name: str) -> pathlib.Path:
    """Find a program of this machine.

    :raises LabError: it is not installed.
    """
    path = shutil.which(name, path='/usr/sbin:/usr/bin:/sbin:/bin')
    if path is None:
        raise process.LabError(
            f'{name} is missing: install the packages of bindep.txt')
    return pathlib.Path(path).resolve()


def _build(folder: pathlib.Path, packages: list[str]) -> None:
    kernel = folder / 'packages'
    kernel.mkdir()
    cache.run(['apt-get', 'download', *packages], cwd=kernel)
    for each in list(kernel.glob('*.deb')):
        cache.run(['dpkg-deb', '--extract', str(each), str(kernel)])
    image = next((kernel / 'boot').glob('vmlinuz-*'))
    version = image.name.partition('-')[2]
    shutil.copyfile(image, folder / 'kernel')
    root = folder / 'root'
    for name in ('bin', 'dev', 'etc/lvm', 'proc', 'sys'):
        (root / name).mkdir(parents=True)
    _add_programs(root)
    _add_modules(root, kernel, version)
    files = paths.FILES / 'workbench'
    shutil.copyfile(files / 'lvm.conf', root / 'etc/lvm/lvm.conf')
    for path, target in ((files / 'init', 'init'),
                         (paths.FILES / 'lab-shell', 'bin/lab-shell')):
        shutil.copyfile(path, root / target)
        (root / target).chmod(0o755)
    cache.run(['sh', '-c', f'cd {root} && find . | cpio --quiet -o -H newc |'
               f' gzip -6 > {folder / "initramfs"}'])
    shutil.rmtree(root)
    shutil.rmtree(kernel)


def _add_programs(root: pathlib.Path) -> None:
    for name in PROGRAMS:
        path = _program(name)
        shutil.copy(path, root / 'bin' / name)
        # Not all are dynamic: ldd then fails.
        asked = cache.run(['sh', '-c', f'ldd {path} || true'])
        for library in re.findall(r'(/\S+) \(0x', asked):
            target = root / library[1:]
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, target)
    for name, program in LINKS.items():
        (root / 'bin' / name).symlink_to(program)


def _add_modules(root: pathlib.Path, kernel: pathlib.Path,
                 version: str) -> None:
    cache.run(['depmod', '--basedir', str(kernel), version])
    shown = cache.run(
        ['modprobe', '--dirname', str(kernel), '--set-version', version,
         '--show-depends', '--all', *MODULES])
    source = kernel / 'lib/modules' / version
    target = root / 'lib/modules' / version
    for name in set(re.findall(r'^insmod (\S+)', shown, re.MULTILINE)):
        copy = target / pathlib.Path(name).resolve().relative_to(
            source.resolve())
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(name, copy)
    for name in ('modules.builtin', 'modules.order',
                 'modules.builtin.modinfo'):
        shutil.copy(source / name, target)
    cache.run(['depmod', '--basedir', str(root), version])
    (root / 'modules').write_text(' '.join(MODULES))
