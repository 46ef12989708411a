/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A peer that is heard again. */
#ifndef TCPWATCH_RESUME_H
#define TCPWATCH_RESUME_H

#include "submit.h"

/* What a received segment says, from its header: tcp_rcv_established() has pulled skb->data to it. */
#define SEGMENT_FIN 1
#define SEGMENT_RST 4

struct segment {
    u32 ack;
    u16 window;
    u16 flags; /* header length in the upper four bits; SEGMENT_FIN, SEGMENT_RST */
};

static __always_inline bool read_segment(u64 skb, struct segment *seg)
{
    struct {
        u32 ack;
        u16 flags;
        u16 window;
    } header = {};
    u64 data = READ(sk_buff, data, skb);

    if (bpf_probe_read_kernel(&header, sizeof(header), (void *)(data + 8)) != 0)
        return false;
    seg->ack = __builtin_bswap32(header.ack);
    seg->flags = swap16(header.flags);
    seg->window = swap16(header.window);
    return true;
}

/* Whether a silence is worth telling whatever the connection did before. */
static __always_inline bool is_long(u32 silent)
{
    struct settings *s = current_settings();

    return s && silent >= s->resume_jiffies;
}

/* What the segment means to a socket that was silent for so long; 0: nothing worth telling. */
static __always_inline u8 resume_cause(struct sock_copy *s, u64 skb, u32 silent)
{
    struct segment seg;
    bool empty, in_flight, acknowledges;

    /* A reset is no sign of life of the connection. Refused, it changes nothing; accepted, it has an event of its own.
     */
    if (!read_segment(skb, &seg) || (seg.flags & SEGMENT_RST))
        return 0;
    in_flight = !nothing_in_flight(s);
    acknowledges = (s32)(seg.ack - (u32)COPIED(tcp_sock, snd_una, s->sock)) > 0;
    if (COPIED(inet_connection_sock, icsk_retransmits, s->sock) != 0 || COPIED(tcp_sock, tlp_high_seq, s->sock) != 0)
        return acknowledges ? RESUME_DATA : RESUME_NO_PROGRESS;
    if (!in_flight && !nothing_unsent(s))
        return seg.window != 0 ? RESUME_WINDOW : 0;
    /* The end of what the peer sends is something to read, too. */
    empty = (u32)READ(sk_buff, len, skb) <= (u32)(seg.flags >> 12) * 4 && !(seg.flags & SEGMENT_FIN);
    if (empty && !in_flight) {
        /* Short of the threshold, only an answer that was already missed once is news. */
        if (!is_long(silent) && COPIED(inet_connection_sock, icsk_probes_out, s->sock) < 2)
            return 0;
        return RESUME_KEEPALIVE;
    }
    return is_long(silent) ? RESUME_DATA : 0;
}

/* A tenth of a second is less than any RTO, and longer than a pause of a connection that is busy. */
static __always_inline bool is_just_now(u32 now, u32 stamp)
{
    return now - stamp < KERNEL_HZ / 10;
}

static __always_inline int heard(u64 sk, u64 skb, u32 now, bool heard_just_now)
{
    struct sock_copy *s = copy_sock(sk, HOOK_RESUME);
    struct tuple t = {};
    struct event *e;
    u8 cause;

    if (!s)
        return 0;
    cause = resume_cause(s, skb, silence_at(s, now));
    /* Said once is enough of a burst that acknowledges nothing. */
    if (heard_just_now && cause == RESUME_NO_PROGRESS)
        cause = 0;
    if (cause != 0 && tuple_of_sock(sk, &t, false)) {
        e = new_event(EVENT_RESUME, HOOK_RESUME, &t);
        if (e) {
            describe_copy(e, sk, s);
            e->cause = cause;
            submit(e);
        }
    }
    give_back(s);
    return 0;
}

/*
 * The peer is heard: every segment that tcp_rcv_established() takes passes here, before the socket knows of it
 * (trace_tcp_probe(), net/ipv4/tcp_input.c). A connection in use leaves after a few reads, unless the kernel has begun
 * to repeat itself, be it by a tail loss probe: then even a segment that comes right after another can be the one that
 * gets it going again.
 */
int on_tcp_probe(struct bpf_raw_tracepoint_args *ctx)
{
    u64 sk = ctx->args[0];
    u32 now = bpf_jiffies64();
    bool heard_just_now = is_just_now(now, READ(tcp_sock, rcv_tstamp, sk)) ||
                          is_just_now(now, READ(inet_connection_sock, icsk_ack__lrcvtime, sk));

    if (heard_just_now && READ(inet_connection_sock, icsk_retransmits, sk) == 0 &&
        READ(inet_connection_sock, icsk_backoff, sk) == 0 && READ(tcp_sock, tlp_high_seq, sk) == 0)
        return 0;
    return heard(sk, ctx->args[1], now, heard_just_now);
}

/* The same without a helper for each read. */
int typed_tcp_probe(struct bpf_raw_tracepoint_args *ctx)
{
    u64 sk = ctx->args[0];
    const u8 *tp = typed_tcp_sock(sk);
    u32 now = bpf_jiffies64();
    bool heard_just_now;

    if (!tp)
        return 0;
    heard_just_now = is_just_now(now, LOAD(tcp_sock, rcv_tstamp, tp)) ||
                     is_just_now(now, LOAD(inet_connection_sock, icsk_ack__lrcvtime, tp));
    if (heard_just_now && LOAD(inet_connection_sock, icsk_retransmits, tp) == 0 &&
        LOAD(inet_connection_sock, icsk_backoff, tp) == 0 && LOAD(tcp_sock, tlp_high_seq, tp) == 0)
        return 0;
    return heard(sk, ctx->args[1], now, heard_just_now);
}

#endif
