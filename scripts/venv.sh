# Sourced by the other scripts: a virtual environment of this checkout, made with what the system has.
# POSIX sh; runs on a fresh Debian 12 or Ubuntu 24.04.
# shellcheck shell=sh

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

# has WHAT: a program, a module of nginx, a library, or a header below /usr.
has() {
    case $1 in
        ngx_*) [ -e "/usr/lib/nginx/modules/$1" ] ;;
        *.h) [ -e "/usr/$1" ] ;;
        lib*) ldconfig -p 2>/dev/null | grep -q "$1" ;;
        *) command -v "$1" >/dev/null ;;
    esac
}

# find_missing WHAT:PACKAGE...: sets $missing to the packages of what is not there, and installs them as root.
find_missing() {
    missing=
    for pair in "$@"; do
        has "${pair%%:*}" || missing="$missing ${pair##*:}"
    done
    if [ -z "$missing" ] || ! is_root; then return; fi
    command -v apt-get >/dev/null || fail "these are needed, and there is no apt-get to install them:$missing"
    # shellcheck disable=SC2086  # a list of words
    apt_install $missing
    missing=
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

# version_of PYTHON: such as 3.11, by which its packages' directory is named; nothing if it does not run.
version_of() { "$1" -c 'import sys; print(*sys.version_info[:2], sep=".")' 2>/dev/null || true; }

# make_venv DIRECTORY: a new virtual environment, in the place of what was one. The mark is written last: a virtual
# environment works only where it was made, and only with the Python that it was made with.
make_venv() {
    find_python
    if [ -f "$1/pyvenv.cfg" ]; then
        rm -rf "$1"
    elif [ -e "$1" ] && ! rmdir "$1" 2>/dev/null; then
        fail "$PWD/$1 is no virtual environment of Python: move it away, the scripts keep theirs there"
    fi
    "$python" -m venv "$1" || fail "could not make $PWD/$1"
    printf '%s' "$PWD $(version_of "$1/bin/python")" > "$1/made-for"
}

# c_compiler: says the one that the package's build takes (hatch_build.py); nothing if there is none.
c_compiler() {
    for candidate in ${CC:-cc gcc clang}; do
        command -v "$candidate" && return
    done
    return 0
}

# has_native DIRECTORY: whether the package in this virtual environment has its compiled parts, which come together.
has_native() {
    set -- "$1"/lib/python*/site-packages/tavern/relay/native/libtavernrelay.so
    [ -e "$1" ]
}

# install_into DIRECTORY WHAT: the virtual environment in DIRECTORY has WHAT ('.' or '.[test]') of this very checkout,
# compiled if that was possible at any time since it changed: a compiler that is gone takes nothing away.
install_into() {
    state="$2 $(find src pyproject.toml hatch_build.py README.md -type f ! -name '*.pyc' ! -name '*.so' -exec cksum {} + \
        | LC_ALL=C sort | cksum) ${TAVERN_NATIVE:-}"
    compiler=$(c_compiler)
    version=$(version_of "$1/bin/python")
    made_for=$(cat "$1/made-for" 2>/dev/null) || made_for=
    installed=$(cat "$1/installed" 2>/dev/null) || installed=
    is_ours=
    if [ -n "$version" ] && [ "$made_for" = "$PWD $version" ]; then is_ours=yes; fi
    case $is_ours$installed in "yes$state $compiler"*) return ;; esac
    say "Installing Tavern into $1 (once for each version; this takes a minute) ..."
    [ -n "$is_ours" ] || make_venv "$1"
    rm -f "$1/installed"  # until it is known again what is there
    "$1/bin/python" -m pip --disable-pip-version-check install --quiet "$2" || fail "could not install into $1 (see above)"
    printf '%s' "$state $compiler" > "$1/installed"
}

# install_tests: .venv-test has this checkout with what its tests need, and the compiled data path; without that only
# where somebody who is not root cannot mend it.
install_tests() {
    if ! is_root && { [ -z "$(c_compiler)" ] || ! has include/stdio.h; }; then
        install_into .venv-test '.[test]'
    else
        # shellcheck disable=SC2030  # set for the installation alone
        (export TAVERN_NATIVE=require; install_into .venv-test '.[test]')
    fi
}
