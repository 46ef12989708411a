/* bcc looks for this file to believe that it has found kernel headers, and for this symbol to compile at all. */
#define CONFIG_BPF_SYSCALL 1
