/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One event, as BPF writes it and tracer/kernel/wire.py reads it.
 *
 * An event describes one TCP socket at one instant. One struct serves all types; members that a type does not use are
 * zero. Addresses are 16 bytes in network order, IPv4 as ::ffff:a.b.c.d. Ports are in host order. ktime_ns is
 * CLOCK_BOOTTIME; durations are in jiffies unless the name says otherwise, and DURATION_UNKNOWN where there is none.
 * Elsewhere 0 means unknown, where a real 0 is impossible (ports, inode, netns, rto).
 *
 * The widest members of each part come first, so that no padding leaks kernel memory. tests/kernel/test_layout.py
 * compares the layout with wire.py.
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
    EVENT_SOCKET = 8,   /* the current state of a socket, from sockets.bpf.c */
    EVENT_FOUND = 9,    /* a walk found a socket in trouble */
    EVENT_WAITING = 10, /* a walk found a socket that waits for a response */
    EVENT_UNSENT = 11,  /* the kernel retries to send data that this host has not sent yet */
};

enum reset_direction {
    RESET_RECEIVED = 1,
    RESET_SENT = 2,
    RESET_REFUSED = 3,
};

/* What the segment did that ended a silence. */
enum resume_cause {
    RESUME_DATA = 1,        /* it carried data, or acknowledged ours */
    RESUME_KEEPALIVE = 2,   /* an empty segment, after keepalive probes of this end that were unanswered so far */
    RESUME_WINDOW = 3,      /* it opened the closed window */
    RESUME_NO_PROGRESS = 4, /* our data is unacknowledged, and it acknowledged none */
    RESUME_PROBE = 5,       /* an empty segment with an old sequence number: a probe of the peer */
    RESUME_ANSWER = 6,      /* an empty segment, after a window probe that a process of this end had sent */
    RESUME_ACK = 7,         /* another empty segment: a window update */
};

/* A duration without a value: nothing was received from the peer, or nothing is stuck. */
#define DURATION_UNKNOWN 0xffffffffu

struct event {
    u64 ktime_ns; /* CLOCK_BOOTTIME */

    /* The connection. wire.py decodes these bytes once for all events that share them, and likewise the next part. */
    u64 sk;       /* address of struct sock; Python hashes it before it shows it */
    u64 born;     /* CLOCK_BOOTTIME of connect() or accept(); 0 if that was before tcpwatch started */
    u8 laddr[16]; /* local */
    u8 raddr[16]; /* remote */
    u32 netns;    /* inode of the network namespace */
    u16 lport;    /* 0 until connect() has bound the socket */
    u16 rport;
    u8 family; /* 4 or 6; v4-mapped is 4 */
    u8 type;   /* enum event_type */

    /* Socket state and settings. */
    u16 flags; /* enum event_flags */
    u8 state;  /* enum tcp_state */
    u8 old_state;
    u8 new_state;
    u8 ca_state;   /* enum tcp_ca_state: TCP_CA_Open = 0, ..., TCP_CA_Loss = 4 */
    u8 backoff;    /* icsk_backoff */
    u8 orphan;     /* 1: no process holds it any more (SOCK_DEAD) */
    u8 retries;    /* the limit in force: tcp_retries2, tcp_orphan_retries or tcp_syn_retries, or the socket's own */
    u8 syn_linear; /* tcp_syn_linear_timeouts of the namespace */
    u32 keepalive_idle;     /* jiffies; TCP_KEEPIDLE, or else tcp_keepalive_time of the namespace */
    u32 keepalive_interval; /* jiffies; likewise */
    u32 keepalive_probes;   /* count; likewise */
    u32 user_timeout_ms;    /* 0: not set */

    /* Measurements, and the owner. */
    u32 silent;     /* jiffies since anything was received from the peer */
    u64 inode;      /* of the socket in sockfs; 0 once no process holds it */
    u64 cgroup;     /* cgroup id; 0 if unknown */
    u32 rto;        /* jiffies */
    u32 srtt_us;    /* 0 before the first sample */
    u32 unacked;    /* bytes sent and not acknowledged, without SYN and FIN */
    u32 snd_wnd;    /* bytes */
    u32 unsent;     /* bytes written and not sent yet */
    u32 soft_error; /* sk_err_soft: errno of an ICMP error that did not end the connection */
    u32 pid;        /* the process that connected or closed, 0 if that was not seen */
    u8 comm[16];    /* of pid */

    /* Details that a state change does not use: wire.py skips them there. */
    u32 reason;      /* enum sk_rst_reason, valid with FLAG_HAS_REASON */
    s32 error;       /* errno: sk_err, or the result of a failed retransmission */
    u32 jiffies;     /* low half of jiffies_64 */
    u32 retrying_ms; /* since the first RTO retransmission (retrans_stamp) or PROBE0 timer */
    u32 rto_max;     /* jiffies */
    u32 stuck_ms;    /* since the oldest unacknowledged data was first sent, or since the window closed */
    u32 since_sent;  /* jiffies since data was last sent or retransmitted */
    u32 timer_in;    /* jiffies until `timer` expires */
    u16 found_like;  /* found: enum event_type of an event with the same trouble; EVENT_SOCKET: idle, no trouble */
    u16 probes_out;  /* icsk_probes_out: probes since anything was received; unsent: failed attempts */
    u16 attempt;     /* retransmit: icsk_retransmits; keepalive, unsent: icsk_probes_out + 1 */
    u16 segments;    /* retransmit: number of segments, as TcpRetransSegs counts them */
    u8 pending;      /* icsk_pending: 0 at an RTO, 5 at a tail loss probe */
    u8 direction;    /* enum reset_direction */
    u8 cause;        /* enum resume_cause */

    /* Only of a socket (EVENT_SOCKET). */
    u8 timer;       /* enum socket_timer */
    u32 unread;     /* bytes received and not read by the application */
    u32 since_data; /* jiffies since data was last received */
};

enum event_flags {
    FLAG_FULL_SOCK = 1,           /* a full socket: members beyond struct sock_common are set */
    FLAG_KEEPALIVE = 2,           /* SO_KEEPALIVE is on */
    FLAG_SYNACK = 4,              /* retransmit: a SYN/ACK, sent for a request socket */
    FLAG_HAS_REASON = 8,          /* reset: this kernel gives a reason */
    FLAG_OWN_KEEPALIVE_IDLE = 16, /* keepalive_idle is the socket's own (TCP_KEEPIDLE) */
    FLAG_ACCEPTED = 32,        /* it came from a listener; set for sockets, keepalive probes and walks, as the next */
    FLAG_AWAITS_RESPONSE = 64, /* its last data was acknowledged, and no data has come since */
    FLAG_MPTCP = 128,          /* an MPTCP subflow: the application holds another socket */
    FLAG_THIN = 256,           /* retransmit: the first RTOs are not doubled, or may not be (tcp_stream_is_thin()) */
    FLAG_HAS_WAITER = 512,     /* socket: with FLAG_AWAITS_RESPONSE, something waits for data (has_waiter()) */
};

/* The armed timer, as `ss -o` shows it; icsk_pending in include/net/inet_connection_sock.h. */
enum socket_timer {
    TIMER_NONE = 0,
    TIMER_RETRANSMIT = 1,
    TIMER_PROBE0 = 3,
    TIMER_LOSS_PROBE = 5,
    TIMER_REORDERING = 6,
    TIMER_KEEPALIVE = 100,
};

/* Index into the map of lost events. tracer/kernel/probes.py names each hook, in this order. */
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
    NR_HOOKS = 10,
    COUNTER_REENTRY = NR_HOOKS, /* no loss: state changes that the second program recovered (reentry.h) */
    NR_COUNTERS,
};

#endif
