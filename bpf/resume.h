/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The first segment from the peer after a silence. */
#ifndef TCPWATCH_RESUME_H
#define TCPWATCH_RESUME_H

#include "submit.h"

/* include/net/tcp.h */
#define TCPHDR_FIN 1
#define TCPHDR_RST 4

/* From the header of a received segment. */
struct segment {
    u32 seq;
    u32 ack;
    u16 window;
    u16 flags; /* the upper four bits are the header length in words */
};

/* tcp_rcv_established() has set skb->data to the TCP header. */
static __always_inline bool read_segment(u64 skb, struct segment *seg)
{
    struct {
        u32 seq;
        u32 ack;
        u16 flags;
        u16 window;
    } header = {};
    u64 data = CORE_READ(sk_buff, data, skb);

    if (bpf_probe_read_kernel(&header, sizeof(header), (void *)(data + 4)) != 0)
        return false;
    seg->seq = __builtin_bswap32(header.seq);
    seg->ack = __builtin_bswap32(header.ack);
    seg->flags = ntohs(header.flags);
    seg->window = ntohs(header.window);
    return true;
}

/* Whether the end of the silence is an event even if the connection had no trouble. */
static __always_inline bool is_long_silence(u32 silent)
{
    struct settings *s = current_settings();

    return s && silent >= s->resume_jiffies;
}

/*
 * What an empty segment is where nothing of ours is in flight.
 *
 * A probe of the peer has a sequence number below the next expected one (tcp_xmit_probe_skb(), net/ipv4/tcp_output.c).
 * It does not show whether the keepalive timer sent it, or a process by TCP_REPAIR_OFF. At this end both leave a mark.
 * tcp_keepalive_timer() (net/ipv4/tcp_timer.c) counts its probes in icsk_probes_out. tcp_send_window_probe()
 * (net/ipv4/tcp_output.c), which only TCP_REPAIR_OFF calls, sets snd_wl1 to one less than rcv_nxt. The answer resets
 * both, after this hook. A single byte of data leaves such a snd_wl1, too, if nothing came after it.
 */
static __always_inline u8 empty_segment_cause(struct sock_copy *s, struct segment *seg)
{
    u32 expected = COPY_READ(tcp_sock, rcv_nxt, s->sock);

    if ((s32)(seg->seq - expected) < 0)
        return RESUME_PROBE;
    if (COPY_READ(inet_connection_sock, icsk_probes_out, s->sock) != 0)
        return RESUME_KEEPALIVE;
    return (u32)COPY_READ(tcp_sock, snd_wl1, s->sock) == expected - 1 ? RESUME_ANSWER : RESUME_ACK;
}

/* What the segment did to a socket after `silent` jiffies without one: enum resume_cause; 0: no event. */
static __always_inline u8 resume_cause(struct sock_copy *s, u64 skb, u32 silent)
{
    struct segment seg;
    bool empty, in_flight, acknowledges;

    /* A refused reset changes nothing, and an accepted one has an event of its own. */
    if (!read_segment(skb, &seg) || (seg.flags & TCPHDR_RST))
        return 0;
    in_flight = !nothing_in_flight(s);
    acknowledges = (s32)(seg.ack - (u32)COPY_READ(tcp_sock, snd_una, s->sock)) > 0;
    if (COPY_READ(inet_connection_sock, icsk_retransmits, s->sock) != 0 ||
        COPY_READ(tcp_sock, tlp_high_seq, s->sock) != 0)
        return acknowledges ? RESUME_DATA : RESUME_NO_PROGRESS;
    if (!in_flight && !nothing_unsent(s))
        return seg.window != 0 ? RESUME_WINDOW : 0;
    /* A FIN is something to read, like data. */
    empty = (u32)CORE_READ(sk_buff, len, skb) <= (u32)(seg.flags >> 12) * 4 && !(seg.flags & TCPHDR_FIN);
    if (empty && !in_flight) {
        /* Below the threshold it is an event only if an earlier probe was not answered. */
        if (!is_long_silence(silent) && COPY_READ(inet_connection_sock, icsk_probes_out, s->sock) < 2)
            return 0;
        return empty_segment_cause(s, &seg);
    }
    return is_long_silence(silent) ? RESUME_DATA : 0;
}

/* Within a tenth of a second: less than any RTO, more than the pauses of a busy connection. */
static __always_inline bool is_recent(u32 now, u32 stamp)
{
    return now - stamp < KERNEL_HZ / 10;
}

static __always_inline int submit_resume(u64 sk, u64 skb, u32 now, bool received_recently)
{
    struct sock_copy *s = get_sock_copy(sk, HOOK_RESUME);
    struct tuple t = {};
    struct event *e;
    u8 cause;

    if (!s)
        return 0;
    cause = resume_cause(s, skb, silence_at(s, now));
    /* One event is enough for a burst of segments that acknowledge nothing. */
    if (received_recently && cause == RESUME_NO_PROGRESS)
        cause = 0;
    if (cause != 0 && tuple_of_sock(sk, &t, false)) {
        e = reserve_event(EVENT_RESUME, HOOK_RESUME, &t);
        if (e) {
            fill_event_from(e, sk, s);
            e->cause = cause;
            submit(e);
        }
    }
    put_sock_copy(s);
    return 0;
}

/*
 * Runs for every segment that tcp_rcv_established() receives, before the socket is updated (trace_tcp_probe(),
 * net/ipv4/tcp_input.c). A busy connection returns after a few reads. One that has retransmitted or sent a tail loss
 * probe does not, because any segment may be the one that ends its trouble.
 */
int on_tcp_probe(struct bpf_raw_tracepoint_args *ctx)
{
    u64 sk = ctx->args[0];
    u32 now = bpf_jiffies64();
    bool received_recently = is_recent(now, CORE_READ(tcp_sock, rcv_tstamp, sk)) ||
                             is_recent(now, CORE_READ(inet_connection_sock, icsk_ack__lrcvtime, sk));

    if (received_recently && CORE_READ(inet_connection_sock, icsk_retransmits, sk) == 0 &&
        CORE_READ(inet_connection_sock, icsk_backoff, sk) == 0 && CORE_READ(tcp_sock, tlp_high_seq, sk) == 0)
        return 0;
    return submit_resume(sk, ctx->args[1], now, received_recently);
}

/* As on_tcp_probe(), with direct reads in place of helper calls. */
int typed_tcp_probe(struct bpf_raw_tracepoint_args *ctx)
{
    u64 sk = ctx->args[0];
    const u8 *tp = cast_tcp_sock(sk);
    u32 now = bpf_jiffies64();
    bool received_recently;

    if (!tp)
        return 0;
    received_recently = is_recent(now, TYPED_READ(tcp_sock, rcv_tstamp, tp)) ||
                        is_recent(now, TYPED_READ(inet_connection_sock, icsk_ack__lrcvtime, tp));
    if (received_recently && TYPED_READ(inet_connection_sock, icsk_retransmits, tp) == 0 &&
        TYPED_READ(inet_connection_sock, icsk_backoff, tp) == 0 && TYPED_READ(tcp_sock, tlp_high_seq, tp) == 0)
        return 0;
    return submit_resume(sk, ctx->args[1], now, received_recently);
}

#endif
