/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Read the tuple of a connection (addresses, ports, namespace, state) from a socket or a packet, and filter it. */
#ifndef TCPWATCH_TUPLE_H
#define TCPWATCH_TUPLE_H

#include "event.h"
#include "filter.h"
#include "kernel.h"

static __always_inline void copy_ipv4(u8 *to, u32 addr)
{
    __builtin_memset(to, 0, 10);
    to[10] = 0xff;
    to[11] = 0xff;
    __builtin_memcpy(to + 12, &addr, 4);
}

static __always_inline bool is_v4_mapped(u8 *addr)
{
    u64 high;
    u32 low;

    __builtin_memcpy(&high, addr, 8);
    __builtin_memcpy(&low, addr + 8, 4);
    return high == 0 && low == 0xffff0000;
}

static __always_inline u32 netns_inode(u64 net)
{
    return CORE_READ(net, ns__inum, net);
}

/* sk: a full socket, a request socket or a time-wait socket. False as soon as a filter rejects it. */
static __always_inline bool tuple_of_sock(u64 sk, struct tuple *t, bool unbound)
{
    u32 flags = active_filters();
    DECLARE_COPY(sock_common, common);
    u16 family;

    FILL_COPY(sock_common, common, sk);
    t->lport = COPY_READ(sock_common, skc_num, common);
    /* A closing socket has released skc_num (inet_put_port()), but still has its source port. */
    if (t->lport == 0 && !unbound)
        t->lport = ntohs(CORE_READ(inet_sock, inet_sport, sk));
    t->rport = ntohs(COPY_READ(sock_common, skc_dport, common));
    if (!ports_match(flags, t->lport, t->rport, unbound))
        return false;
    family = COPY_READ(sock_common, skc_family, common);
    if (family == AF_INET) {
        copy_ipv4(t->laddr, COPY_READ(sock_common, skc_rcv_saddr, common));
        copy_ipv4(t->raddr, COPY_READ(sock_common, skc_daddr, common));
        t->family = 4;
    } else if (family == AF_INET6 && FIELD_EXISTS(sock_common, skc_v6_daddr)) {
        __builtin_memcpy(t->laddr, (u8 *)common + FIELD_OFFSET(sock_common, skc_v6_rcv_saddr), 16);
        __builtin_memcpy(t->raddr, (u8 *)common + FIELD_OFFSET(sock_common, skc_v6_daddr), 16);
        t->family = is_v4_mapped(t->raddr) ? 4 : 6;
    } else {
        return false;
    }
    if (!family_matches(flags, t->family) || !hosts_match(flags, t))
        return false;
    t->state = COPY_READ(sock_common, skc_state, common);
    t->netns = netns_inode(COPY_READ(sock_common, skc_net__net, common));
    return netns_matches(flags, t->netns);
}

/*
 * For a reset that no socket sends: the tuple of the received packet that it answers, with local and remote swapped.
 * net: the network namespace; 0: that of the packet's device.
 */
static __always_inline bool tuple_of_packet(u64 skb, u64 net, struct tuple *t)
{
    u32 flags = active_filters();
    u64 head = CORE_READ(sk_buff, head, skb);
    u64 ip = head + CORE_READ(sk_buff, network_header, skb);
    u64 tcp = head + CORE_READ(sk_buff, transport_header, skb);
    u16 ports[2] = {};
    u32 addrs[2] = {};
    u8 version = 0;

    if (bpf_probe_read_kernel(ports, sizeof(ports), (void *)tcp) != 0)
        return false;
    t->rport = ntohs(ports[0]);
    t->lport = ntohs(ports[1]);
    if (!ports_match(flags, t->lport, t->rport, false))
        return false;
    bpf_probe_read_kernel(&version, 1, (void *)ip);
    if ((version >> 4) == 4) {
        bpf_probe_read_kernel(addrs, sizeof(addrs), (void *)(ip + 12));
        copy_ipv4(t->raddr, addrs[0]);
        copy_ipv4(t->laddr, addrs[1]);
        t->family = 4;
    } else if ((version >> 4) == 6) {
        bpf_probe_read_kernel(t->raddr, 16, (void *)(ip + 8));
        bpf_probe_read_kernel(t->laddr, 16, (void *)(ip + 24));
        t->family = 6;
    } else {
        return false;
    }
    if (!family_matches(flags, t->family) || !hosts_match(flags, t))
        return false;
    t->netns = netns_inode(net ? net : CORE_READ(net_device, nd_net__net, CORE_READ(sk_buff, dev, skb)));
    return netns_matches(flags, t->netns);
}

static __always_inline void fill_tuple(struct event *e, struct tuple *t)
{
    __builtin_memcpy(e->laddr, t->laddr, 16);
    __builtin_memcpy(e->raddr, t->raddr, 16);
    e->lport = t->lport;
    e->rport = t->rport;
    e->netns = t->netns;
    e->family = t->family;
    e->state = t->state;
}

/* Request and time-wait sockets are shorter: do not read beyond struct sock_common. */
static __always_inline bool is_full_sock(u8 state)
{
    return state != TCP_TIME_WAIT && state != TCP_NEW_SYN_RECV;
}

#endif
