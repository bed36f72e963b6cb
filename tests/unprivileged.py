"""A process to which permission bits apply: root passes over them, and no test may pass by that."""

from typing import Final

PRELUDE: Final = """
import ctypes, os, sys
if os.geteuid() == 0:
    assert sys.platform == "linux", "run the tests as another user than root"
    # No capability is left to this process, nor the one by which root passes over permission bits.
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capset(header, none) == 0
"""
"""Code in front of a script: what the script may do is then up to permission bits alone."""
