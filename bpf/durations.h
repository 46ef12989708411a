/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Durations: silence, retransmission, stuck data, probing. */
#ifndef TCPWATCH_DURATIONS_H
#define TCPWATCH_DURATIONS_H

#include "event.h"
#include "kernel.h"
#include "sock_copy.h"

/*
 * Jiffies since anything was received from the peer, as keepalive_time_elapsed() (include/net/tcp.h): since the later
 * of the last ACK and the last data. Both stamps are 32 bits of jiffies, and 0 before the first segment. lsndtime is of
 * no use here, because retransmissions set it.
 */
static __always_inline u32 silence_from_stamps(u32 ack, u32 data, u32 now)
{
    u32 since_ack = now - ack, since_data = now - data;

    if (ack == 0 && data == 0)
        return DURATION_UNKNOWN;
    if (ack == 0)
        return since_data;
    if (data == 0)
        return since_ack;
    return since_ack < since_data ? since_ack : since_data;
}

static __always_inline u32 silence_at(struct sock_copy *s, u32 now)
{
    return silence_from_stamps(COPY_READ(tcp_sock, rcv_tstamp, s->sock),
                               COPY_READ(inet_connection_sock, icsk_ack__lrcvtime, s->sock), now);
}

static __always_inline u32 silence(struct sock_copy *s)
{
    return silence_at(s, bpf_jiffies64());
}

static __always_inline u32 jiffies_since(u32 now, u32 stamp)
{
    return stamp ? now - stamp : DURATION_UNKNOWN;
}

/* CLOCK_MONOTONIC, as TCP takes its stamps. */
static __always_inline u64 now_us(void)
{
    return bpf_ktime_get_ns() / 1000;
}

/* stamp: in the unit of retrans_stamp: milliseconds, or microseconds on a route with that feature (tcp_usec_ts, 6.7).
 */
static __always_inline u32 ms_since_stamp(struct sock_copy *s, u32 stamp)
{
    u64 now = now_us();

    return COPY_READ(tcp_sock, tcp_usec_ts, s->sock) ? ((u32)now - stamp) / 1000 : (u32)(now / 1000) - stamp;
}

/*
 * Milliseconds since the first RTO retransmission of the outstanding data: the time that retransmits_timed_out()
 * (net/ipv4/tcp_timer.c) compares with the limit. retrans_stamp is set just after the first retransmission is traced,
 * or with the SYN.
 */
static __always_inline u32 retrying_ms(struct sock_copy *s)
{
    u32 stamp = COPY_READ(tcp_sock, retrans_stamp, s->sock);

    if (COPY_READ(inet_connection_sock, icsk_retransmits, s->sock) == 0)
        return DURATION_UNKNOWN;
    return stamp ? ms_since_stamp(s, stamp) : 0;
}

/* enum tcp_chrono, include/net/tcp.h: the receive window limits sending. */
#define TCP_CHRONO_RWND_LIMITED 2

/*
 * Milliseconds since the oldest unacknowledged data was first sent, or since a closed window has blocked unsent data;
 * DURATION_UNKNOWN if neither is the case.
 *
 * retrans_stamp is set with the SYN (tcp_connect(), net/ipv4/tcp_output.c).
 *
 * first_tx_mstamp is the send time of a segment that left while nothing was in flight (tcp_rate_skb_sent(),
 * net/ipv4/tcp_rate.c or tcp_output.c), and later that of the last acknowledged segment (tcp_rate_skb_delivered()).
 * With several segments in flight it may be early by a round trip. Retransmissions do not change it. Pacing may set it
 * to a time in the future.
 *
 * chrono_start is the jiffy in which tcp_write_xmit() first found the window closed. Window probes do not pass through
 * that function, and their answers leave the window closed.
 */
static __always_inline u32 stuck_ms(struct sock_copy *s, u8 state, u32 jiffies)
{
    u64 stamp;
    s64 stuck_us;

    if (state == TCP_SYN_SENT || state == TCP_SYN_RECV) {
        stamp = COPY_READ(tcp_sock, retrans_stamp, s->sock);
        return stamp ? ms_since_stamp(s, stamp) : DURATION_UNKNOWN;
    }
    if ((u32)COPY_READ(tcp_sock, snd_nxt, s->sock) != (u32)COPY_READ(tcp_sock, snd_una, s->sock)) {
        stamp = COPY_READ(tcp_sock, first_tx_mstamp, s->sock);
        stuck_us = now_us() - stamp;
        return stamp == 0 ? DURATION_UNKNOWN : stuck_us < 0 ? 0 : (u64)stuck_us / 1000;
    }
    if ((u32)COPY_READ(tcp_sock, write_seq, s->sock) != (u32)COPY_READ(tcp_sock, snd_nxt, s->sock) &&
        COPY_READ(tcp_sock, chrono_type, s->sock) == TCP_CHRONO_RWND_LIMITED)
        return (u64)(jiffies - (u32)COPY_READ(tcp_sock, chrono_start, s->sock)) * 1000 / KERNEL_HZ;
    return DURATION_UNKNOWN;
}

/*
 * Milliseconds since the PROBE0 timer first expired for the unsent data: the time that tcp_probe_timer()
 * (net/ipv4/tcp_timer.c) compares with TCP_USER_TIMEOUT (icsk_probes_tstamp, 5.11).
 */
static __always_inline u32 probe0_ms(struct sock_copy *s, u32 jiffies)
{
    u32 stamp = COPY_READ(inet_connection_sock, icsk_probes_tstamp, s->sock);

    return stamp ? (u64)(jiffies - stamp) * 1000 / KERNEL_HZ : DURATION_UNKNOWN;
}

#endif
