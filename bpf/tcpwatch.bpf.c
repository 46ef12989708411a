// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The tracer: hooks and iterators, a file for each subject. A hook filters, fills an event and submits it.
 *
 * Python attaches the functions by name (tracer/kernel/probes.py):
 *   on_<tracepoint>      raw tracepoint
 *   typed_<tracepoint>   the same as tp_btf: it reads typed pointers directly
 *   second_<tracepoint>  runs after on_<tracepoint> and takes what that one missed (reentry.h)
 *   on_<function>        kprobe
 *   bpf_iter__<kind>     iterator of the walk over all sockets
 * report_holder and report_netns are iterators too (tracer/kernel/holders.py, namespaces.py).
 *
 * Arguments are u64, because bcc rewrites accesses through kernel pointers.
 */
#include "retransmit.h"
#include "state.h"
#include "probe.h"
#include "resume.h"
#include "reset.h"
#include "walk.h"
#include "holder.h"
#include "namespace.h"
