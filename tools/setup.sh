# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# Shared by the programs in this folder: makes this machine ready for the
# functional lab. Sourced, it leaves VENV and REPOSITORY set.
#
# - becomes root (the lab boots machines and has mounts of its own);
# - installs the system packages in bindep.txt that are missing;
# - makes a virtual environment, outside the tree, with the project and what
#   its tests need, at the versions in constraints.txt.
#
# Done again, it finds everything in place and takes about a second.
#
# Variables:
#   PYTHON           the interpreter of the virtual environment; by default
#                    python3, or a newer one if Ironic needs it
#   XDG_CACHE_HOME   where the virtual environment and the images are kept;
#                    default ~/.cache
#   pip's own        PIP_INDEX_URL and so on, or its configuration files

set -euo pipefail

REPOSITORY=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# The oldest Python that the tested Ironic runs on.
OLDEST_PYTHON=11

# Virtual environments of other versions of the tree are deleted when nobody
# used them for so long.
UNUSED_DAYS=14

say() {
    echo "[setup] $*"
}

fail() {
    echo "[setup] FAILED: $*" >&2
    exit 1
}

# become_root PROGRAM ARGUMENTS...
become_root() {
    if [ "$(id -u)" = 0 ]; then
        return
    fi
    command -v sudo > /dev/null ||
        fail "root is needed to boot machines, and there is no sudo"
    say "becoming root"
    export XDG_CACHE_HOME=${XDG_CACHE_HOME:-$HOME/.cache}
    # Root would not read this user's settings of pip.
    local passed settings
    for settings in "${XDG_CONFIG_HOME:-$HOME/.config}/pip/pip.conf" \
            "$HOME/.pip/pip.conf"; do
        if [ -z "${PIP_CONFIG_FILE:-}" ] && [ -e "$settings" ]; then
            export PIP_CONFIG_FILE=$settings
        fi
    done
    passed=$(compgen -e | grep -E '^(PIP_|XDG_CACHE_HOME$|PYTHON$|PATH$|PBR_|.*_proxy$|.*_PROXY$|SNAPSHOT_LAB_|SSL_CERT_FILE$|REQUESTS_CA_BUNDLE$)' | paste -sd, -)
    exec sudo --preserve-env="$passed" env "PATH=$PATH" "$@"
}

# wanted_packages [PROFILE]
# The names in bindep.txt for this distribution: those for all that use dpkg,
# those for this release, and those of a profile.
wanted_packages() {
    local release
    release=$(. /etc/os-release && echo "$ID-${VERSION_CODENAME:-}")
    awk -v release="platform:$release" -v profile="${1:-}" '
        { sub(/#.*/, "") }
        index($0, "platform:dpkg]") || index($0, release "]") ||
            (profile != "" && index($0, "platform:dpkg " profile "]")) {
                print $1
        }
        ' "$REPOSITORY/bindep.txt"
}

# install_packages [PROFILE]
install_packages() {
    command -v apt-get > /dev/null ||
        fail "no apt-get: install the packages in bindep.txt by hand"
    local missing=() package
    for package in $(wanted_packages "$@"); do
        dpkg-query -W -f '${Status}' "$package" 2> /dev/null |
            grep -q ' ok installed$' || missing+=("$package")
    done
    if [ ${#missing[@]} = 0 ]; then
        say "system packages: all there"
        return
    fi
    say "system packages: installing ${missing[*]}"
    local log
    log=$(mktemp)
    # No daemon is started: the lab runs its own, and stops them.
    local policy=/usr/sbin/policy-rc.d ours=
    if [ ! -e "$policy" ]; then
        ours=1
        printf '#!/bin/sh\nexit 101\n' > "$policy"
        chmod +x "$policy"
    fi
    if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install \
            --yes --no-install-recommends "${missing[@]}"; } > "$log" 2>&1
    then
        [ -z "$ours" ] || rm "$policy"
        tail -n 20 "$log" >&2
        fail "apt-get; its whole output is in $log"
    fi
    [ -z "$ours" ] || rm "$policy"
    rm "$log"
}

# The first interpreter that is new enough.
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if "$candidate" -c "import sys
sys.exit(sys.version_info < (3, $OLDEST_PYTHON))" 2> /dev/null; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    fail "Ironic needs Python 3.$OLDEST_PYTHON or newer, and this machine" \
        "has none; set PYTHON to one"
}

make_venv() {
    local python key cache built
    python=$(find_python)
    cache=${XDG_CACHE_HOME:-$HOME/.cache}/ironic-snapshot
    # The project is installed as a link to this tree, so another checkout
    # needs another environment.
    key=$({ "$python" --version; echo "$python $REPOSITORY"; cat \
        "$REPOSITORY"/{constraints.txt,requirements.txt} \
        "$REPOSITORY"/{test-requirements.txt,setup.cfg,pyproject.toml}; } |
        sha256sum | cut -c1-16)
    VENV=$cache/venv-$key
    mkdir -p "$cache"
    # One at a time; the lock ends with this shell at the latest.
    exec 9> "$cache/.venv.lock"
    flock 9
    find "$cache" -maxdepth 1 -name 'venv-*' -mtime "+$UNUSED_DAYS" \
        ! -path "$VENV" -exec rm -rf {} +
    # A venv knows its own path: it cannot be made aside and renamed. Instead
    # a file says that it is complete.
    if [ -e "$VENV/complete" ]; then
        say "virtual environment: $VENV"
    else
        say "virtual environment: making $VENV (a minute or two)"
        built=$SECONDS
        rm -rf "$VENV"
        "$python" -m venv "$VENV" ||
            fail "$python cannot make virtual environments"
        # setuptools, wheel and pbr build the project itself, below.
        "$VENV/bin/pip" install -qq --upgrade --constraint \
            "$REPOSITORY/constraints.txt" pip setuptools wheel pbr ||
            fail "pip could not install pip"
        install_project --constraint "$REPOSITORY/constraints.txt" \
            --requirement "$REPOSITORY/test-requirements.txt" \
            --editable "${REPOSITORY}[conductor,ramdisk,cli]" ||
            fail "pip could not install what the tests need"
        touch "$VENV/complete"
        say "virtual environment: $((SECONDS - built)) s"
    fi
    touch "$VENV"
    exec 9>&-
}

# pbr takes the version from git, unless there is none, or git refuses to
# read a tree that belongs to another user.
install_project() {
    local version=${PBR_VERSION:-}
    if [ -z "$version" ] &&
            ! git -C "$REPOSITORY" rev-parse HEAD > /dev/null 2>&1; then
        version=0.1.0
    fi
    ${version:+env "PBR_VERSION=$version"} "$VENV/bin/pip" install \
        -qq --no-build-isolation "$@"
}

# setup [PROFILE]
setup() {
    install_packages "$@"
    make_venv
}
