"""Real Debian kernels in virtual machines without KVM, and the kernel tests inside them: scripts/vm.

    archive → kernels, roots → image → machine → matrix

Nothing is installed and nothing of this host's own apt state is touched: everything lives in one cache directory.
"""
