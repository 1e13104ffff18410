# SPDX-License-Identifier: Apache-2.0
"""The operating system that runs on the lab's machines, as a disk image.

A small real Debian (or Ubuntu): GPT, GRUB for BIOS and for UEFI, ext4, swap.
It needs no network. On its serial console it says how many times it has
started ("SNAPSHOT-LAB up boot=3 ...") and, once its file systems are
read-only again, that it went down cleanly.

The image is put together from files alone, without mounting anything.
"""

import dataclasses
import pathlib
import shutil
import struct
import uuid

from tests.functional.lab import paths
from tests.functional.lab.build import cache
from tests.functional.lab.build import distribution

MIB = 1 << 20
SECTOR = 512

#: Sizes in MiB. The root file system holds about 450 MB and gets room for
#: what tests write into it.
BIOS_BOOT_MIB = 1
ESP_MIB = 16
SWAP_MIB = 64
ROOT_MIB = 1024

PACKAGES = ['systemd-sysv', 'udev', 'dbus', 'kmod', 'initramfs-tools',
            'zstd', 'iproute2']

#: What the initramfs brings to find the root file system on any of the
#: machines; all of the distribution's drivers would double its size.
INITRAMFS_MODULES = (
    'virtio_pci virtio_blk virtio_scsi sd_mod nvme ahci ata_piix '
    'crc32c_generic ext4').split()

#: Early, so that the first initramfs is made by them.
HOOKS = [
    'mkdir -p "$1/etc/initramfs-tools/conf.d"'
    ' "$1/usr/share/initramfs-tools/modules.d"',
    'echo MODULES=list > "$1/etc/initramfs-tools/conf.d/snapshot-lab"',
    f'printf "%s\\n" {" ".join(INITRAMFS_MODULES)}'
    ' > "$1/usr/share/initramfs-tools/modules.d/snapshot-lab"',
]

GRUB_MODULES = {
    'i386-pc': ['biosdisk'],
    'x86_64-efi': ['efi_gop', 'efi_uga'],
}
GRUB_COMMON_MODULES = ['part_gpt', 'ext2', 'search', 'search_fs_uuid',
                       'normal', 'configfile', 'linux', 'serial', 'terminal',
                       'echo', 'test']
GRUB_FOLDER = pathlib.Path('/usr/lib/grub')

#: Partition types.
TYPE_BIOS_BOOT = '21686148-6449-6E6F-744E-656564454649'
TYPE_ESP = 'C12A7328-F81F-11D2-BA4B-00A0C93EC93B'
TYPE_SWAP = '0657FD6D-A4AB-43C4-84E5-0933C84B4F4F'
TYPE_LINUX = '0FC63DAF-8483-4772-8E79-3D69D8477DE4'


@dataclasses.dataclass(frozen=True, slots=True)
class OsImage:
    """A built image."""

    raw: pathlib.Path       #: sparse raw disk image
    qcow2: pathlib.Path     #: the same, compressed, to deploy from
    kernel: pathlib.Path    #: its kernel, also booted by the ramdisk
    modules: pathlib.Path   #: folder of that kernel's modules


def build() -> OsImage:
    """Return the image, building it when it is not in the cache."""
    files = paths.FILES / 'os'
    root_key = cache.key(
        'os-root', pathlib.Path(__file__), files,
        pathlib.Path(distribution.__file__), *distribution.os_release(),
        *distribution.sources(distribution.os_release()[1]).values())
    return _outputs(cache.build_once('os-image', root_key, _build))


def _outputs(folder: pathlib.Path) -> OsImage:
    return OsImage(
        raw=folder / 'disk.raw', qcow2=folder / 'disk.qcow2',
        kernel=folder / 'vmlinuz',
        modules=next((folder / 'modules').glob('*')))


def _build(folder: pathlib.Path) -> None:
    root = folder / 'root'
    distribution.bootstrap(
        root, [*PACKAGES, distribution.kernel_package()], HOOKS)
    root_uuid = str(uuid.uuid4())
    kernel, initrd = _configure(root, root_uuid)
    shutil.copy(kernel, folder / 'vmlinuz')
    shutil.copytree(next((root / 'usr/lib/modules').glob('*')),
                    folder / 'modules' / kernel.name.partition('-')[2],
                    symlinks=True)
    del initrd
    raw = folder / 'disk.raw'
    _assemble(raw, root, root_uuid, folder)
    cache.run(['qemu-img', 'convert', '-c', '-f', 'raw', '-O', 'qcow2',
               str(raw), str(folder / 'disk.qcow2')])
    shutil.rmtree(root)


def _configure(root: pathlib.Path,
               root_uuid: str) -> tuple[pathlib.Path, pathlib.Path]:
    """Turn a bootstrapped root into a system that starts by itself."""
    kernel = sorted((root / 'boot').glob('vmlinuz-*'))[-1]
    initrd = sorted((root / 'boot').glob('initrd.img-*'))[-1]
    etc = root / 'etc'
    (etc / 'hostname').write_text('snapshot-lab-os\n')
    (etc / 'hosts').write_text('127.0.0.1 localhost snapshot-lab-os\n')
    # Empty, not missing: systemd fills it in and does not take this for a
    # first boot, at which it would ask questions on the console.
    (etc / 'machine-id').write_text('')
    (etc / 'fstab').write_text(
        f'UUID={root_uuid} / ext4 defaults 0 1\n'
        'LABEL=lab-swap none swap nofail 0 0\n')
    grub = root / 'boot/grub'
    grub.mkdir(parents=True, exist_ok=True)
    (grub / 'grub.cfg').write_text(
        'serial --unit=0 --speed=115200\n'
        'terminal_output serial\n'
        f'linux /boot/{kernel.name} root=UUID={root_uuid} ro'
        ' console=ttyS0,115200 net.ifnames=0 loglevel=4\n'
        f'initrd /boot/{initrd.name}\n'
        'boot\n')
    files = paths.FILES / 'os'
    for name, target, mode in (
            ('snapshot-lab-boot', 'usr/local/sbin/snapshot-lab-boot', 0o755),
            ('snapshot-lab-boot.service',
             'etc/systemd/system/snapshot-lab-boot.service', 0o644),
            ('snapshot-lab-down',
             'usr/lib/systemd/system-shutdown/snapshot-lab-down', 0o755),
            ('../lab-shell', 'usr/local/sbin/lab-shell', 0o755),
            ('lab-shell.service', 'etc/systemd/system/lab-shell.service',
             0o644)):
        destination = root / target
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(files / name, destination)
        destination.chmod(mode)
    wants = etc / 'systemd/system/multi-user.target.wants'
    wants.mkdir(parents=True, exist_ok=True)
    for unit in ('snapshot-lab-boot.service', 'lab-shell.service'):
        (wants / unit).symlink_to(f'../{unit}')
    # Work a machine of the lab should not do by itself.
    for unit in ('apt-daily.timer', 'apt-daily-upgrade.timer',
                 'e2scrub_all.timer', 'fstrim.timer', 'dpkg-db-backup.timer',
                 'systemd-firstboot.service'):
        (etc / 'systemd/system' / unit).symlink_to('/dev/null')
    for name in ('var/cache/apt', 'var/lib/apt/lists'):
        shutil.rmtree(root / name, ignore_errors=True)
    return kernel, initrd


def _assemble(raw: pathlib.Path, root: pathlib.Path, root_uuid: str,
              folder: pathlib.Path) -> None:
    """Write the partition table, file systems and boot loaders."""
    starts, at = {}, 1
    for name, size in (('bios', BIOS_BOOT_MIB), ('esp', ESP_MIB),
                       ('swap', SWAP_MIB), ('root', ROOT_MIB)):
        starts[name] = at * MIB
        at += size
    with open(raw, 'wb') as disk:
        disk.truncate((at + 1) * MIB)    # the backup table needs the last
    layout = 'label: gpt\n' + ''.join(
        f'start={starts[name] // SECTOR}, size={size * MIB // SECTOR},'
        f' type={kind}, name={name}\n'
        for name, size, kind in (
            ('bios', BIOS_BOOT_MIB, TYPE_BIOS_BOOT),
            ('esp', ESP_MIB, TYPE_ESP), ('swap', SWAP_MIB, TYPE_SWAP),
            ('root', ROOT_MIB, TYPE_LINUX)))
    (folder / 'layout').write_text(layout)
    cache.run(['sh', '-c', f'sfdisk --quiet {raw} < {folder}/layout'])
    # Owners and modes are taken from the folder, which root made.
    cache.run(['mke2fs', '-q', '-t', 'ext4', '-L', 'lab-root', '-U',
               root_uuid, '-d', str(root), '-E', f'offset={starts["root"]}',
               '-F', str(raw), f'{ROOT_MIB}m'])
    swap = folder / 'swap'
    with open(swap, 'wb') as file:
        file.truncate(SWAP_MIB * MIB)
    cache.run(['mkswap', '--label', 'lab-swap', str(swap)])
    _write_at(raw, starts['swap'], swap)
    early = folder / 'early.cfg'
    early.write_text(
        f'search.fs_uuid {root_uuid} root\n'
        'set prefix=($root)/boot/grub\nconfigfile $prefix/grub.cfg\n')
    _install_bios_grub(raw, starts['bios'], early, folder)
    _install_efi_grub(raw, starts['esp'], early, folder)
    for name in ('layout', 'swap', 'early.cfg', 'core.img', 'esp',
                 'bootx64.efi'):
        (folder / name).unlink()


def _grub_image(platform: str, output: pathlib.Path,
                early: pathlib.Path) -> None:
    cache.run(['grub-mkimage', '--format', platform, '--prefix',
               '/boot/grub', '--config', str(early), '--output',
               str(output), *GRUB_COMMON_MODULES, *GRUB_MODULES[platform]])


def _install_bios_grub(raw: pathlib.Path, start: int, early: pathlib.Path,
                       folder: pathlib.Path) -> None:
    """Do what grub-bios-setup does, without needing a block device.

    The boot sector is told where GRUB's core begins, and the core's first
    sector where the rest of it is.
    """
    core = folder / 'core.img'
    _grub_image('i386-pc', core, early)
    data = bytearray(core.read_bytes())
    sectors = -(-len(data) // SECTOR)
    if sectors * SECTOR > BIOS_BOOT_MIB * MIB:
        raise ValueError('the core of GRUB does not fit its partition')
    # The last block list of the first sector: start, length, segment.
    struct.pack_into('<QH', data, SECTOR - 12, start // SECTOR + 1,
                     sectors - 1)
    boot = (GRUB_FOLDER / 'i386-pc/boot.img').read_bytes()
    with open(raw, 'r+b') as disk:
        sector = bytearray(disk.read(SECTOR))
        sector[:440] = boot[:440]
        struct.pack_into('<Q', sector, 0x5c, start // SECTOR)
        sector[0x66:0x68] = b'\x90\x90'     # trust the BIOS's drive number
        disk.seek(0)
        disk.write(sector)
        disk.seek(start)
        disk.write(data)


def _install_efi_grub(raw: pathlib.Path, start: int, early: pathlib.Path,
                      folder: pathlib.Path) -> None:
    """Put GRUB where firmware looks when nobody told it anything."""
    loader, esp = folder / 'bootx64.efi', folder / 'esp'
    _grub_image('x86_64-efi', loader, early)
    with open(esp, 'wb') as file:
        file.truncate(ESP_MIB * MIB)
    cache.run(['mkfs.vfat', '-n', 'LAB-ESP', str(esp)])
    cache.run(['mmd', '-i', str(esp), '::/EFI', '::/EFI/BOOT'])
    cache.run(['mcopy', '-i', str(esp), str(loader),
               '::/EFI/BOOT/BOOTX64.EFI'])
    _write_at(raw, start, esp)


def _write_at(raw: pathlib.Path, start: int, part: pathlib.Path) -> None:
    """Copy a file into the image, leaving its zeros as holes."""
    cache.run(['dd', f'if={part}', f'of={raw}', 'bs=1M',
               'conv=sparse,notrunc', f'seek={start // MIB}', 'status=none'])
