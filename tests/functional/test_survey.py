# SPDX-License-Identifier: Apache-2.0
"""What a survey finds of file systems that need a kernel of their own.

A machine makes them on a disk, fills them, deletes, fills again; some are
unmounted, then its power is cut. The disk is surveyed here. A second machine
mounts everything on the disk, and on a copy of which only the extents were
kept: it must find the same files.
"""

import dataclasses
import re

import pytest

from ironic_snapshot_core import manifest
from ipa_snapshot_hardware.disk import block
from ipa_snapshot_hardware.survey import survey
from tests import disks
from tests.contract import filesystems
from tests.functional.lab import workbench

pytestmark = [pytest.mark.timeout(600), disks.needs_loop]

MIB = 1 << 20

#: About 20 s on two processors with nothing else to do.
SHELL_TIMEOUT_S = 240

#: In MiB: two of vfat, two of f2fs, LVM, two members of md.
PARTITIONS = (272, 24, 112, 112, 240, 48, 48)

FUNCTIONS = '''
exec 2>&1
set -e
umask 0
cd /
fill() {
    tar xf /first.tar -C $1
    sync
    (cd $1/a && rm $(seq 1 3 40))
    tar xf /second.tar -C $1
}
sums() { echo "== $2"; (cd $1 && find . -type f | sort | xargs sha256sum); }
'''

MAKE = FUNCTIONS + '''
dd if=/dev/urandom of=/noise bs=1k count=2048 status=none
mkdir /a /b
for i in $(seq 1 40); do
    dd if=/noise of=/a/$i bs=1k skip=$((i * 31)) count=$((i * 37 % 90 + 1)) \
        status=none
done
for i in $(seq 1 15); do
    dd if=/noise of=/b/$i bs=1k skip=$((i * 57)) count=$((i * 53 % 120 + 1)) \
        status=none
done
tar cf /first.tar a
tar cf /second.tar b
# From now on a mount that stays: power is cut with it.
begin() { mkdir -p /mnt/$2; mount $3 $1 /mnt/$2; fill /mnt/$2; sync; }
clean() { begin "$@"; sums /mnt/$2 $2; umount /mnt/$2; }
dirty() {
    begin "$@"
    sums /mnt/$2 $2
    rm -r /mnt/$2/a
    cp -r /mnt/$2/b /mnt/$2/c
}
mkfs.vfat -F 32 -s 1 /dev/vda1
clean /dev/vda1 vfat
mkfs.f2fs -q -f /dev/vda3
clean /dev/vda3 f2fs

pvcreate -q /dev/vda5
vgcreate -q vg /dev/vda5
new() { lvcreate -q -y -n $1 -l $2 vg; }
new root 9
new dirty 8
new data 3
new swap 4
new home 5
lvextend -q -l +3 vg/data
new free 3
lvm lvremove -q -y vg/free
for name in root dirty data home; do mkfs.ext4 -q /dev/vg/$name; done
clean /dev/vg/root root
clean /dev/vg/data data
clean /dev/vg/home before
lvcreate -q -y -s -n before -l 5 vg/home
mount /dev/vg/home /mnt/before
rm -r /mnt/before/a
cp -r /mnt/before/b /mnt/before/c
sums /mnt/before home
umount /mnt/before
lvcreate -q -y --type thin-pool -Zn -n pool -l 3 vg
yes "memory of the machine" | dd of=/dev/vg/swap bs=1M count=16 \
    iflag=fullblock status=none
mkswap -L paging /dev/vg/swap

member() {
    mdadm --create /dev/md$1 --run --level=1 --raid-devices=2 \
        --metadata=$3 $2 missing
    mkfs.ext4 -q /dev/md$1
    clean /dev/md$1 md$1
    mdadm --stop /dev/md$1
}
member 1 /dev/vda6 1.2
member 2 /dev/vda7 1.0

mkfs.vfat -F 16 -s 1 /dev/vda2
mkfs.f2fs -q -f /dev/vda4
dirty /dev/vda2 vfat-dirty
dirty /dev/vda4 f2fs-dirty
dirty /dev/vg/dirty dirty
'''

CHECK = FUNCTIONS + '''
disk=$1
show() { mount $3 $1 /mnt; sums /mnt $2; umount /mnt; }
show ${disk}1 vfat -tvfat
show ${disk}2 vfat-dirty -tvfat
show ${disk}3 f2fs -tf2fs
show ${disk}4 f2fs-dirty -tf2fs
filter="devices { filter = [\\"a|^${disk}5$|\\", \\"r|.*|\\"] }"
vgchange -q -ay --config "$filter" vg
for name in root dirty data home before; do
    show /dev/vg/$name $name -text4
done
echo "== swap"
blkid -p -o value -s UUID /dev/vg/swap
blkid -p -o value -s LABEL /dev/vg/swap
swapon /dev/vg/swap
swapoff /dev/vg/swap
vgchange -q -an --config "$filter" vg
mdadm --assemble --run /dev/md1 ${disk}6
show /dev/md1 md1 -text4
mdadm --stop /dev/md1
mdadm --assemble --run /dev/md2 ${disk}7
show /dev/md2 md2 -text4
mdadm --stop /dev/md2
'''


@dataclasses.dataclass
class Surveyed:
    """A disk, what a survey said of it, and what is on it."""

    sector_size: int
    regions: dict[str, manifest.Region]
    written: dict[str, dict[str, str]]  #: files when they were synced
    source: dict[str, dict[str, str]]   #: files that are found on the disk
    copy: dict[str, dict[str, str]]     #: files that are found on the copy


def parse(text):
    """Give path -> hash by name of the file system."""
    found = {}
    for part in ('\n' + text).split('\n== ')[1:]:
        name = part.partition('\n')[0]
        found[name] = {path: value for value, path in re.findall(
            r'^([0-9a-f]{64})  (\S+)$', part, re.MULTILINE)}
        if name == 'swap':
            found[name] = {'uuid': part.split()[1], 'label': part.split()[2]}
    return found


@pytest.fixture(scope='module', params=[512, 4096])
def surveyed(request, tmp_path_factory):
    sector_size = request.param
    folder = tmp_path_factory.mktemp(f'survey{sector_size}')
    disk, copy = folder / 'disk.raw', folder / 'copy.raw'
    filesystems.create(disk, (sum(PARTITIONS) + 8) * MIB)
    filesystems.partition(disk, 'label: gpt\n' + ''.join(
        f'size={size}MiB\n' for size in PARTITIONS), sector_size)
    try:
        with workbench.Machine(
                folder / 'make', [disk], sector_size=sector_size) as made:
            written = parse(made.shell.run(MAKE, SHELL_TIMEOUT_S))
            made.cut_power()
        # A device, for of a file the holes would be left out as well.
        with disks.loop_device(
                disk, sector_size) as device, block.BlockDisk(
                device) as source:
            found = survey.survey(source, all_blocks=False, skip_gaps=False)
        filesystems.scrubbed(disk, found.extents, copy)
        with workbench.Machine(
                folder / 'check', [disk, copy], sector_size=sector_size,
                keep_writes=False) as checked:
            lists = [
                parse(checked.shell.run(f'set -- {name}\n{CHECK}',
                                        SHELL_TIMEOUT_S))
                for name in ('/dev/vda', '/dev/vdb')]
    finally:
        disk.unlink()
        copy.unlink(missing_ok=True)
    regions = {region.name: region for region in found.regions}
    return Surveyed(sector_size, regions, written, *lists)


def test_everything_is_there(surveyed):
    """Or the tests below prove nothing."""
    assert set(surveyed.source) == {
        'vfat', 'vfat-dirty', 'f2fs', 'f2fs-dirty', 'root', 'dirty', 'data',
        'home', 'before', 'swap', 'md1', 'md2'}
    assert all(len(files) >= 15 for name, files in surveyed.source.items()
               if name != 'swap')


def test_copy_of_the_extents_holds_the_same_files(surveyed):
    for name, files in surveyed.source.items():
        assert surveyed.copy[name] == files, name
    assert surveyed.source.keys() == surveyed.copy.keys()


def test_files_are_those_that_were_written(surveyed):
    for name, files in surveyed.written.items():
        if name.endswith('dirty'):
            # What was done after the last sync may be there or not.
            files = {path: value for path, value in files.items()
                     if path.startswith('./b/')}
            assert files.items() <= surveyed.copy[name].items(), name
        else:
            assert surveyed.copy[name] == files, name


@pytest.mark.parametrize(('name', 'content'), [
    ('partition 1', 'vfat'), ('partition 3', 'f2fs'),
    ('volume vg/root', 'ext4'), ('partition 5', 'LVM2_member')])
def test_clean_ones_are_looked_through(surveyed, name, content):
    region = surveyed.regions[name]
    if content == 'f2fs' and surveyed.sector_size == 4096:
        # partclone 0.3.23 cannot read it there.
        assert (region.content, region.method) == (content, manifest.WHOLE)
        assert region.reason
        return
    assert (region.content, region.method) == (content, manifest.ALLOCATED)
    assert region.used_bytes < region.length * 0.9


@pytest.mark.parametrize(('name', 'reason'), [
    ('partition 2', 'not clean'), ('partition 4', 'not clean'),
    ('volume vg/dirty', 'dirty journal'), ('partition 6', 'md member'),
    ('partition 7', 'md member'), ('volume vg/data', 'lvm: 2 segments'),
    ('volume vg/home', 'lvm: below snapshot'),
    ('volume vg/before', 'lvm: below snapshot'),
    ('volume vg/pool_tdata', 'lvm: below thin-pool'),
    ('volume vg/pool_tmeta', 'lvm: below thin-pool')])
def test_others_are_whole_and_say_why(surveyed, name, reason):
    region = surveyed.regions[name]
    assert region.method == manifest.WHOLE
    assert region.reason == reason


def test_of_swap_the_header_is_kept(surveyed):
    region = surveyed.regions['volume vg/swap']
    assert (region.content, region.method) == ('swap', manifest.HEADER)
    assert region.used_bytes == 4096
    assert surveyed.source['swap']['label'] == 'paging'
