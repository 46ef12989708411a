"""The path of a cgroup, by its id."""

from __future__ import annotations

import ctypes
import os
import struct
from functools import lru_cache

from tracer.kernel.wire import text
from tracer.model.fields import MAX_PATH

_FILEID_KERNFS = 0xFE  # include/linux/exportfs.h: the file handle is a kernfs id, which is the cgroup id
_O_PATH = 0o10000000
_MOUNTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")


class _FileHandle(ctypes.Structure):
    _fields_ = (
        ("handle_bytes", ctypes.c_uint),
        ("handle_type", ctypes.c_int),
        ("f_handle", ctypes.c_ubyte * 8),
    )


@lru_cache(maxsize=4096)
def cgroup_path(cgroup_id: int) -> str | None:
    """The path of a cgroup below its mount, `/` for the root; None for one that is gone or not visible.

    open_by_handle_at(2) takes the id as a file handle (kernfs_fh_to_dentry(), fs/kernfs/mount.c, 5.5), so that no
    tree is searched. It needs CAP_DAC_READ_SEARCH.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    handle = _FileHandle(8, _FILEID_KERNFS, (ctypes.c_ubyte * 8)(*struct.pack("=Q", cgroup_id)))
    for mount in _MOUNTS:
        try:
            mount_fd = os.open(mount, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue
        try:
            fd = libc.open_by_handle_at(mount_fd, ctypes.byref(handle), os.O_RDONLY | os.O_CLOEXEC | _O_PATH)
            if fd < 0:
                continue
            try:
                path = text(os.readlink(f"/proc/self/fd/{fd}".encode()))[:MAX_PATH]
            finally:
                os.close(fd)
        finally:
            os.close(mount_fd)
        if path.startswith(mount):
            return path.removeprefix(mount) or "/"
        return path
    return None
