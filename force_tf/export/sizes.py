"""What a file takes, as it is and compressed."""

from __future__ import annotations

import dataclasses
import gzip

# That of the gzip command. Level 9 takes up to twelve times as long, on sparse integers, to save 2% of them.
_GZIP_LEVEL = 6


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes in bytes.

    Attributes:
        plain: That of the file.
        gzip: When compressed with gzip, at its default level of 6.
        zstd: When compressed with Zstandard; None if the package `zstandard` is missing.
    """

    plain: int
    gzip: int
    zstd: int | None


def sizes_of(content: bytes) -> Sizes:
    """Returns the sizes of a file."""
    return Sizes(len(content), len(gzip.compress(content, compresslevel=_GZIP_LEVEL, mtime=0)), _zstd(content))


def _zstd(content: bytes) -> int | None:
    try:
        import zstandard
    except ImportError:
        return None
    return len(zstandard.compress(content))
