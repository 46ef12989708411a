/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The few kernel facts that the program needs. No kernel header is included: Python scans this source for
 * READ(type, member, ...), COPIED(...), LOAD(...), HAS(type, member), OFFSET(type, member), SIZEOF(type),
 * ENUM(type, name), ARGS(hook), BTF_TYPE(type) and KFUNC(function), looks each up in /sys/kernel/btf/vmlinux and hands
 * the answer over as -D (tracer/kernel/program/source.py). A nested member is written with two underscores: icsk_ack__lrcvtime.
 */
#ifndef TCPWATCH_KERNEL_H
#define TCPWATCH_KERNEL_H

#include <linux/types.h>

/* The kernel's member at base, as a u64, whatever its width; 0 where this kernel has no such member. */
#define READ(type, member, base)                                                                                       \
    read_member((u64)(base), OFFSET_##type##__##member, SIZE_##type##__##member, SHIFT_##type##__##member,             \
                BITS_##type##__##member)
/* The same of a copy, which COPY made: no helper is called, so that many members of one object cost little more than
 * one. */
#define COPIED(type, member, copy)                                                                                     \
    copied_member(copy, OFFSET_##type##__##member, SIZE_##type##__##member, SHIFT_##type##__##member,                  \
                  BITS_##type##__##member)
/* The same of an object whose type the verifier knows, which lets a program read it by itself. No bit fields. */
#define LOAD(type, member, base) load_member(base, OFFSET_##type##__##member, SIZE_##type##__##member)
/* Declares a copy of a kernel object, COPY_OF(sock_common, copy), and fills it. Zeroes where it cannot be read. */
#define COPY_OF(type, copy) u64 copy[(SIZEOF(type) + 7) / 8]
#define COPY(type, copy, address) bpf_probe_read_kernel(copy, SIZEOF(type), (void *)(address))
#define SIZEOF(type) SIZEOF_##type
#define HAS(type, member) (SIZE_##type##__##member != 0)
#define OFFSET(type, member) OFFSET_##type##__##member
#define ENUM(type, name) ENUM_##type##__##name
/* Number of arguments of a raw tracepoint; 0 where the kernel lacks it. Asking for one too many fails at attach. */
#define ARGS(hook) ARGS_##hook
/* By what the verifier knows a struct, and a function of the kernel; 0 where this kernel has none. */
#define BTF_TYPE(type) BTF_TYPE_##type
#define KFUNC(function) KFUNC_##function

/* include/uapi/asm-generic, include/net/tcp_states.h: part of the kernel's ABI. */
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

static __always_inline u64 bitfield(u64 value, u32 shift, u32 bits)
{
    value >>= shift;
    if (bits != 0 && bits < 64)
        value &= (1ULL << bits) - 1;
    return value;
}

/* offset, size, shift and bits are constants, so all that is left is one helper call (little-endian only). */
static __always_inline u64 read_member(u64 base, u32 offset, const u32 size, u32 shift, u32 bits)
{
    u64 value = 0;

    if (size == 0 || base == 0)
        return 0;
    if (bpf_probe_read_kernel(&value, size, (void *)(base + offset)) != 0)
        return 0;
    return bitfield(value, shift, bits);
}

/* Here it is one load. */
static __always_inline u64 copied_member(const u64 *copy, u32 offset, const u32 size, u32 shift, u32 bits)
{
    u64 value = 0;

    if (size == 0)
        return 0;
    __builtin_memcpy(&value, (const u8 *)copy + offset, size);
    return bitfield(value, shift, bits);
}

/* include/uapi/linux/bpf.h (5.9). It looks whether that is a TCP socket, and else answers NULL. */
static const u8 *(*skc_to_tcp_sock)(u64 sk) = (void *)137;

/*
 * kernel/bpf/helpers.c (6.2). It takes our word, and nothing of it is left to run. Below zero is no helper: the
 * function is called by its BTF type (tracer/kernel/program/compiled.py).
 */
static const u8 *(*rdonly_cast)(u64 object, u32 type) = (void *)-(long)KFUNC(bpf_rdonly_cast);

/* A TCP socket as one whose type the verifier knows, or NULL. */
static __always_inline const u8 *typed_tcp_sock(u64 sk)
{
    return KFUNC(bpf_rdonly_cast) ? rdonly_cast(sk, BTF_TYPE(tcp_sock)) : skc_to_tcp_sock(sk);
}

/* Here it is one load, too. */
static __always_inline u64 load_member(const u8 *base, u32 offset, const u32 size)
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

/* The first argument of a function under a kprobe, from the registers of its entry. */
#if defined(__x86_64__)
#define READ_FIRST_ARGUMENT(registers) READ(pt_regs, di, registers)
#elif defined(__aarch64__)
/* regs is an array of 31: of which the first. */
#define READ_FIRST_ARGUMENT(registers) read_member((u64)(registers), OFFSET(user_pt_regs, regs), 8, 0, 0)
#else
#define READ_FIRST_ARGUMENT(registers) 0
#endif

static __always_inline u16 swap16(u16 value)
{
    return __builtin_bswap16(value);
}

#endif
