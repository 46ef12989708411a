// SPDX-License-Identifier: GPL-2.0-or-later
/* Count the state changes that tcpwatch should trace, independently of it and without a ring buffer. */
#include "event.h"
#include "kernel.h"
#include "filter.h"
#include "sock.h"
#include "reentry.h"

#define SLOT_NS 10000000ULL
#define SLOTS 65536
#define BPF_F_MMAPABLE (1U << 10)

BPF_F_TABLE("array", int, u64, counted, SLOTS, BPF_F_MMAPABLE); /* by CLOCK_BOOTTIME, modulo SLOTS */

static __always_inline void count(struct bpf_raw_tracepoint_args *ctx)
{
    u64 sk = ctx->args[0];
    u32 old_state = ctx->args[1];
    u32 new_state = ctx->args[2];
    struct tuple t = {};
    int slot = bpf_ktime_get_boot_ns() / SLOT_NS % SLOTS;

    if (CORE_READ(sock, sk_protocol, sk) != IPPROTO_TCP ||
        !tuple_of_sock(sk, &t, old_state == TCP_CLOSE && new_state == TCP_SYN_SENT))
        return;
    if (t.rport != 0 && old_state != TCP_LISTEN)
        counted.atomic_increment(slot);
}

int on_inet_sock_set_state(struct bpf_raw_tracepoint_args *ctx)
{
    struct reentry *r = reentry_of_cpu();

    if (!r)
        return 0;
    push_change(r, state_change(ctx));
    count(ctx);
    return 0;
}

int second_inet_sock_set_state(struct bpf_raw_tracepoint_args *ctx)
{
    struct reentry *r = reentry_of_cpu();

    if (r && was_missed(r, state_change(ctx)))
        count(ctx);
    return 0;
}
