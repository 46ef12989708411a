# shellcheck shell=bash
# Shared by build-deb and build-rpm, after lib.sh: the version and the source archive of a package. Sourced, not run.

# The version has one place, tracer/__init__.py.
# shellcheck disable=SC2154  # of lib.sh
version=$("$python" -I -B -c "import sys; sys.path.insert(0, sys.argv[1]); import tracer; print(tracer.__version__)" "$root")
# The time of the commit, so that two builds of it are equal.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$root" log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH

# archive FILE: write the tree, without what is hidden or generated, to a .tar.gz with the directory tcpwatch-ebpf-VERSION.
archive() {
    tar --create --directory "$root" --sort=name --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX \
        --mtime="@$SOURCE_DATE_EPOCH" --transform="s,^,tcpwatch-ebpf-$version/," \
        --exclude='.*' --exclude=__pycache__ --exclude='*.pyc' --exclude='*.egg-info' \
        bpf docs scripts tests tracer LICENSE README.md CHANGELOG.md CONTRIBUTING.md pyproject.toml |
        gzip --no-name >"$1"
}
