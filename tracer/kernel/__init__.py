"""The running kernel: alone imports bcc, alone reads /proc and /sys."""
