# shellcheck shell=bash
# What the scripts share: talk, apt packages, the virtual environment. Sourced, not run.

root=$(dirname -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")")
venv=$root/.venv
# The interpreter that the distribution's bcc belongs to, whatever other python3 is on the PATH.
python=/usr/bin/python3

runtime_packages=(python3-bpfcc python3-venv python3-click python3-tabulate)
lab_packages=(nftables conntrack iproute2)
test_packages=(mariadb-server php-cli php-mysql beanstalkd strace shellcheck bpftool systemd)
# The servers, proxies and programs of tests/kernel/test_knobs.py.
knob_packages=(postgresql php-pgsql redis-server memcached rabbitmq-server haproxy pgbouncer openssh-server curl
    bsh libpostgresql-jdbc-java libmariadb-java)
# The client libraries of tests/kernel/test_knobs.py.
clients=$root/.clients

say() {
    printf 'tcpwatch: %s\n' "$*" >&2
}

# fail WHAT HINT
fail() {
    say "$1"
    printf 'Hint: %s\n' "$2" >&2
    exit 1
}

need_root() {
    [ "$(id -u)" = 0 ] || fail "$1 needs root" "sudo $0 $2"
}

# Those of the packages that are not installed.
missing_packages() {
    local package
    for package in "$@"; do
        [ "$(dpkg-query --show --showformat '${db:Status-Abbrev}' "$package" 2>/dev/null)" = "ii " ] || echo "$package"
    done
}

# need_packages WHY PACKAGE...: install what is missing.
need_packages() {
    local why=$1 missing
    shift
    if ! command -v apt-get >/dev/null; then
        say "no apt-get here: taking for granted what Debian calls $*"
        return
    fi
    mapfile -t missing < <(missing_packages "$@")
    [ ${#missing[@]} -gt 0 ] || return 0
    need_root "installing ${missing[*]}" ""
    say "installing ${missing[*]} ($why)"
    install_packages "${missing[@]}"
}

# A subshell, so that what it puts in place is taken away again whatever ends it.
install_packages() (
    log=$(mktemp)
    policy=/usr/sbin/policy-rc.d
    trap 'rm -f "$log"' EXIT
    if [ ! -e "$policy" ]; then
        # Packages such as mariadb-server would start a service on this host, which nobody asked for.
        trap 'rm -f "$log" "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    export DEBIAN_FRONTEND=noninteractive
    if ! { apt-get -q update && apt-get -q install --yes --no-install-recommends "$@"; } >"$log" 2>&1 </dev/null; then
        tail -n 20 "$log" >&2
        fail "apt-get could not install $*" "sudo apt-get update; sudo apt-get install $*"
    fi
)

# What the environment was made from: another interpreter or other requirements make it anew.
stamp() {
    "$python" --version
    sha256sum <"$root/pyproject.toml"
    printf '%s\n' "$root" "$*"
}

# is_ready KIND: whether the environment has been made for that already.
is_ready() {
    [ -f "$venv/stamp.$1" ] && [ "$(stamp "$1")" = "$(<"$venv/stamp.$1")" ]
}

# make_venv DIRECTORY LIBRARY: an environment that sees the distribution's packages and imports tracer from LIBRARY.
make_venv() {
    local directory=$1 library=$2 site
    "$python" -m venv --system-site-packages --without-pip "$directory"
    site=$(echo "$directory"/lib/python3*/site-packages)
    printf '%s\n' "$library" >"$site/tcpwatch.pth"
    # Until tcpwatch itself listens to ^C, it ends at once and without Python's traceback.
    cat >"$directory/bin/tcpwatch.py" <<'END'
import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)
from tracer.__main__ import main

main()
END
}

# The environment that runs tcpwatch from the tree. Two at a time wait for each other; a failure leaves nothing half made.
ensure_runtime() {
    is_ready runtime && return
    need_root "the first run, which sets up $venv," "$*"
    need_packages "to run at all" "${runtime_packages[@]}"
    (
        flock 9
        is_ready runtime && exit
        say "making $venv"
        fresh=$(mktemp --directory "$root/.venv.XXXXXX")
        trap 'rm -rf "$fresh"' EXIT
        chmod 755 "$fresh"
        make_venv "$fresh" "$root"
        stamp runtime >"$fresh/stamp.runtime"
        rm -rf "$venv"
        mv "$fresh" "$venv"
    ) 9>"$root/.venv.lock"
    is_ready runtime || fail "the environment $venv could not be made" "sudo rm -rf $venv; sudo $0 $*"
}

# The same with what the tests need; as root also the packages of the tests on the kernel.
ensure_tests() {
    ensure_runtime "$@"
    if [ "$(id -u)" = 0 ]; then
        need_packages "for the tests" "${lab_packages[@]}" "${test_packages[@]}" "${knob_packages[@]}"
        # Not by package: other sources of Node.js have both in one.
        command -v node >/dev/null || need_packages "for the tests" nodejs
        command -v java >/dev/null || need_packages "for the tests" default-jre-headless
        command -v npm >/dev/null || need_packages "for the tests" npm
    fi
    ensure_test_environment
    if [ "$(id -u)" = 0 ]; then
        ensure_clients
    fi
}

ensure_test_environment() {
    is_ready test && return
    say "installing what the tests need into $venv (pyproject.toml, extra: test)"
    "$python" -m venv --system-site-packages --upgrade "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable "${root}[test]" ||
        fail "pip could not install what the tests need" "is PyPI in reach? $venv/bin/python -m pip install -e '.[test]'"
    stamp test >"$venv/stamp.test"
}

clients_stamp() {
    "$python" --version
    node --version
    (cd "$root/tests/kernel/clients" && sha256sum -- *)
}

# The client libraries, at fixed versions and apart from what the tests themselves use.
ensure_clients() {
    local listed=$root/tests/kernel/clients fresh
    [ -f "$clients/stamp" ] && [ "$(clients_stamp)" = "$(<"$clients/stamp")" ] && return
    say "installing the client libraries of tests/kernel/test_knobs.py into $clients"
    fresh=$(mktemp --directory "$root/.clients.XXXXXX")
    # shellcheck disable=SC2064  # the name as it is now
    trap "rm -rf '$fresh'" EXIT
    chmod 755 "$fresh"
    "$python" -m venv --without-pip "$fresh/python"
    "$venv/bin/python" -m pip --python "$fresh/python/bin/python" install --quiet --disable-pip-version-check \
        --requirement "$listed/requirements.txt" ||
        fail "pip could not install the client libraries" "is PyPI in reach? see $listed/requirements.txt"
    mkdir "$fresh/node"
    cp "$listed/package.json" "$listed/package-lock.json" "$fresh/node/"
    (cd "$fresh/node" && npm ci --silent --ignore-scripts --no-audit --no-fund) ||
        fail "npm could not install the client libraries" "is the npm registry in reach? see $listed/package.json"
    clients_stamp >"$fresh/stamp"
    rm -rf "$clients"
    mv "$fresh" "$clients"
    trap - EXIT
}
