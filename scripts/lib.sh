# shellcheck shell=bash
# Shared by the scripts: messages, apt packages, the virtual environment. Sourced, not run.
# The scripts set PATH themselves, before they find this file.

root=$(dirname -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")")
venv=$root/.venv
# Version of the environment: a new number makes it again.
environment=2
# The interpreter of the distribution's bcc, whatever other python3 is on the PATH.
python=/usr/bin/python3

# Variables of the caller that would change bash, Python and the tools that run here.
unset CDPATH GLOBIGNORE POSIXLY_CORRECT "${!PYTHON@}"
script_arguments=("$@")
[ -d "${TMPDIR:-/tmp}" ] || unset TMPDIR

runtime_packages=(python3-bpfcc python3-click python3-tabulate)
lab_packages=(nftables conntrack iproute2)
test_packages=(mariadb-server php-cli php-mysql beanstalkd strace shellcheck bpftool systemd
    netcat-openbsd jq zstd groff-base chromium bash-completion zsh fish crun
    python3-prometheus-client prometheus prometheus-node-exporter)
# What scripts/packaging and tests/kernel/test_packages.py need.
package_packages=(build-essential debhelper dh-python lintian rpm buildah debootstrap debian-archive-keyring python3-yaml)
# The servers, proxies and programs of tests/kernel/test_knobs.py; test_acting_servers.py uses some of them.
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

# need_root WHAT ARGUMENT...
need_root() {
    local what=$1
    shift
    [ "$(id -u)" = 0 ] || fail "$what needs root" "sudo $0${*:+ $*}"
}

# Warn root before it runs or installs code that any user can change.
warn_if_open() {
    local open
    [ "$(id -u)" = 0 ] || return 0
    open=$(find "$root" "$root/scripts" "$root/tracer" "$root/bpf" -maxdepth 1 -perm -o=w ! -type l -print -quit)
    [ -z "$open" ] || say "warning: every user can write to $open, and so change what root runs: chmod -R o-w $root"
}

# missing_packages PACKAGE...: print those that are not installed.
missing_packages() {
    local package
    for package in "$@"; do
        [ "$(dpkg-query --show --showformat '${db:Status-Abbrev}' "$package" 2>/dev/null)" = "ii " ] || echo "$package"
    done
}

# rpm_packages PACKAGE...: print the names that these Debian packages have on RHEL, Fedora and Amazon Linux.
rpm_packages() {
    local package
    for package in "$@"; do
        case $package in
        python3-venv) ;; # in python3 there
        python3-bpfcc) echo python3-bcc ;;
        python3-pymysql) echo python3-PyMySQL ;;
        conntrack) echo conntrack-tools ;;
        iproute2) echo iproute ;;
        *) echo "$package" ;;
        esac
    done
}

# Print what to type where dnf lacks a package. EPEL has click and tabulate for RHEL 9; Amazon Linux has no EPEL.
rpm_hint() {
    case $(. /etc/os-release 2>/dev/null && echo "${ID-}") in
    amzn) environment_hint ;;
    rhel) echo "click and tabulate are in EPEL: sudo dnf install https://dl.fedoraproject.org/pub/epel/epel-release-latest-9.noarch.rpm" ;;
    *) echo "click and tabulate are in EPEL: sudo dnf install epel-release" ;;
    esac
}

# Print how to run tcpwatch with newer Python packages than the distribution has, and the distribution's bcc.
environment_hint() {
    printf 'sudo python3 -m venv --system-site-packages %s && sudo %s/bin/pip install %q && sudo %s/bin/tcpwatch check\n' \
        /opt/tcpwatch-venv /opt/tcpwatch-venv "$root" /opt/tcpwatch-venv
}

# need_rpms WHY PACKAGE...: install the missing ones, which have their Debian names here, with dnf.
need_rpms() {
    local why=$1 package missing=()
    shift
    for package in $(rpm_packages "$@"); do
        rpm -q --quiet "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    need_root "installing ${missing[*]}" "${script_arguments[@]}"
    say "installing ${missing[*]} ($why)"
    dnf --quiet --assumeyes install "${missing[@]}" </dev/null >&2 ||
        fail "dnf could not install ${missing[*]}" "$(rpm_hint)"
}

# need_packages WHY PACKAGE...: install the missing ones.
need_packages() {
    local why=$1 missing
    shift
    if uses_dnf; then
        need_rpms "$why" "$@"
        return
    fi
    if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
        say "no apt-get here: assuming that these Debian packages are installed: $*"
        return
    fi
    mapfile -t missing < <(missing_packages "$@")
    [ ${#missing[@]} -gt 0 ] || return 0
    need_root "installing ${missing[*]}" "${script_arguments[@]}"
    say "installing ${missing[*]} ($why)"
    install_packages "${missing[@]}"
}

# Fail unless $python is a Python that tcpwatch runs on.
need_python() {
    [ -x "$python" ] || fail "there is no $python" "install Python 3.9 or newer with the packages of your distribution"
    "$python" -I -c 'import sys; sys.exit(sys.version_info < (3, 9))' ||
        fail "$("$python" -I --version) is too old: tcpwatch needs 3.9 or newer" "use a newer release of your distribution"
}

# need_modules MODULE...: fail unless python can import them, from any source, and they are not too old.
need_modules() {
    local module
    need_python
    for module in "$@"; do
        "$python" -I -c "import $module" 2>/dev/null ||
            fail "$python has no module $module" "$(installing "python3-$module")"
    done
    need_versions "$@"
}

# The oldest versions that work, as in pyproject.toml.
declare -A oldest=([click]=8.0 [tabulate]=0.8.9)

# need_versions MODULE...: fail if one of these is too old.
need_versions() {
    local module needed found hint
    while read -r module found; do
        needed=${oldest[$module]-$found}
        [ "$(printf '%s\n' "$needed" "$found" | sort --version-sort | head -n 1)" = "$needed" ] && continue
        hint="sudo $python -m pip install '$module>=$needed'"
        ! uses_dnf || hint=$(environment_hint)
        fail "the Python package $module $found is too old (expected $needed or newer)" "$hint"
    done < <("$python" -I -c "$print_versions" "$@" 2>/dev/null)
}

print_versions='import sys
from importlib.metadata import PackageNotFoundError, version
for module in sys.argv[1:]:
    try:
        print(module, version(module))
    except PackageNotFoundError:
        pass'

uses_dnf() {
    command -v dnf >/dev/null && ! command -v apt-get >/dev/null
}

# installing PACKAGE...: print what installs these Debian packages here, in the words of tracer/model/packages.py.
installing() {
    if command -v apt-get >/dev/null; then
        echo "sudo apt-get install $*"
    elif uses_dnf; then
        echo "sudo dnf install $(rpm_packages "$@" | paste --serial --delimiters ' ')"
    elif [ $# = 1 ]; then
        echo "install the package $1 (its name in Debian)"
    else
        echo "install the packages $* (their names in Debian)"
    fi
}

# Fail unless python has what reading a recording needs.
need_reading_modules() {
    need_python
    "$python" -I -c 'import click, tabulate' 2>/dev/null ||
        fail "$python has no module click or tabulate, which reading a recording needs" \
            "$(installing python3-click python3-tabulate); or, in a virtual environment of yours: pip install $root"
    need_versions click tabulate
}

# Runs tcpwatch from the tree that is its first argument, without an environment. Until tcpwatch handles ^C itself, ^C
# ends it at once.
# shellcheck disable=SC2034  # of scripts/tcpwatch
reading_program='import signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
sys.path.insert(0, sys.argv.pop(1))
sys.argv[0] = "tcpwatch.py"
from tracer.__main__ import main
main()'

# In a subshell, so that its lock and its trap end with it. Concurrent calls wait for each other.
install_packages() (
    umask 022
    exec 9</usr/sbin
    flock 9
    log=$(mktemp)
    trap 'rm -f "$log"; allow_services' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    forbid_services
    export DEBIAN_FRONTEND=noninteractive
    apt=(apt-get -q -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300)
    # Without the archive, an old package list and cached packages may be enough.
    if ! { { "${apt[@]}" update || true; } &&
        env "$policy_variable=yes" "${apt[@]}" install --yes --no-install-recommends "$@"; } >"$log" 2>&1 </dev/null 9<&-; then
        tail -n 20 "$log" >&2
        fail "apt-get could not install $*" "is Debian's archive in reach? sudo apt-get update; sudo apt-get install $*"
    fi
)

# Packages such as mariadb-server start a service when they are installed. invoke-rc.d(8) and deb-systemd-invoke(1) ask
# this program whether they may.
policy=/usr/sbin/policy-rc.d
policy_mark="# Made by tcpwatch's scripts while they install packages."
policy_variable=TCPWATCH_INSTALLS_PACKAGES

# It forbids only services of our own apt-get, so that a file left behind after a kill changes nothing on the host.
forbid_services() {
    local fresh
    [ ! -e "$policy" ] || is_our_policy || return 0
    fresh=$(mktemp "$policy.XXXXXX")
    printf '#!/bin/sh\n%s\n[ -z "$%s" ] || exit 101\nexit 0\n' "$policy_mark" "$policy_variable" >"$fresh"
    chmod 755 "$fresh"
    mv -f "$fresh" "$policy"
}

allow_services() {
    ! is_our_policy || rm -f "$policy"
}

is_our_policy() {
    [ -f "$policy" ] && grep -qsxF "$policy_mark" "$policy"
}

# What the environment was made from. Another interpreter or other requirements make it again.
stamp() {
    "$python" -I --version
    sha256sum <"$root/pyproject.toml"
    printf '%s\n' "$environment" "$root" "$*"
}

# is_ready KIND: whether the environment was made for KIND, and no other user can change it.
is_ready() {
    [ -f "$venv/stamp.$1" ] && [ "$(stamp "$1")" = "$(<"$venv/stamp.$1")" ] &&
        [ -z "$(find "$venv" -maxdepth 2 -perm -o=w ! -type l -print -quit)" ]
}

# make_venv DIRECTORY: an environment with the distribution's packages that imports tracer from the tree.
make_venv() {
    local directory=$1 site hint="df -h $root"
    uses_dnf || hint="$(installing python3-venv); $hint"
    "$python" -I -m venv --system-site-packages --without-pip "$directory" ||
        fail "$python could not make a virtual environment" "$hint"
    site=$(echo "$directory"/lib/python3*/site-packages)
    printf '%s\n' "$root" >"$site/tcpwatch.pth"
    # Until tcpwatch handles ^C itself, ^C ends it at once, without a traceback of Python. With a umask that lets others
    # write, Python's directories for compiled modules would be writable for them, so it makes none.
    cat >"$directory/bin/tcpwatch.py" <<'END'
import os
import signal
import sys

signal.signal(signal.SIGINT, signal.SIG_DFL)
umask = os.umask(0o022)
os.umask(umask)
if ~umask & 0o022:
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
from tracer.__main__ import main

main()
END
    "$python" -I -m compileall -q "$root/tracer"
}

need_writable_tree() {
    [ -w "$root" ] && return
    [ "$(id -u)" = 0 ] || need_root "the first run, which makes $venv," "${script_arguments[@]}"
    fail "cannot write to $root (a read-only file system?)" "cp -R $root /var/tmp/tcpwatch; sudo /var/tmp/tcpwatch/scripts/tcpwatch"
}

# Make the environment that runs tcpwatch from the tree. Concurrent calls wait for each other. A failure leaves nothing
# behind.
ensure_runtime() {
    is_ready runtime && return
    [ ! -x "$python" ] || need_python # before anything is installed
    need_packages "to run at all" "${runtime_packages[@]}" python3-venv
    need_modules venv click tabulate
    need_writable_tree
    (
        umask 022
        exec 9<"$root"
        flock 9
        is_ready runtime && exit
        say "making $venv"
        fresh=$(mktemp --directory "$root/.venv.XXXXXX")
        trap 'rm -rf "$fresh"' EXIT
        make_venv "$fresh"
        stamp runtime >"$fresh/stamp.runtime"
        # A default ACL of the tree overrides the umask.
        chmod -R u=rwX,go=rX "$fresh"
        rm -rf "$venv"
        mv "$fresh" "$venv"
    )
    is_ready runtime || fail "the environment $venv could not be made" "sudo rm -rf $venv; sudo $0"
}

# Add what the tests need; as root also the packages of the tests on the kernel.
ensure_tests() {
    ensure_runtime
    if [ "$(id -u)" = 0 ]; then
        need_packages "for the tests" "${lab_packages[@]}" "${test_packages[@]}" "${knob_packages[@]}" \
            "${package_packages[@]}"
        # Not by package: other sources of Node.js have both in one package.
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
    need_writable_tree
    [ -w "$venv" ] || need_root "installing what the tests need into $venv" "${script_arguments[@]}"
    [[ ",$(findmnt -n -o OPTIONS --target "$root")," != *,noexec,* ]] ||
        fail "$root is mounted noexec, and the tests run programs from $venv" "cp -R $root /var/tmp/tcpwatch; sudo /var/tmp/tcpwatch/scripts/test"
    say "installing what the tests need into $venv (pyproject.toml, extra: test)"
    (
        umask 022
        "$python" -I -m venv --system-site-packages --upgrade "$venv" &&
            "$venv/bin/python" -I -m pip install --quiet --disable-pip-version-check --editable "${root}[test]"
    ) || fail "pip could not install what the tests need" "is PyPI in reach? $venv/bin/python -m pip install -e '${root}[test]'"
    (umask 022 && stamp test >"$venv/stamp.test")
}

clients_stamp() {
    "$python" -I --version
    node --version
    (cd "$root/tests/kernel/clients" && sha256sum -- *)
}

# Install the client libraries, at fixed versions and separate from the modules of the tests.
ensure_clients() {
    local listed=$root/tests/kernel/clients
    [ -f "$clients/stamp" ] && [ "$(clients_stamp)" = "$(<"$clients/stamp")" ] && return
    say "installing the client libraries of tests/kernel/test_knobs.py into $clients"
    (
        umask 022
        fresh=$(mktemp --directory "$root/.clients.XXXXXX")
        trap 'rm -rf "$fresh"' EXIT
        chmod 755 "$fresh"
        "$python" -I -m venv --without-pip "$fresh/python"
        "$venv/bin/python" -I -m pip --python "$fresh/python/bin/python" install --quiet --disable-pip-version-check \
            --requirement "$listed/requirements.txt" ||
            fail "pip could not install the client libraries" "is PyPI in reach? see $listed/requirements.txt"
        mkdir "$fresh/node"
        cp "$listed/package.json" "$listed/package-lock.json" "$fresh/node/"
        (cd "$fresh/node" && npm ci --silent --ignore-scripts --no-audit --no-fund) ||
            fail "npm could not install the client libraries" "is the npm registry in reach? see $listed/package.json"
        clients_stamp >"$fresh/stamp"
        rm -rf "$clients"
        mv "$fresh" "$clients"
    )
}
