# SPDX-License-Identifier: Apache-2.0
"""The identity of systems in logical volumes, which need device mapper.

A machine makes two disks with a volume group of the same name each. Then it
runs the code of this repository, by a copy of the Python that runs the tests,
for one of them.
"""

import pathlib
import re
import subprocess
import sys
import sysconfig
import tarfile

import pytest

from tests import disks
from tests.contract import filesystems
from tests.functional.lab import paths
from tests.functional.lab import workbench

pytestmark = [pytest.mark.timeout(600), disks.needs_loop]

MIB = 1 << 20
SHELL_TIMEOUT_S = 240

#: Everything that the reset imports, and where Python itself is.
IMPORTED = '''
import sys
import encodings.ascii, encodings.idna
from ipa_snapshot_hardware.system_identity import reset
for module in list(sys.modules.values()):
    if getattr(module, "__file__", None):
        print(module.__file__)
'''

RESET = '''
import sys
from ipa_snapshot_hardware.system_identity import reset
try:
    for each in reset.reset(sys.argv[1]):
        print("reset", each)
except reset.errors.IdentityNotReset as error:
    print("refused", error)
'''

MAKE = '''
exec 2>&1
set -e
only() { echo "devices { filter = [\\"a|^$1$|\\", \\"r|.*|\\"] }"; }
system() {
    mkdir -p $1/etc/ssh $1/var/lib/cloud/instances/i-1
    echo root > $1/etc/passwd
    echo 0123456789abcdef0123456789abcdef > $1/etc/machine-id
    echo secret > $1/etc/ssh/ssh_host_rsa_key
    echo kept > $1/etc/hostname
    echo data > $1/var/lib/cloud/instances/i-1/data
    echo kept > $1/var/kept
}
make() {
    config="$(only $1)"
    pvcreate -q $1 --config "$config"
    vgcreate -q -s 1m vg $1 --config "$config"
    lvcreate -q -y -n root-a -l 24 vg --config "$config"
    lvcreate -q -y -n var -l 16 vg --config "$config"
    lvcreate -q -y --type thin-pool -n pool -l 30 vg --config "$config"
    lvcreate -q -y -V 40m --thinpool vg/pool -n thin --config "$config"
    for name in root-a var thin; do mkfs.ext4 -q /dev/vg/$name; done
    mount /dev/vg/thin /mnt
    system /mnt
    echo > /mnt/etc/fstab
    umount /mnt
    mount /dev/vg/root-a /mnt
    mkdir /mnt/var
    mount /dev/vg/var /mnt/var
    system /mnt
    printf '/dev/mapper/vg-root--a / ext4\\n/dev/vg/var /var ext4\\n' \\
        > /mnt/etc/fstab
    umount /mnt/var /mnt
    vgchange -q -an vg --config "$config"
}
make /dev/vda1
make /dev/vdb
sync
sha256sum /dev/vdb > /before
tar xf /dev/vdc -C /
'''

CHECK = '''
exec 2>&1
set -e
sha256sum -c /before
ls /dev/mapper
config='devices { filter = ["a|^/dev/vda1$|", "r|.*|"] }'
vgchange -q -ay vg --config "$config"
for name in root-a var thin; do
    mount /dev/vg/$name /mnt
    (cd /mnt && find . -type f -not -path './lost+found/*' -print |
        sort | xargs wc -c | sed "s|^ *|$name |")
    umount /mnt
done
vgchange -q -an vg --config "$config"
'''


def pack(path):
    """Pack this Python with what the reset imports, below their paths."""
    interpreter = pathlib.Path(sys.executable).resolve()
    listed = subprocess.run(
        [interpreter, '-c', IMPORTED], capture_output=True, text=True,
        check=True, env={'PYTHONPATH': search_path()}).stdout.split('\n')
    files = {str(interpreter), *filter(None, listed)}
    for name in [*files]:
        asked = subprocess.run(
            ['ldd', name], capture_output=True, text=True).stdout
        files.update(re.findall(r'(/\S+) \(0x', asked))
    with tarfile.open(path, 'w', dereference=True) as archive:
        for name in sorted(files):
            archive.add(name)
    # A disk has whole sectors.
    with open(path, 'ab') as file:
        file.truncate(-(-file.tell() // MIB) * MIB)
    return interpreter


def search_path():
    return ':'.join((str(paths.REPOSITORY), sysconfig.get_path('purelib')))


def reset(machine, interpreter, device):
    return machine.shell.run(
        f'PYTHONHOME={sys.base_prefix} PYTHONPATH={search_path()} '
        f"{interpreter} -S -c '{RESET}' {device}", SHELL_TIMEOUT_S)


def test_only_the_volumes_of_the_disk(tmp_path):
    target, other = tmp_path / 'target', tmp_path / 'other'
    filesystems.create(target, 120 * MIB)
    filesystems.partition(target, 'label: gpt\nsize=110MiB\n')
    filesystems.create(other, 110 * MIB)
    programs = tmp_path / 'programs'
    interpreter = pack(programs)
    with workbench.Machine(
            tmp_path / 'make', [target, other, programs]) as machine:
        machine.shell.run(MAKE, SHELL_TIMEOUT_S)
        first = reset(machine, interpreter, '/dev/vda')
        found = machine.shell.run(CHECK, SHELL_TIMEOUT_S)
        again = reset(machine, interpreter, '/dev/vda')
    assert first.split('\n')[:2] == [
        f'reset vg/{name} ext4: machine-id, SSH host keys, cloud-init state'
        for name in ('root-a', 'thin')]
    assert again.count('nothing left') == 2
    lines = found.split('\n')
    # The other disk is the same, and no volume is active.
    assert lines[:2] == ['/dev/vdb: OK', 'control']
    assert '0 ./etc/machine-id' in found
    for volume, files in (
            ('root-a', ['./etc/fstab', './etc/hostname', './etc/machine-id',
                        './etc/passwd']),
            ('var', ['./kept']),
            ('thin', ['./etc/fstab', './etc/hostname', './etc/machine-id',
                      './etc/passwd', './var/kept'])):
        assert [line.split()[2] for line in lines
                if line.startswith(f'{volume} ') and './' in line] == files
    assert found.count('0 ./etc/machine-id') == 2
