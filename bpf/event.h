/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The one event struct, shared with Python: tracer/kernel/wire.py mirrors it field by field, and
 * tests/kernel/test_layout.py compares the two. Widest members first, so that there is no padding to leak.
 *
 * A value of 0 means unknown where a real 0 cannot be (ports, inode, netns, rto, ...).
 */
#ifndef TCPWATCH_EVENT_H
#define TCPWATCH_EVENT_H

#include <linux/types.h>

enum event_type {
    EVENT_RETRANSMIT = 1,
    EVENT_KEEPALIVE = 2,
    EVENT_STATE = 3,
    EVENT_RESET = 4,
    EVENT_ERROR = 5,
    EVENT_RESUME = 6,
    EVENT_WINDOW_PROBE = 7,
    EVENT_SOCKET = 8,   /* a socket as it is, of a walk over all of them */
    EVENT_FOUND = 9,    /* a socket that a walk found in trouble */
    EVENT_WAITING = 10, /* a socket that a walk found waiting for an answer */
    EVENT_UNSENT = 11,  /* data that this host has not let out so far is tried again */
};

enum reset_direction {
    RESET_RECEIVED = 1,
    RESET_SENT = 2,
    RESET_REFUSED = 3,
};

/* What a received segment was that ended a silence. */
enum resume_cause {
    RESUME_DATA = 1,        /* it brought data, or acknowledged ours */
    RESUME_KEEPALIVE = 2,   /* neither: an answer to our probe, or a probe of the peer's */
    RESUME_WINDOW = 3,      /* it opened the window that was closed */
    RESUME_NO_PROGRESS = 4, /* data is waiting to be acknowledged, and it did not acknowledge any */
};

/* The value of a duration that is not known, or of which there is none: the peer was never heard, nothing is stuck. */
#define UNKNOWN 0xffffffffu

struct event {
    u64 ktime_ns; /* CLOCK_BOOTTIME */
    /* Whose event it is. Python decodes this, and how the socket is below, once for all events that share them. */
    u64 sk;       /* the socket's address; Python hashes it before anybody sees it */
    u64 born;     /* CLOCK_BOOTTIME of connect or accept; 0 where that was before us */
    u8 laddr[16]; /* IPv6, or IPv4 as ::ffff:a.b.c.d */
    u8 raddr[16]; /* the same */
    u32 netns;    /* inode of the network namespace */
    u16 lport;    /* host byte order; 0 while connect() has not hashed the socket yet */
    u16 rport;
    u8 family; /* 4 or 6; v4-mapped is 4 */
    u8 type;   /* enum event_type */
    /* How the socket is: its states and settings. */
    u16 flags; /* enum event_flags */
    u8 state;  /* TCP_ESTABLISHED = 1, ... */
    u8 old_state;
    u8 new_state;
    u8 ca_state;   /* TCP_CA_Open = 0, ..., TCP_CA_Loss = 4 */
    u8 backoff;    /* icsk_backoff */
    u8 orphan;     /* 1: no process holds it any more (SOCK_DEAD) */
    u8 retries;    /* the limit in force: tcp_retries2, tcp_orphan_retries or the SYN's, its own or its namespace's */
    u8 syn_linear; /* tcp_syn_linear_timeouts of the namespace */
    u32 keepalive_idle;     /* jiffies, the socket's own or else its namespace's */
    u32 keepalive_interval; /* jiffies */
    u32 keepalive_probes;   /* count */
    u32 user_timeout_ms;    /* 0 = not set */
    /* What it is like now, in numbers, and whose it is. */
    u32 silent;     /* jiffies since the peer was last heard, or UNKNOWN */
    u64 inode;      /* of the socket in sockfs; 0 once no process holds it */
    u64 cgroup;     /* the cgroup's id; 0 where the kernel has none */
    u32 rto;        /* jiffies */
    u32 srtt_us;    /* microseconds; 0 before the first sample */
    u32 unacked;    /* bytes sent and not acknowledged, SYN and FIN not counted */
    u32 snd_wnd;    /* bytes */
    u32 unsent;     /* bytes written and not sent yet */
    u32 soft_error; /* errno of an ICMP error that did not end the connection: sk_err_soft */
    u32 pid;        /* who connected or closed, where that was seen; else 0 */
    u8 comm[16];    /* of pid */
    /* What a change of state does not say: Python looks at it for other events only. */
    u32 reason;      /* enum sk_rst_reason, meaningful with HAS_REASON */
    s32 error;       /* errno: sk_err, or what a failed retransmission returned */
    u32 jiffies;     /* low half of the kernel's own clock */
    u32 retrying_ms; /* since the first RTO retransmission (retrans_stamp) or PROBE0 timer, or UNKNOWN */
    u32 rto_max;     /* jiffies */
    u32 stuck_ms;    /* since the oldest unacknowledged data was first sent or the window closed, or UNKNOWN */
    u32 since_sent;  /* jiffies since data was last sent, retransmissions included, or UNKNOWN */
    u32 timer_in;    /* jiffies until `timer` expires, or UNKNOWN */
    u16 found_like;  /* found: enum event_type of the event that shows the same trouble; EVENT_SOCKET: merely silent */
    u16 probes_out;  /* icsk_probes_out: probes since anything was received; unsent: attempts that failed */
    u16 attempt;     /* retransmit: icsk_retransmits; keepalive, unsent: icsk_probes_out + 1 */
    u16 segments;    /* retransmit: how many segments it is, as TcpRetransSegs counts them */
    u8 pending;      /* icsk_pending: 0 at an RTO, 5 at a tail loss probe */
    u8 direction;    /* enum reset_direction */
    u8 cause;        /* enum resume_cause */
    /* What is known of a socket, and of no event. */
    u8 timer;       /* enum socket_timer */
    u32 unread;     /* bytes received and not read by the application */
    u32 since_data; /* jiffies since data was last received, or UNKNOWN */
};

enum event_flags {
    FULL_SOCK = 1,  /* the members below sock_common were there to read */
    KEEPALIVE = 2,  /* SO_KEEPALIVE is on */
    SYNACK = 4,     /* the retransmission of a SYN/ACK, for a socket still to be */
    HAS_REASON = 8, /* reset: this kernel says why */
    OWN_IDLE = 16,  /* keepalive_idle is the socket's own (TCP_KEEPIDLE), not its namespace's */
    /* Of a socket, a keepalive probe and what a walk found. */
    ACCEPTED = 32, /* it came from a listener */
    AWAITS = 64,   /* what it sent last was acknowledged, and no data has come since */
    /* Of any socket. */
    MPTCP = 128, /* a subflow: the socket of the connection is another one */
    THIN = 256,  /* retransmit: the first RTOs are not doubled, or may not be */
};

/* The timer that is armed, as `ss -o` names them; icsk_pending of include/net/inet_connection_sock.h. */
enum socket_timer {
    TIMER_NONE = 0,
    TIMER_RETRANSMIT = 1,
    TIMER_PROBE0 = 3,
    TIMER_LOSS_PROBE = 5,
    TIMER_REORDERING = 6,
    TIMER_KEEPALIVE = 100,
};

/* Index into the map of lost events; tracer/kernel/probes.py has the names, tracer/kernel/program/program.py reads it. */
enum hook {
    HOOK_RETRANSMIT = 0,
    HOOK_SYNACK = 1,
    HOOK_STATE = 2,
    HOOK_KEEPALIVE = 3,
    HOOK_RESET_RECEIVED = 4,
    HOOK_RESET_SENT = 5,
    HOOK_RESET_REFUSED = 6,
    HOOK_ERROR = 7,
    HOOK_RESUME = 8,
    HOOK_WINDOW_PROBE = 9,
    HOOKS = 10,
    SEEN_BY_SECOND = HOOKS, /* no loss: changes of state that the kernel counts as missed by the first program */
    LOST_COUNTERS,
};

#endif
