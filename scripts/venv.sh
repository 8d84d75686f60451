# Sourced by the other scripts: a virtual environment of this checkout, made with what the system has.
# POSIX sh; runs on a fresh Debian 12 or Ubuntu 24.04.

say() { printf '%s\n' "$*" >&2; }
fail() { say "tavern: $*"; exit 2; }
is_root() { [ "$(id -u)" = 0 ]; }

# apt_install PACKAGE...: installs as root. No service starts: coturn would take the very port that we serve.
apt_install() {
    say "Installing $* ..."
    policy=/usr/sbin/policy-rc.d
    made_policy=
    if [ ! -e "$policy" ]; then
        made_policy=yes
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
        trap 'exit 130' INT TERM
        printf '#!/bin/sh\nexit 101\n' > "$policy"
        chmod 755 "$policy"
    fi
    export DEBIAN_FRONTEND=noninteractive
    { apt-get -qq -o Acquire::Retries=3 update && apt-get -qq -y --no-install-recommends install "$@"; } >/dev/null \
        || fail "could not install $*: run 'apt-get install $*' to see why"
    if [ -n "$made_policy" ]; then
        rm -f "$policy"
        trap - EXIT INT TERM
    fi
}

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# find_python: sets $python to a Python of 3.11 or newer that can make virtual environments.
find_python() {
    python=
    for candidate in ${TAVERN_PYTHON:-} python3 python3.13 python3.12 python3.11; do
        if is_new_enough "$candidate"; then python=$candidate; break; fi
    done
    if [ -z "$python" ]; then
        command -v apt-get >/dev/null || fail "Python 3.11 or newer is needed"
        is_root || fail "Python 3.11 or newer is needed: sudo apt-get install python3 python3-venv"
        apt_install python3 python3-venv
        python=python3
        is_new_enough "$python" || fail "this system's Python is too old: 3.11 or newer is needed"
    fi
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        command -v apt-get >/dev/null || fail "$python cannot make virtual environments: install its venv module"
        is_root || fail "$python cannot make virtual environments: sudo apt-get install python3-venv"
        apt_install python3-venv
    fi
}

# install_into DIRECTORY WHAT: the virtual environment in DIRECTORY has WHAT ('.' or '.[test]') of this very checkout.
install_into() {
    state=$(find src pyproject.toml README.md -type f ! -name '*.pyc' -exec cksum {} + | LC_ALL=C sort | cksum)
    if [ "$(cat "$1/installed" 2>/dev/null)" = "$2 $state" ]; then return; fi
    find_python
    say "Installing Tavern into $1 (once for each version; this takes a minute) ..."
    [ -x "$1/bin/pip" ] || "$python" -m venv "$1" || fail "could not make $1"
    "$1/bin/pip" --disable-pip-version-check install --quiet "$2" || fail "could not install into $1 (see above)"
    printf '%s' "$2 $state" > "$1/installed"
}
