/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What every iterator is passed: include/linux/bpf.h. */
#ifndef TCPWATCH_ITERATOR_H
#define TCPWATCH_ITERATOR_H

#include <linux/types.h>

struct bpf_iter_meta {
    void *seq;
    u64 session_id; /* the same for one reading from beginning to end, never the same for two */
    u64 seq_num;
};

#endif
