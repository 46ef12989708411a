/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Access to kernel structures without kernel headers.
 *
 * Before it compiles, tracer/kernel/program/source.py scans the source for the macros below, looks each name up in
 * /sys/kernel/btf/vmlinux and passes the answer as -D. So the source names a struct, a member, an enumerator, a
 * tracepoint or a kfunc literally, and never through another macro. The path of a nested member is written with two
 * underscores: icsk_ack__lrcvtime. What the running kernel lacks has size 0 and reads as 0.
 */
#ifndef TCPWATCH_KERNEL_H
#define TCPWATCH_KERNEL_H

#include <linux/types.h>

/* Three ways to read a member. Each gives a u64, whatever the width of the member. */

/* From any address, as BPF_CORE_READ(): one call of bpf_probe_read_kernel(). Bit fields too. */
#define CORE_READ(type, member, base)                                                                                  \
    core_read((u64)(base), OFFSET_##type##__##member, SIZE_##type##__##member, SHIFT_##type##__##member,               \
              BITS_##type##__##member)
/* From a copy that FILL_COPY made: one load, so that reading many members costs one helper call. Bit fields too. */
#define COPY_READ(type, member, copy)                                                                                  \
    copy_read(copy, OFFSET_##type##__##member, SIZE_##type##__##member, SHIFT_##type##__##member,                      \
              BITS_##type##__##member)
/* From a pointer with a BTF type that the verifier knows: one load. No bit fields. */
#define TYPED_READ(type, member, base) typed_read(base, OFFSET_##type##__##member, SIZE_##type##__##member)

/* A copy of a whole struct: DECLARE_COPY(sock_common, copy). FILL_COPY zeroes it where the address is unreadable. */
#define DECLARE_COPY(type, copy) u64 copy[(TYPE_SIZE(type) + 7) / 8]
#define FILL_COPY(type, copy, address) bpf_probe_read_kernel(copy, TYPE_SIZE(type), (void *)(address))

/* Questions to BTF, as libbpf's bpf_core_field_exists(), bpf_core_field_offset(), ... */
#define FIELD_EXISTS(type, member) (SIZE_##type##__##member != 0)
#define FIELD_OFFSET(type, member) OFFSET_##type##__##member
#define TYPE_SIZE(type) SIZEOF_##type
#define TYPE_ID(type) TYPE_ID_##type
#define ENUM_VALUE(type, name) ENUM_##type##__##name
/* BTF id of a kernel function that BPF programs may call; 0 where this kernel has none. */
#define KFUNC_ID(function) KFUNC_ID_##function
/* Number of arguments of a raw tracepoint; 0 without the tracepoint. A program that reads one too many fails to attach.
 */
#define TRACEPOINT_ARGS(tracepoint) ARGS_##tracepoint

/* ABI: include/linux/socket.h, include/uapi/linux/in.h, include/net/tcp_states.h. */
#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6

enum tcp_state {
    TCP_ESTABLISHED = 1,
    TCP_SYN_SENT,
    TCP_SYN_RECV,
    TCP_FIN_WAIT1,
    TCP_FIN_WAIT2,
    TCP_TIME_WAIT,
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_LAST_ACK,
    TCP_LISTEN,
    TCP_CLOSING,
    TCP_NEW_SYN_RECV,
};

static __always_inline u64 extract_bits(u64 value, u32 shift, u32 bits)
{
    value >>= shift;
    if (bits != 0 && bits < 64)
        value &= (1ULL << bits) - 1;
    return value;
}

/* All arguments but base are constants, so that one helper call remains. Little-endian only. */
static __always_inline u64 core_read(u64 base, u32 offset, const u32 size, u32 shift, u32 bits)
{
    u64 value = 0;

    if (size == 0 || base == 0)
        return 0;
    if (bpf_probe_read_kernel(&value, size, (void *)(base + offset)) != 0)
        return 0;
    return extract_bits(value, shift, bits);
}

static __always_inline u64 copy_read(const u64 *copy, u32 offset, const u32 size, u32 shift, u32 bits)
{
    u64 value = 0;

    if (size == 0)
        return 0;
    __builtin_memcpy(&value, (const u8 *)copy + offset, size);
    return extract_bits(value, shift, bits);
}

/* include/uapi/linux/bpf.h (5.9). NULL unless sk is a TCP socket. */
static const u8 *(*skc_to_tcp_sock)(u64 sk) = (void *)137;

/*
 * bpf_rdonly_cast(), kernel/bpf/helpers.c (6.2). It checks nothing and costs nothing at run time. bcc cannot compile a
 * call of a kfunc: a negative helper number stands for one (tracer/kernel/program/compiled.py).
 */
static const u8 *(*call_rdonly_cast)(u64 object, u32 type) = (void *)-(long)KFUNC_ID(bpf_rdonly_cast);

/* The socket as a pointer to struct tcp_sock that the verifier knows, for TYPED_READ; or NULL. */
static __always_inline const u8 *cast_tcp_sock(u64 sk)
{
    return KFUNC_ID(bpf_rdonly_cast) ? call_rdonly_cast(sk, TYPE_ID(tcp_sock)) : skc_to_tcp_sock(sk);
}

static __always_inline u64 typed_read(const u8 *base, u32 offset, const u32 size)
{
    switch (size) {
    case 1:
        return *(const u8 *)(base + offset);
    case 2:
        return *(const u16 *)(base + offset);
    case 4:
        return *(const u32 *)(base + offset);
    case 8:
        return *(const u64 *)(base + offset);
    default:
        return 0;
    }
}

/* The first argument of a function with a kprobe at its entry, from the saved registers. */
#if defined(__x86_64__)
#define KPROBE_FIRST_ARGUMENT(registers) CORE_READ(pt_regs, di, registers)
#elif defined(__aarch64__)
/* regs[0] */
#define KPROBE_FIRST_ARGUMENT(registers) core_read((u64)(registers), FIELD_OFFSET(user_pt_regs, regs), 8, 0, 0)
#else
#define KPROBE_FIRST_ARGUMENT(registers) 0
#endif

static __always_inline u16 ntohs(u16 value)
{
    return __builtin_bswap16(value);
}

#endif
