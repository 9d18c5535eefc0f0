"""The native kernels, called through ctypes; see ``native/`` at the root of the sources."""
