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
};

enum reset_direction {
    RESET_RECEIVED = 1,
    RESET_SENT = 2,
    RESET_REFUSED = 3,
};

/* What `silent` holds when the peer was never heard. */
#define SILENT_UNKNOWN 0xffffffffu

struct event {
    u64 ktime_ns;           /* CLOCK_BOOTTIME */
    u64 sk;                 /* the socket's address; Python hashes it before anybody sees it */
    u64 born;               /* CLOCK_BOOTTIME of connect or accept; 0 where that was before us */
    u64 inode;              /* of the socket in sockfs; 0 once no process holds it */
    u64 cgroup;             /* the cgroup's id; 0 where the kernel has none */
    u32 netns;              /* inode of the network namespace */
    u32 silent;             /* jiffies since the peer was last heard, or SILENT_UNKNOWN */
    u32 rto;                /* jiffies */
    u32 srtt_us;            /* microseconds; 0 before the first sample */
    u32 unacked;            /* bytes sent and not acknowledged, SYN and FIN not counted */
    u32 snd_wnd;            /* bytes */
    u32 keepalive_idle;     /* jiffies, the socket's own or else its namespace's */
    u32 keepalive_interval; /* jiffies */
    u32 keepalive_probes;   /* count */
    u32 user_timeout_ms;    /* 0 = not set */
    u32 pid;                /* who connected or closed, where that was seen; else 0 */
    u32 reason;             /* enum sk_rst_reason, meaningful with HAS_REASON */
    s32 error;              /* errno: sk_err, or what a failed retransmission returned */
    u16 lport;              /* host byte order; 0 while connect() has not hashed the socket yet */
    u16 rport;
    u16 attempt;  /* retransmit: icsk_retransmits; keepalive: icsk_probes_out + 1 */
    u16 flags;    /* enum event_flags */
    u8 laddr[16]; /* IPv6, or IPv4 as ::ffff:a.b.c.d */
    u8 raddr[16];
    u8 comm[16]; /* of pid */
    u8 type;     /* enum event_type */
    u8 family;   /* 4 or 6; v4-mapped is 4 */
    u8 state;    /* TCP_ESTABLISHED = 1, ... */
    u8 old_state;
    u8 new_state;
    u8 ca_state;  /* TCP_CA_Open = 0, ..., TCP_CA_Loss = 4 */
    u8 backoff;   /* icsk_backoff */
    u8 pending;   /* icsk_pending: 0 at an RTO, 5 at a tail loss probe */
    u8 direction; /* enum reset_direction */
    u8 reserved[11];
};

enum event_flags {
    FULL_SOCK = 1,  /* the members below sock_common were there to read */
    KEEPALIVE = 2,  /* SO_KEEPALIVE is on */
    SYNACK = 4,     /* the retransmission of a SYN/ACK, for a socket still to be */
    HAS_REASON = 8, /* reset: this kernel says why */
};

/* Index into the map of lost events; tracer/kernel/probes.py has the names. */
enum hook {
    HOOK_RETRANSMIT = 0,
    HOOK_SYNACK = 1,
    HOOK_STATE = 2,
    HOOK_KEEPALIVE = 3,
    HOOK_RESET_RECEIVED = 4,
    HOOK_RESET_SENT = 5,
    HOOK_RESET_REFUSED = 6,
    HOOK_ERROR = 7,
    HOOKS = 8,
};

#endif
