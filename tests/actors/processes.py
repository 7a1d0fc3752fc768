"""Whether processes of this machine are there."""

from pathlib import Path


def is_running(pid: int) -> bool:
    """A process that has ended may stay as a zombie, where nobody asks for its status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False
