# SPDX-License-Identifier: Apache-2.0
"""The ramdisk: the agent and our hardware manager, small and quick to boot.

Three things, each cached by what it is made from:

* the wheels of the agent and of all that our side of the ramdisk needs;
* the *base*: a root file system with the agent, as an archive;
* the *layer*: what the diskimage-builder element in ``dib/`` adds to it. A
  change to our code makes only this again, in seconds.

The initramfs is the one archive after the other: the kernel unpacks them in
turn. Its kernel is that of the OS image.
"""

import dataclasses
import importlib.metadata
import os
import pathlib
import shutil
import sys

import yaml

from tests.functional.lab import paths
from tests.functional.lab import process
from tests.functional.lab.build import cache
from tests.functional.lab.build import distribution
from tests.functional.lab.build import osimage

CONSTRAINTS = paths.REPOSITORY / 'constraints.txt'
REQUIREMENTS = paths.REPOSITORY / 'requirements.txt'
ELEMENT = paths.REPOSITORY / 'dib/elements/ipa-snapshot'
PACKAGE_LIST = ELEMENT / 'package-installs.yaml'

#: The distribution's own Python, of the same release as the ramdisk's and
#: so of the same version: what is built for it runs there.
SYSTEM_PYTHON = '/usr/bin/python3'

#: What the agent calls; the element names what our hardware manager does.
PACKAGES = [
    'python3-minimal', 'libpython3-stdlib',
    'udev', 'kmod', 'iproute2', 'busybox', 'procps', 'psmisc', 'fdisk',
    'gdisk', 'parted', 'dosfstools', 'e2fsprogs', 'qemu-utils',
    'lshw', 'dmidecode', 'efibootmgr', 'mdadm', 'pciutils', 'bsdextrautils']

#: Drivers and file systems of the lab's machines; paths below kernel/.
MODULES = [
    'drivers/block', 'drivers/nvme', 'drivers/ata', 'drivers/scsi',
    'drivers/cdrom', 'drivers/virtio', 'drivers/char/hw_random',
    'drivers/char/virtio_console.ko', 'drivers/net/virtio_net.ko',
    'drivers/net/net_failover.ko', 'net/core', 'drivers/acpi', 'drivers/md',
    'fs/isofs', 'fs/fat', 'fs/nls', 'fs/ext4', 'fs/jbd2', 'fs/mbcache.ko',
    'fs/xfs', 'fs/btrfs', 'drivers/input/evdev.ko', 'lib', 'crypto',
    'arch/x86/crypto']

#: Never used in the ramdisk, and read from the CD at every boot. Patterns
#: below the root.
UNUSED = [
    'boot', 'var/cache', 'var/lib/apt', 'var/lib/dpkg', 'var/log',
    'usr/lib/apt', 'usr/bin/apt*', 'usr/bin/dpkg*', 'usr/bin/perl*',
    'usr/lib/*/perl*', 'usr/lib/*/libperl*', 'usr/lib/*/libapt-*',
    # mtools need the code page of FAT, 850.
    'usr/lib/*/gconv/[!Ig]*', 'usr/lib/*/gconv/I[!B]*',
    'usr/lib/*/gconv/IBM[!8]*', 'usr/bin/qemu-nbd', 'usr/bin/qemu-io',
    'usr/bin/localedef', 'usr/sbin/tc', 'sbin/tc',
    'usr/lib/udev/hwdb.*', 'usr/share/zoneinfo', 'usr/share/perl*',
    'usr/share/misc', 'usr/share/bash-completion', 'usr/share/common-licenses',
    'usr/share/python-wheels', 'usr/lib/python3*/lib2to3',
    'usr/lib/python3*/pydoc_data', 'usr/lib/python3*/test',
    'usr/lib/python3*/idlelib', 'usr/lib/python3*/ensurepip',
    'usr/lib/*/libpython3*', 'usr/lib/x86_64-linux-gnu/libicu*',
    'usr/sbin/xfs_[!dl]*', 'usr/sbin/mkfs.xfs',
    'usr/*bin/*ntfs[!c]*', 'usr/sbin/partclone.reiser4', 'usr/lib/valgrind',
    'usr/share/pixmaps']

#: Left out of the archive, but there when the element is run.
NOT_PACKED = ['opt/ironic-python-agent/lib/python3*/site-packages/pip']


@dataclasses.dataclass(frozen=True, slots=True)
class Ramdisk:
    """What a node boots to be deployed, serviced or inspected."""

    kernel: pathlib.Path
    initramfs: pathlib.Path


def build(image: osimage.OsImage) -> Ramdisk:
    """Return the ramdisk, building what is not in the cache.

    :param image: where the kernel is taken from.
    """
    wheels = _wheels()
    base_key = cache.key(
        'ramdisk-base', pathlib.Path(__file__), paths.FILES / 'ramdisk',
        paths.FILES / 'lab-shell', pathlib.Path(distribution.__file__),
        PACKAGE_LIST, wheels.name, image.kernel.parent.name)
    base = cache.build_once(
        'ramdisk-base', base_key,
        lambda folder: _build_base(folder, image, wheels))
    layer_key = cache.key('ramdisk', base.name, ELEMENT, *_sources())
    final = cache.build_once(
        'ramdisk', layer_key,
        lambda folder: _build_layer(folder, base, wheels))
    return Ramdisk(kernel=final / 'kernel', initramfs=final / 'initramfs')


def _sources() -> list[pathlib.Path]:
    """Return what our own wheel is made from."""
    names = ('ironic_snapshot_core', 'ipa_snapshot_hardware',
             'pyproject.toml', 'setup.cfg', 'setup.py', 'requirements.txt')
    found = [paths.REPOSITORY / name for name in names]
    return [path for path in found if path.exists()]


def _wheels() -> pathlib.Path:
    version = cache.run([SYSTEM_PYTHON, '--version'])
    return cache.build_once(
        'wheels', cache.key('wheels', CONSTRAINTS, REQUIREMENTS, version),
        lambda folder: _pip(
            '--python', SYSTEM_PYTHON, 'wheel', '--quiet', '--constraint',
            str(CONSTRAINTS), '--wheel-dir', str(folder), '--requirement',
            str(REQUIREMENTS), 'ironic-python-agent', 'pip'))


def _pip(*arguments: str, **env: str) -> None:
    cache.run([sys.executable, '-m', 'pip', *arguments], env=env)


def _version() -> str:
    """Return the version the conductor has, for the ramdisk to have it.

    pbr would ask git, which a copy of the sources does not have.
    """
    try:
        return importlib.metadata.version('ironic-snapshot')
    except importlib.metadata.PackageNotFoundError:
        return os.environ.get('PBR_VERSION', '0.0.1')


def _build_base(folder: pathlib.Path, image: osimage.OsImage,
                wheels: pathlib.Path) -> None:
    root = folder / 'root'
    # Its names are Debian's; for others the element has a pkg-map.
    ours = yaml.safe_load(PACKAGE_LIST.read_text())
    distribution.bootstrap(root, [*PACKAGES, *ours], [])
    _check_python(root)
    _add_modules(root, image.modules)
    cache.run(cache.isolated([
        'sh', str(paths.FILES / 'ramdisk/install-agent.sh'), str(root),
        str(wheels)]))
    for name, target in (('ramdisk/init', 'init'),
                         ('ramdisk/udhcpc.script', 'etc/udhcpc.script'),
                         ('ramdisk/poweroff', 'usr/local/sbin/poweroff'),
                         ('ramdisk/poweroff', 'usr/local/sbin/reboot'),
                         ('lab-shell', 'usr/local/sbin/lab-shell')):
        shutil.copyfile(paths.FILES / name, root / target)
        (root / target).chmod(0o755)
    # 10.0.2.2 is this machine's loopback as a guest of QEMU's user network
    # sees it.
    (root / 'etc/hosts').write_text(
        '127.0.0.1 localhost snapshot-lab-ramdisk\n'
        '10.0.2.2 snapshot-lab\n')
    _remove_unused(root)
    # Compiling at every start would take the emulated processor a minute.
    cache.run(['chroot', str(root), 'sh', '-c', 'python3 -m compileall -q '
               '/usr/lib/python3* /opt/ironic-python-agent/lib'])
    _pack(root, folder / 'base.cpio.gz')
    shutil.copyfile(image.kernel, folder / 'kernel')


def _check_python(root: pathlib.Path) -> None:
    ask = ['-c', 'import sys; print(*sys.version_info[:2])']
    theirs = cache.run(['chroot', str(root), 'python3', *ask])
    ours = cache.run([SYSTEM_PYTHON, *ask])
    if theirs != ours:
        raise process.LabError(
            f'the ramdisk has Python {theirs.strip()}, {SYSTEM_PYTHON} is '
            f'{ours.strip()}: wheels built here would not run there')


def _add_modules(root: pathlib.Path, modules: pathlib.Path) -> None:
    version = modules.name
    target = root / 'usr/lib/modules' / version
    for name in ('modules.builtin', 'modules.builtin.modinfo',
                 'modules.order'):
        (target / 'kernel').mkdir(parents=True, exist_ok=True)
        shutil.copy(modules / name, target)
    for name in MODULES:
        # Some distributions compress modules: foo.ko, foo.ko.zst.
        for source in (modules / 'kernel').glob(f'{name}*'):
            copy = target / 'kernel' / source.relative_to(modules / 'kernel')
            copy.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, copy, dirs_exist_ok=True)
            else:
                shutil.copy(source, copy)
    cache.run(['chroot', str(root), 'depmod', version])


def _remove_unused(root: pathlib.Path) -> None:
    for pattern in UNUSED:
        for path in root.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    for name in ('tests', '__pycache__'):
        for path in list(root.glob(f'opt/**/{name}')):
            shutil.rmtree(path)
    for name in ('var/log', 'var/cache', 'var/lib/dpkg', 'boot'):
        (root / name).mkdir(exist_ok=True)


def _pack(root: pathlib.Path, archive: pathlib.Path) -> None:
    skipped = [str(path.relative_to(root)) for pattern in NOT_PACKED
               for path in root.glob(pattern)]
    prune = ' '.join(f'-path ./{name} -prune -o' for name in skipped)
    cache.run(['sh', '-c', f'cd {root} && find . {prune} -print |'
               f' cpio --quiet -o -H newc | pigz -6 > {archive}'])


def _build_layer(folder: pathlib.Path, base: pathlib.Path,
                 wheels: pathlib.Path) -> None:
    all_wheels = folder / 'wheels'
    shutil.copytree(wheels, all_wheels, copy_function=os.link)
    source = _copy_of_sources(folder)
    _pip('wheel', '--quiet', '--no-deps', '--no-build-isolation',
         '--wheel-dir', str(all_wheels), str(source),
         PBR_VERSION=_version())
    layer = folder / 'layer.cpio.gz'
    cache.run(cache.isolated([
        'sh', str(paths.FILES / 'ramdisk/install-snapshot.sh'),
        str(base / 'root'), str(all_wheels), str(ELEMENT),
        'ironic-snapshot', str(layer)]))
    with open(folder / 'initramfs', 'wb') as initramfs:
        for part in (base / 'base.cpio.gz', layer):
            with open(part, 'rb') as file:
                shutil.copyfileobj(file, initramfs, 1 << 20)
    os.link(base / 'kernel', folder / 'kernel')
    shutil.rmtree(all_wheels)
    shutil.rmtree(source)


def _copy_of_sources(folder: pathlib.Path) -> pathlib.Path:
    """Copy what the wheel is made from, as building writes beside it."""
    copy = folder / 'source'
    shutil.copytree(
        paths.REPOSITORY, copy, ignore=shutil.ignore_patterns(
            '.*', '__pycache__', '*.egg-info', 'build'))
    return copy
