// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The hooks, by subject. Each one filters, fills an event and submits it; nothing is changed and nothing is remembered
 * but when a socket's life began. Python attaches them by name: on_<raw tracepoint>, typed_<raw tracepoint> for the one
 * that knows the kernel's types, second_<raw tracepoint> for the one that takes its place (nested.h), on_<function>
 * for the kprobe, or bpf_iter__<kind> for the iterator (tracer/kernel/probes.py). report_holder and report_member are
 * iterators, too (tracer/kernel/holders.py, namespaces.py). Arguments are taken as u64, so that bcc's rewriter leaves
 * them alone.
 */
#include "retransmit.h"
#include "state.h"
#include "probe.h"
#include "resume.h"
#include "reset.h"
#include "walk.h"
#include "holder.h"
#include "member.h"
