/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What is read from a socket, or from the packet where there is none, at the instant of an event. */
#ifndef TCPWATCH_SOCK_H
#define TCPWATCH_SOCK_H

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
    return READ(net, ns__inum, net);
}

/*
 * Fills the tuple from any socket that begins with a sock_common: a full socket, a request or a time-wait socket.
 * False as soon as a filter says no.
 */
static __always_inline bool tuple_of_sock(u64 sk, struct tuple *t, bool unbound)
{
    u32 flags = active_filters();
    u16 family;

    t->lport = READ(sock_common, skc_num, sk);
    /* A socket that is being closed has given its number back (inet_put_port()), but still knows its source port. */
    if (t->lport == 0 && !unbound)
        t->lport = swap16(READ(inet_sock, inet_sport, sk));
    t->rport = swap16(READ(sock_common, skc_dport, sk));
    if (!ports_wanted(flags, t->lport, t->rport, unbound))
        return false;
    family = READ(sock_common, skc_family, sk);
    if (family == AF_INET) {
        copy_ipv4(t->laddr, READ(sock_common, skc_rcv_saddr, sk));
        copy_ipv4(t->raddr, READ(sock_common, skc_daddr, sk));
        t->family = 4;
    } else if (family == AF_INET6 && HAS(sock_common, skc_v6_daddr)) {
        bpf_probe_read_kernel(t->laddr, 16, (void *)(sk + OFFSET(sock_common, skc_v6_rcv_saddr)));
        bpf_probe_read_kernel(t->raddr, 16, (void *)(sk + OFFSET(sock_common, skc_v6_daddr)));
        t->family = is_v4_mapped(t->raddr) ? 4 : 6;
    } else {
        return false;
    }
    if (!family_wanted(flags, t->family) || !hosts_wanted(flags, t))
        return false;
    t->netns = netns_inode(READ(sock_common, skc_net__net, sk));
    return netns_wanted(flags, t->netns);
}

/* The same from a received packet: its destination is our end. Used for a reset that no socket sends. */
static __always_inline bool tuple_of_packet(u64 skb, struct tuple *t)
{
    u32 flags = active_filters();
    u64 head = READ(sk_buff, head, skb);
    u64 ip = head + READ(sk_buff, network_header, skb);
    u64 tcp = head + READ(sk_buff, transport_header, skb);
    u16 ports[2] = {};
    u32 addrs[2] = {};
    u8 version = 0;

    if (bpf_probe_read_kernel(ports, sizeof(ports), (void *)tcp) != 0)
        return false;
    t->rport = swap16(ports[0]);
    t->lport = swap16(ports[1]);
    if (!ports_wanted(flags, t->lport, t->rport, false))
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
    if (!family_wanted(flags, t->family) || !hosts_wanted(flags, t))
        return false;
    t->netns = netns_inode(READ(net_device, nd_net__net, READ(sk_buff, dev, skb)));
    return netns_wanted(flags, t->netns);
}

/*
 * Jiffies since the peer was last heard: the kernel's own keepalive_time_elapsed() (include/net/tcp.h), which takes
 * the later of the last data and the last ACK received. lsndtime would not do: the retransmission overwrites it.
 * Both stamps are 32 bits of jiffies and 0 until the first segment comes.
 */
static __always_inline u32 silence_at(u64 sk, u32 now)
{
    u32 ack = READ(tcp_sock, rcv_tstamp, sk);
    u32 data = READ(inet_connection_sock, icsk_ack__lrcvtime, sk);
    u32 since_ack = now - ack, since_data = now - data;

    if (ack == 0 && data == 0)
        return UNKNOWN;
    if (ack == 0)
        return since_data;
    if (data == 0)
        return since_ack;
    return since_ack < since_data ? since_ack : since_data;
}

static __always_inline u32 silence(u64 sk)
{
    return silence_at(sk, bpf_jiffies64());
}

static __always_inline u32 jiffies_since(u32 now, u32 stamp)
{
    return stamp ? now - stamp : UNKNOWN;
}

static __always_inline u64 socket_inode(u64 sk)
{
    u64 socket = READ(sock, sk_socket, sk);

    if (socket == 0)
        return 0;
    return READ(socket_alloc, vfs_inode__i_ino, socket - OFFSET(socket_alloc, socket));
}

static __always_inline bool sock_flag(u64 sk, u32 bit)
{
    return (READ(sock_common, skc_flags, sk) >> bit) & 1;
}

static __always_inline u64 sock_net(u64 sk)
{
    return READ(sock_common, skc_net__net, sk);
}

/* The three times in force, in jiffies and a count: include/net/tcp.h, keepalive_time_when() and its siblings. */
static __always_inline u32 keepalive_idle(u64 sk)
{
    u32 own = READ(tcp_sock, keepalive_time, sk);

    return own ? own : READ(net, ipv4__sysctl_tcp_keepalive_time, sock_net(sk));
}

static __always_inline u32 keepalive_interval(u64 sk)
{
    u32 own = READ(tcp_sock, keepalive_intvl, sk);

    return own ? own : READ(net, ipv4__sysctl_tcp_keepalive_intvl, sock_net(sk));
}

static __always_inline u32 keepalive_probes(u64 sk)
{
    u32 own = READ(tcp_sock, keepalive_probes, sk);

    return own ? own : READ(net, ipv4__sysctl_tcp_keepalive_probes, sock_net(sk));
}

/* The largest RTO: the socket's own since 6.15 (icsk_rto_max), TCP_RTO_MAX before. */
static __always_inline u32 rto_max(u64 sk)
{
    u32 own = READ(inet_connection_sock, icsk_rto_max, sk);

    return own ? own : 120 * KERNEL_HZ;
}

/*
 * Milliseconds since the first RTO retransmission of what is outstanding: what the kernel holds against its limit in
 * retransmits_timed_out() (net/ipv4/tcp_timer.c). retrans_stamp is in milliseconds of CLOCK_MONOTONIC, and in
 * microseconds on a socket whose route says so (tcp_usec_ts, 6.7). It is set right after the first retransmission is
 * traced, or with the SYN.
 */
static __always_inline u32 retrying_ms(u64 sk)
{
    u32 stamp = READ(tcp_sock, retrans_stamp, sk);
    u64 now_us = bpf_ktime_get_ns() / 1000;

    if (READ(inet_connection_sock, icsk_retransmits, sk) == 0)
        return UNKNOWN;
    if (stamp == 0)
        return 0;
    if (READ(tcp_sock, tcp_usec_ts, sk))
        return ((u32)now_us - stamp) / 1000;
    return (u32)(now_us / 1000) - stamp;
}

/* How many retransmissions are meant to be enough: tcp_write_timeout() and tcp_orphan_retries(). */
static __always_inline u8 retries_limit(u64 sk, u8 state, bool orphan)
{
    u64 net = sock_net(sk);
    bool alive;
    u8 own, retries;

    if (state == TCP_SYN_SENT || state == TCP_SYN_RECV) {
        own = READ(inet_connection_sock, icsk_syn_retries, sk);
        return own ? own : READ(net, ipv4__sysctl_tcp_syn_retries, net);
    }
    if (!orphan)
        return READ(net, ipv4__sysctl_tcp_retries2, net);
    alive = (u32)READ(inet_connection_sock, icsk_rto, sk) < rto_max(sk);
    retries = READ(net, ipv4__sysctl_tcp_orphan_retries, net);
    if (!alive && READ(sock, sk_err_soft, sk))
        retries = 0;
    return retries == 0 && alive ? 8 : retries;
}

/* Sent and not acknowledged, in bytes. SYN and FIN each take a sequence number, and are nobody's data. */
static __always_inline u32 unacked_bytes(u64 sk, u8 state)
{
    u32 nxt = READ(tcp_sock, snd_nxt, sk);
    u32 in_flight = nxt - (u32)READ(tcp_sock, snd_una, sk);

    if (in_flight == 0)
        return 0;
    if (state == TCP_SYN_SENT || state == TCP_SYN_RECV)
        return in_flight - 1;
    if (state == TCP_FIN_WAIT1 || state == TCP_CLOSING || state == TCP_LAST_ACK)
        /* The FIN stands at the end of the write queue; it is in flight once snd_nxt has passed write_seq's last. */
        return nxt == (u32)READ(tcp_sock, write_seq, sk) ? in_flight - 1 : in_flight;
    return in_flight;
}

static __always_inline void fill_tuple(struct event *e, struct tuple *t)
{
    __builtin_memcpy(e->laddr, t->laddr, 16);
    __builtin_memcpy(e->raddr, t->raddr, 16);
    e->lport = t->lport;
    e->rport = t->rport;
    e->netns = t->netns;
    e->family = t->family;
}

/* A time-wait or request socket ends after its sock_common: reading on would read its neighbour. */
static __always_inline bool is_full_sock(u8 state)
{
    return state != TCP_TIME_WAIT && state != TCP_NEW_SYN_RECV;
}

static __always_inline void fill_sock(struct event *e, u64 sk)
{
    u8 state = READ(sock_common, skc_state, sk);
    bool orphan;

    e->sk = sk;
    e->state = state;
    if (!is_full_sock(state))
        return;
    e->flags |= FULL_SOCK;
    if (sock_flag(sk, ENUM(sock_flags, SOCK_KEEPOPEN)))
        e->flags |= KEEPALIVE;
    if (READ(tcp_sock, keepalive_time, sk))
        e->flags |= OWN_IDLE;
    orphan = sock_flag(sk, ENUM(sock_flags, SOCK_DEAD));
    if (orphan)
        e->flags |= ORPHAN;
    e->inode = socket_inode(sk);
    e->cgroup = READ(kernfs_node, id, READ(cgroup, kn, READ(sock, sk_cgrp_data__cgroup, sk)));
    e->jiffies = bpf_jiffies64();
    e->silent = silence_at(sk, e->jiffies);
    e->rto = READ(inet_connection_sock, icsk_rto, sk);
    e->rto_max = rto_max(sk);
    e->srtt_us = READ(tcp_sock, srtt_us, sk) >> 3;
    e->unacked = unacked_bytes(sk, state);
    e->unsent = (u32)READ(tcp_sock, write_seq, sk) - (u32)READ(tcp_sock, snd_nxt, sk);
    e->snd_wnd = READ(tcp_sock, snd_wnd, sk);
    e->retrying_ms = retrying_ms(sk);
    e->retries = retries_limit(sk, state, orphan);
    if (state == TCP_SYN_SENT)
        e->syn_linear = READ(net, ipv4__sysctl_tcp_syn_linear_timeouts, sock_net(sk));
    e->keepalive_idle = keepalive_idle(sk);
    e->keepalive_interval = keepalive_interval(sk);
    e->keepalive_probes = keepalive_probes(sk);
    e->user_timeout_ms = READ(inet_connection_sock, icsk_user_timeout, sk);
    e->error = READ(sock, sk_err, sk);
    e->soft_error = READ(sock, sk_err_soft, sk);
    e->attempt = READ(inet_connection_sock, icsk_retransmits, sk);
    e->ca_state = READ(inet_connection_sock, icsk_ca_state, sk);
    e->backoff = READ(inet_connection_sock, icsk_backoff, sk);
    e->pending = READ(inet_connection_sock, icsk_pending, sk);
}

/*
 * The sock of a timer: which member of the socket the timer is moved (the keepalive timer in 6.19 and in stable
 * releases before it, the other one in 6.19), so BTF decides.
 */
static __always_inline u64 sock_of_keepalive_timer(u64 timer)
{
    if (HAS(inet_connection_sock, icsk_keepalive_timer))
        return timer - OFFSET(inet_connection_sock, icsk_keepalive_timer);
    return timer - OFFSET(sock, sk_timer);
}

static __always_inline u64 sock_of_write_timer(u64 timer)
{
    if (HAS(sock, tcp_retransmit_timer))
        return timer - OFFSET(sock, tcp_retransmit_timer);
    return timer - OFFSET(inet_connection_sock, icsk_retransmit_timer);
}

#endif
