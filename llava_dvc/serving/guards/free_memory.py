"""Gives memory that is free again back to the system."""

import asyncio
import ctypes
import sys

TRIM_SECONDS = 10.0


async def return_memory_forever() -> None:
    """Trims the heap every TRIM_SECONDS.

    Uploads and frames come in many sizes. The C library keeps their memory when they are gone, in
    pieces that the next frames do not fit into, so that the process would grow.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    while trim:  # glibc has it
        await asyncio.sleep(TRIM_SECONDS)
        await asyncio.to_thread(trim, 0)
