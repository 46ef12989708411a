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
 * A socket as a whole, and the settings of its namespace. An event needs some fifty members, and each read from the
 * kernel is a call of a helper: two calls bring them all.
 */
struct sock_copy {
    u64 busy;
    COPY_OF(tcp_sock, sock);
    COPY_OF(netns_ipv4, netns);
};

/*
 * Too large for the stack. A program may be interrupted by another on the same CPU, so each has a copy of its own, by
 * the first of its hooks. COPY_OF_INTERRUPT is for a program that an interrupt finds at work and that it runs itself:
 * since Linux 6.1 the kernel skips that (__bpf_trace_run(), kernel/trace/bpf_trace.c).
 */
#define COPY_OF_WALK HOOKS
#define COPY_OF_INTERRUPT (HOOKS + 1)
BPF_PERCPU_ARRAY(sock_copies, struct sock_copy, HOOKS + 2);

/* Of a full TCP socket, or NULL. It has to be given back. */
static __always_inline struct sock_copy *copy_sock(u64 sk, int hook)
{
    struct sock_copy *s = sock_copies.lookup(&hook);

    if (s && s->busy) {
        hook = COPY_OF_INTERRUPT;
        s = sock_copies.lookup(&hook);
    }
    if (!s)
        return NULL;
    s->busy = 1;
    COPY(tcp_sock, s->sock, sk);
    COPY(netns_ipv4, s->netns, COPIED(sock_common, skc_net__net, s->sock) + OFFSET(net, ipv4));
    return s;
}

static __always_inline void give_back(struct sock_copy *s)
{
    /* Not before everything has been taken out of it. */
    asm volatile("" ::: "memory");
    s->busy = 0;
}

/*
 * Fills the tuple from any socket that begins with a sock_common: a full socket, a request or a time-wait socket.
 * False as soon as a filter says no.
 */
static __always_inline bool tuple_of_sock(u64 sk, struct tuple *t, bool unbound)
{
    u32 flags = active_filters();
    COPY_OF(sock_common, common);
    u16 family;

    COPY(sock_common, common, sk);
    t->lport = COPIED(sock_common, skc_num, common);
    /* A socket that is being closed has given its number back (inet_put_port()), but still knows its source port. */
    if (t->lport == 0 && !unbound)
        t->lport = swap16(READ(inet_sock, inet_sport, sk));
    t->rport = swap16(COPIED(sock_common, skc_dport, common));
    if (!ports_wanted(flags, t->lport, t->rport, unbound))
        return false;
    family = COPIED(sock_common, skc_family, common);
    if (family == AF_INET) {
        copy_ipv4(t->laddr, COPIED(sock_common, skc_rcv_saddr, common));
        copy_ipv4(t->raddr, COPIED(sock_common, skc_daddr, common));
        t->family = 4;
    } else if (family == AF_INET6 && HAS(sock_common, skc_v6_daddr)) {
        __builtin_memcpy(t->laddr, (u8 *)common + OFFSET(sock_common, skc_v6_rcv_saddr), 16);
        __builtin_memcpy(t->raddr, (u8 *)common + OFFSET(sock_common, skc_v6_daddr), 16);
        t->family = is_v4_mapped(t->raddr) ? 4 : 6;
    } else {
        return false;
    }
    if (!family_wanted(flags, t->family) || !hosts_wanted(flags, t))
        return false;
    t->state = COPIED(sock_common, skc_state, common);
    t->netns = netns_inode(COPIED(sock_common, skc_net__net, common));
    return netns_wanted(flags, t->netns);
}

/*
 * The same from a received packet: its destination is our end. Used for a reset that no socket sends. net: where it was
 * received, 0 where its device still says that.
 */
static __always_inline bool tuple_of_packet(u64 skb, u64 net, struct tuple *t)
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
    t->netns = netns_inode(net ? net : READ(net_device, nd_net__net, READ(sk_buff, dev, skb)));
    return netns_wanted(flags, t->netns);
}

/*
 * Jiffies since the peer was last heard: the kernel's own keepalive_time_elapsed() (include/net/tcp.h), which takes
 * the later of the last data and the last ACK received. lsndtime would not do: the retransmission overwrites it.
 * Both stamps are 32 bits of jiffies and 0 until the first segment comes.
 */
static __always_inline u32 silence_of(u32 ack, u32 data, u32 now)
{
    u32 since_ack = now - ack, since_data = now - data;

    if (ack == 0 && data == 0)
        return UNKNOWN;
    if (ack == 0)
        return since_data;
    if (data == 0)
        return since_ack;
    return since_ack < since_data ? since_ack : since_data;
}

static __always_inline u32 silence_at(struct sock_copy *s, u32 now)
{
    return silence_of(COPIED(tcp_sock, rcv_tstamp, s->sock), COPIED(inet_connection_sock, icsk_ack__lrcvtime, s->sock),
                      now);
}

static __always_inline u32 silence(struct sock_copy *s)
{
    return silence_at(s, bpf_jiffies64());
}

static __always_inline u32 jiffies_since(u32 now, u32 stamp)
{
    return stamp ? now - stamp : UNKNOWN;
}

static __always_inline u64 socket_inode(u64 socket)
{
    if (socket == 0)
        return 0;
    return READ(socket_alloc, vfs_inode__i_ino, socket - OFFSET(socket_alloc, socket));
}

static __always_inline bool sock_flag(struct sock_copy *s, u32 bit)
{
    return (COPIED(sock_common, skc_flags, s->sock) >> bit) & 1;
}

/* The three times in force, in jiffies and a count: include/net/tcp.h, keepalive_time_when() and its siblings. */
static __always_inline u32 keepalive_idle(struct sock_copy *s)
{
    u32 own = COPIED(tcp_sock, keepalive_time, s->sock);

    return own ? own : COPIED(netns_ipv4, sysctl_tcp_keepalive_time, s->netns);
}

static __always_inline u32 keepalive_interval(struct sock_copy *s)
{
    u32 own = COPIED(tcp_sock, keepalive_intvl, s->sock);

    return own ? own : COPIED(netns_ipv4, sysctl_tcp_keepalive_intvl, s->netns);
}

static __always_inline u32 keepalive_probes(struct sock_copy *s)
{
    u32 own = COPIED(tcp_sock, keepalive_probes, s->sock);

    return own ? own : COPIED(netns_ipv4, sysctl_tcp_keepalive_probes, s->netns);
}

/* The largest RTO: the socket's own since 6.15 (icsk_rto_max), TCP_RTO_MAX before. */
static __always_inline u32 rto_max(struct sock_copy *s)
{
    u32 own = COPIED(inet_connection_sock, icsk_rto_max, s->sock);

    return own ? own : 120 * KERNEL_HZ;
}

/* CLOCK_MONOTONIC now, in the unit of TCP's own stamps. */
static __always_inline u64 now_us(void)
{
    return bpf_ktime_get_ns() / 1000;
}

/* Milliseconds since a stamp in TCP's unit for retrans_stamp: milliseconds, or microseconds on a socket whose route
 * says so (tcp_usec_ts, 6.7). */
static __always_inline u32 ms_since_stamp(struct sock_copy *s, u32 stamp)
{
    u64 now = now_us();

    return COPIED(tcp_sock, tcp_usec_ts, s->sock) ? ((u32)now - stamp) / 1000 : (u32)(now / 1000) - stamp;
}

/*
 * Milliseconds since the first RTO retransmission of what is outstanding: what the kernel holds against its limit in
 * retransmits_timed_out() (net/ipv4/tcp_timer.c). retrans_stamp is set right after the first retransmission is traced,
 * or with the SYN.
 */
static __always_inline u32 retrying_ms(struct sock_copy *s)
{
    u32 stamp = COPIED(tcp_sock, retrans_stamp, s->sock);

    if (COPIED(inet_connection_sock, icsk_retransmits, s->sock) == 0)
        return UNKNOWN;
    return stamp ? ms_since_stamp(s, stamp) : 0;
}

/* enum tcp_chrono, include/net/tcp.h: why a socket with data to send does not send it. */
#define TCP_CHRONO_RWND_LIMITED 2

/*
 * Milliseconds since the oldest data that is not acknowledged was first sent, or since the peer's window has kept what
 * is unsent from being sent; UNKNOWN where neither is so.
 *
 * retrans_stamp is set with the SYN (tcp_connect(), net/ipv4/tcp_output.c). first_tx_mstamp is the time of the segment
 * that was sent while nothing was in flight (tcp_rate_skb_sent(), net/ipv4/tcp_rate.c or tcp_output.c), and later that
 * of the segment acknowledged last (tcp_rate_skb_delivered()): where more than one is in flight it may be early by a
 * round trip. A retransmission leaves it alone; pacing may put it into the future. chrono_start is the jiffy in which
 * tcp_write_xmit() first met the window: the probes do not come by there, and their answers find it closed again.
 */
static __always_inline u32 stuck_ms(struct sock_copy *s, u8 state, u32 jiffies)
{
    u64 stamp;
    s64 stuck_us;

    if (state == TCP_SYN_SENT || state == TCP_SYN_RECV) {
        stamp = COPIED(tcp_sock, retrans_stamp, s->sock);
        return stamp ? ms_since_stamp(s, stamp) : UNKNOWN;
    }
    if ((u32)COPIED(tcp_sock, snd_nxt, s->sock) != (u32)COPIED(tcp_sock, snd_una, s->sock)) {
        stamp = COPIED(tcp_sock, first_tx_mstamp, s->sock);
        stuck_us = now_us() - stamp;
        return stamp == 0 ? UNKNOWN : stuck_us < 0 ? 0 : (u64)stuck_us / 1000;
    }
    if ((u32)COPIED(tcp_sock, write_seq, s->sock) != (u32)COPIED(tcp_sock, snd_nxt, s->sock) &&
        COPIED(tcp_sock, chrono_type, s->sock) == TCP_CHRONO_RWND_LIMITED)
        return (u64)(jiffies - (u32)COPIED(tcp_sock, chrono_start, s->sock)) * 1000 / KERNEL_HZ;
    return UNKNOWN;
}

/*
 * Milliseconds since the PROBE0 timer first expired with the data that it was armed for: what the kernel holds against
 * TCP_USER_TIMEOUT in tcp_probe_timer() (net/ipv4/tcp_timer.c; icsk_probes_tstamp, 5.11).
 */
static __always_inline u32 probing_ms(struct sock_copy *s, u32 jiffies)
{
    u32 stamp = COPIED(inet_connection_sock, icsk_probes_tstamp, s->sock);

    return stamp ? (u64)(jiffies - stamp) * 1000 / KERNEL_HZ : UNKNOWN;
}

/* tcp_orphan_retries(), net/ipv4/tcp_timer.c */
static __always_inline u8 orphan_retries(struct sock_copy *s, bool alive)
{
    u8 retries = COPIED(netns_ipv4, sysctl_tcp_orphan_retries, s->netns);

    if (!alive && COPIED(sock, sk_err_soft, s->sock))
        retries = 0;
    return retries == 0 && alive ? 8 : retries;
}

/* How many retransmissions are meant to be enough: tcp_write_timeout(). */
static __always_inline u8 retries_limit(struct sock_copy *s, u8 state, bool orphan)
{
    u8 own;

    if (state == TCP_SYN_SENT || state == TCP_SYN_RECV) {
        own = COPIED(inet_connection_sock, icsk_syn_retries, s->sock);
        return own ? own : COPIED(netns_ipv4, sysctl_tcp_syn_retries, s->netns);
    }
    if (!orphan)
        return COPIED(netns_ipv4, sysctl_tcp_retries2, s->netns);
    return orphan_retries(s, (u32)COPIED(inet_connection_sock, icsk_rto, s->sock) < rto_max(s));
}

/* Whether the RTO, doubled as often as the PROBE0 timer has been, is below its maximum: inet_csk_rto_backoff(). */
static __always_inline bool is_alive(struct sock_copy *s)
{
    u64 rto = COPIED(inet_connection_sock, icsk_rto, s->sock);

    return rto << (COPIED(inet_connection_sock, icsk_backoff, s->sock) & 31) < rto_max(s);
}

/* How many expiries of the PROBE0 timer without an answer are enough: tcp_probe_timer(). */
static __always_inline u8 probes_limit(struct sock_copy *s, bool orphan)
{
    return orphan ? orphan_retries(s, is_alive(s)) : COPIED(netns_ipv4, sysctl_tcp_retries2, s->netns);
}

/*
 * Whether the RTO is not doubled at first: tcp_retransmit_timer() asks for an ESTABLISHED connection with fewer than
 * four segments in flight that has left its first slow start (tcp_stream_is_thin(), include/net/tcp.h). It leaves it
 * with the first RTO, unless its congestion control does not; before that RTO it is not known whether it will.
 */
#define TCP_INFINITE_SSTHRESH 0x7fffffff
#define TCP_CA_LOSS 4

static __always_inline bool is_thin(struct sock_copy *s, u8 state)
{
    if (!COPIED(tcp_sock, thin_lto, s->sock) && !COPIED(netns_ipv4, sysctl_tcp_thin_linear_timeouts, s->netns))
        return false;
    if (state != TCP_ESTABLISHED || COPIED(tcp_sock, packets_out, s->sock) >= 4)
        return false;
    return COPIED(inet_connection_sock, icsk_ca_state, s->sock) != TCP_CA_LOSS ||
           (u32)COPIED(tcp_sock, snd_ssthresh, s->sock) < TCP_INFINITE_SSTHRESH;
}

/* The socket that the application has: of a subflow that of its MPTCP connection (net/mptcp/protocol.h). */
static __always_inline u64 application_socket(struct sock_copy *s)
{
    u64 subflow;

    if (!COPIED(tcp_sock, is_mptcp, s->sock))
        return COPIED(sock, sk_socket, s->sock);
    subflow = COPIED(inet_connection_sock, icsk_ulp_data, s->sock);
    return READ(sock, sk_socket, READ(mptcp_subflow_context, conn, subflow));
}

/* Sent and not acknowledged, in bytes. SYN and FIN each take a sequence number, and are nobody's data. */
static __always_inline u32 unacked_bytes(struct sock_copy *s, u8 state)
{
    u32 nxt = COPIED(tcp_sock, snd_nxt, s->sock);
    u32 in_flight = nxt - (u32)COPIED(tcp_sock, snd_una, s->sock);

    if (in_flight == 0)
        return 0;
    if (state == TCP_SYN_SENT || state == TCP_SYN_RECV)
        return in_flight - 1;
    if (state == TCP_FIN_WAIT1 || state == TCP_CLOSING || state == TCP_LAST_ACK)
        /* The FIN stands at the end of the write queue; it is in flight once snd_nxt has passed write_seq's last. */
        return nxt == (u32)COPIED(tcp_sock, write_seq, s->sock) ? in_flight - 1 : in_flight;
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
    e->state = t->state;
}

/* A time-wait or request socket ends after its sock_common: reading on would read its neighbour. */
static __always_inline bool is_full_sock(u8 state)
{
    return state != TCP_TIME_WAIT && state != TCP_NEW_SYN_RECV;
}

static __always_inline void fill_sock(struct event *e, struct sock_copy *s)
{
    u8 state = e->state;
    bool orphan = sock_flag(s, ENUM(sock_flags, SOCK_DEAD));

    e->flags |= FULL_SOCK;
    if (sock_flag(s, ENUM(sock_flags, SOCK_KEEPOPEN)))
        e->flags |= KEEPALIVE;
    if (COPIED(tcp_sock, keepalive_time, s->sock))
        e->flags |= OWN_IDLE;
    if (COPIED(tcp_sock, is_mptcp, s->sock))
        e->flags |= MPTCP;
    if (is_thin(s, state))
        e->flags |= THIN;
    e->orphan = orphan;
    e->inode = socket_inode(application_socket(s));
    e->cgroup = READ(kernfs_node, id, READ(cgroup, kn, COPIED(sock, sk_cgrp_data__cgroup, s->sock)));
    e->jiffies = bpf_jiffies64();
    e->silent = silence_at(s, e->jiffies);
    e->rto = COPIED(inet_connection_sock, icsk_rto, s->sock);
    e->rto_max = rto_max(s);
    e->srtt_us = COPIED(tcp_sock, srtt_us, s->sock) >> 3;
    e->unacked = unacked_bytes(s, state);
    e->unsent = (u32)COPIED(tcp_sock, write_seq, s->sock) - (u32)COPIED(tcp_sock, snd_nxt, s->sock);
    e->snd_wnd = COPIED(tcp_sock, snd_wnd, s->sock);
    e->retrying_ms = retrying_ms(s);
    e->stuck_ms = stuck_ms(s, state, e->jiffies);
    e->retries = retries_limit(s, state, orphan);
    if (state == TCP_SYN_SENT)
        e->syn_linear = COPIED(netns_ipv4, sysctl_tcp_syn_linear_timeouts, s->netns);
    e->keepalive_idle = keepalive_idle(s);
    e->keepalive_interval = keepalive_interval(s);
    e->keepalive_probes = keepalive_probes(s);
    e->user_timeout_ms = COPIED(inet_connection_sock, icsk_user_timeout, s->sock);
    e->error = COPIED(sock, sk_err, s->sock);
    e->soft_error = COPIED(sock, sk_err_soft, s->sock);
    e->attempt = COPIED(inet_connection_sock, icsk_retransmits, s->sock);
    e->probes_out = COPIED(inet_connection_sock, icsk_probes_out, s->sock);
    e->ca_state = COPIED(inet_connection_sock, icsk_ca_state, s->sock);
    e->backoff = COPIED(inet_connection_sock, icsk_backoff, s->sock);
    e->pending = COPIED(inet_connection_sock, icsk_pending, s->sock);
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

static __always_inline bool is_tcp(struct sock_copy *s)
{
    return COPIED(sock, sk_protocol, s->sock) == IPPROTO_TCP;
}

static __always_inline bool nothing_in_flight(struct sock_copy *s)
{
    return COPIED(tcp_sock, packets_out, s->sock) == 0;
}

static __always_inline bool nothing_unsent(struct sock_copy *s)
{
    return (u32)COPIED(tcp_sock, write_seq, s->sock) == (u32)COPIED(tcp_sock, snd_nxt, s->sock);
}

#endif
