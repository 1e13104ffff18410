#!/bin/sh
# Do to the root file system $1 what the diskimage-builder element does, and
# pack what that added into the archive $5. Its packages are there already.
# $2: folder of wheels; $3: the element; $4: name and version to install.
#
# The root stays as it is: what is written lands in memory, over it.
set -e
base=$1 wheels=$2 element=$3 package=$4 archive=$5
memory=$(mktemp -d)
mount -t tmpfs -o size=512m lab "$memory"
mkdir "$memory/added" "$memory/work" "$memory/root"
mount -t overlay -o "lowerdir=$base,upperdir=$memory/added,workdir=$memory/work" \
    lab "$memory/root"
mount -t proc proc "$memory/root/proc"
mkdir "$memory/wheels"
mount --bind -o ro "$wheels" "$memory/wheels"
mkdir "$memory/root/wheels"
mount --bind -o ro "$memory/wheels" "$memory/root/wheels"
cp -R "$element/static/." "$memory/root"
cp "$element/install.d/70-ipa-snapshot" "$memory/root/wheels.install"
chroot "$memory/root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 \
    IPA_SNAPSHOT_PACKAGE="$package" \
    IPA_SNAPSHOT_PIP_ARGS="--quiet --no-index --find-links /wheels" \
    bash /wheels.install
rm "$memory/root/wheels.install"
umount "$memory/root/wheels" "$memory/root/proc"
rmdir "$memory/root/wheels"
umount "$memory/root"
cd "$memory/added"
# An overlay marks what was deleted from below by devices 0:0, which would be
# just that in the ramdisk.
if [ -n "$(find . -type c)" ]; then
    echo "the element deleted files of the agent's own:" >&2
    find . -type c >&2
    exit 1
fi
find . -path ./tmp -prune -o -path ./root -prune -o -print |
    cpio --quiet -o -H newc | gzip -6 > "$archive"
