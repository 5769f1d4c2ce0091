"""Reads music (score image to MIDI), hears music (recording to notes) and matches the two."""

__version__ = "0.1.0"

__all__ = ["listen", "read", "read_book", "studio"]


def __getattr__(name):
    # `import omr` must cost nothing, so what reads and what hears is imported at its first use.
    if name == "read":
        from omr.reading.reader import read

        return read
    if name == "read_book":
        from omr.reading.books import read_book

        return read_book
    if name == "listen":
        from omr.listening.listener import listen

        return listen
    if name == "studio":
        from omr.reading.studio import studio

        return studio
    raise AttributeError(f"module 'omr' has no attribute {name!r}")
