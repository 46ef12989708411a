"""The BPF program: C source → compiled → cached → loaded and attached, and the ring buffer that it fills."""
