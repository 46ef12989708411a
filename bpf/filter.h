/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The filters that run in the kernel: ports, family, addresses, network namespace. Every hook applies them first, the
 * cheapest first, and reads only what the next one needs. A connection must match every option, and one value of each.
 * tracer/model/filters.py filters the same in Python; tests/kernel/test_kernel_filters.py compares the two.
 */
#ifndef TCPWATCH_FILTER_H
#define TCPWATCH_FILTER_H

#include "event.h"
#include "kernel.h"
#include "settings.h"

enum filter_flags {
    FILTER_PORT = 1, /* either end */
    FILTER_LPORT = 2,
    FILTER_RPORT = 4,
    FILTER_HOST = 8,
    FILTER_NETNS = 16,
    FILTER_IPV4 = 32, /* only */
    FILTER_IPV6 = 64, /* only */
    FILTER_PORTS = FILTER_PORT | FILTER_LPORT | FILTER_RPORT,
};

struct host_key {
    u32 prefix;
    u8 addr[16];
};

BPF_HASH(filter_ports, u16, u8, 1024); /* the FILTER_PORTS bits that the port matches */
BPF_HASH(filter_netns, u32, u8, 256);
BPF_LPM_TRIE(filter_hosts, struct host_key, u8, 1024);

/* The two ends of a connection, and its state where there is a socket. */
struct tuple {
    u8 laddr[16];
    u8 raddr[16];
    u32 netns;
    u16 lport;
    u16 rport;
    u8 family;
    u8 state;
};

static __always_inline u32 active_filters(void)
{
    struct settings *s = current_settings();

    return s ? s->filters : 0;
}

/* unbound: during connect() a socket may have no local port yet, and then passes the filters on local ports. */
static __always_inline bool ports_match(u32 flags, u16 lport, u16 rport, bool unbound)
{
    u8 *l, *r;
    u8 local = 0, remote = 0;

    if (!(flags & FILTER_PORTS))
        return true;
    l = filter_ports.lookup(&lport);
    if (l)
        local = *l;
    r = filter_ports.lookup(&rport);
    if (r)
        remote = *r;
    if (unbound && lport == 0)
        local = FILTER_PORT | FILTER_LPORT;
    if ((flags & FILTER_PORT) && !((local | remote) & FILTER_PORT))
        return false;
    if ((flags & FILTER_LPORT) && !(local & FILTER_LPORT))
        return false;
    if ((flags & FILTER_RPORT) && !(remote & FILTER_RPORT))
        return false;
    return true;
}

static __always_inline bool family_matches(u32 flags, u8 family)
{
    if ((flags & FILTER_IPV4) && family != 4)
        return false;
    if ((flags & FILTER_IPV6) && family != 6)
        return false;
    return true;
}

static __always_inline bool host_listed(u8 *addr)
{
    struct host_key key = {.prefix = 128};

    __builtin_memcpy(key.addr, addr, 16);
    return filter_hosts.lookup(&key) != NULL;
}

static __always_inline bool hosts_match(u32 flags, struct tuple *t)
{
    if (!(flags & FILTER_HOST))
        return true;
    return host_listed(t->laddr) || host_listed(t->raddr);
}

static __always_inline bool netns_matches(u32 flags, u32 netns)
{
    if (!(flags & FILTER_NETNS))
        return true;
    return filter_netns.lookup(&netns) != NULL;
}

#endif
