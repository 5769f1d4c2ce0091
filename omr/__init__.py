"""Reads music (score image to MIDI), hears music (recording to notes) and matches the two."""

__version__ = "0.1.0"

__all__ = ["listen", "read"]


def __getattr__(name):
    # `import omr` must cost nothing, so what reads and what hears is imported at its first use.
    if name == "read":
        from omr.reading.reader import read

        return read
    if name == "listen":
        from omr.listening.listener import listen

        return listen
    raise AttributeError(f"module 'omr' has no attribute {name!r}")
