"""Reads music (score image to MIDI), hears music (recording to notes) and matches the two."""

__version__ = "0.1.0"

__all__ = ["read"]


def __getattr__(name):
    # `import omr` must cost nothing, so the reader and what it needs are imported at the first use of `omr.read`.
    if name == "read":
        from omr.reading.reader import read

        return read
    raise AttributeError(f"module 'omr' has no attribute {name!r}")
