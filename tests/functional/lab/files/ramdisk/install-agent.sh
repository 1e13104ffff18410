#!/bin/sh
# Install the agent into the root file system $1, as ironic-python-agent-builder
# does: in a virtual environment of its own. Wheels come from the folder $2.
set -e
root=$1 wheels=$2
mkdir -p "$root/wheels"
mount --bind -o ro "$wheels" "$root/wheels"
mount -t proc proc "$root/proc"
chroot "$root" sh -e <<'IN_CHROOT'
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
python3 -m venv --without-pip /opt/ironic-python-agent
python=/opt/ironic-python-agent/bin/python
$python "$(echo /wheels/pip-*.whl)/pip" install --quiet --no-index \
    --find-links /wheels pip ironic-python-agent
IN_CHROOT
umount "$root/proc" "$root/wheels"
rmdir "$root/wheels"
