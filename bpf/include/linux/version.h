/*
 * bcc's prelude compares and records a version. The oldest kernel that can run us is the truth we need: kernels since
 * 5.0 do not look at the recorded one.
 */
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(5, 8, 0)
