"""The two spellings of struct event are one."""

from __future__ import annotations

import ctypes
import os

import bcc

from tracer.kernel import layout
from tracer.kernel.probes import LOST_HOOKS
from tracer.kernel.program.source import bpf_directory


def test_python_mirrors_the_struct_that_the_compiler_laid_out() -> None:
    directory = bpf_directory()
    os.environ["BCC_KERNEL_SOURCE"] = str(directory)
    event_h = (directory / "event.h").read_text()
    bpf = bcc.BPF(text=(event_h + "BPF_ARRAY(layout, struct event, 1); BPF_ARRAY(hooks, u8, NR_HOOKS);").encode())
    leaf = bpf[b"layout"].Leaf
    assert {name: getattr(leaf, name).offset for name, *_ in leaf._fields_} == layout.OFFSETS
    assert ctypes.sizeof(leaf) == layout.SIZE
    assert bpf[b"hooks"].max_entries == len(LOST_HOOKS)
    bpf.cleanup()
