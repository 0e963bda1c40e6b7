"""Take one named file out of a tar or zip archive, as a stream.

Only the named member is read, its bytes go to a path of our choosing, and nothing is imported, unpickled or
extracted elsewhere. Refused: absolute names, "..", links, devices, encrypted members, members over a size
limit, archive bombs, a name that two members have (which of them is meant depends on who unpacks).
Not covered: formats other than tar (plain, gz, bz2, xz) and zip.
"""

import bz2
import contextlib
import gzip
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from workflow_scripts.common.files import finished_file
from workflow_scripts.download.transfer import BLOCK, Unavailable

SIZE_LIMIT = 8 << 30  # bytes
BOMB_RATIO = 200  # unpacked bytes per packed byte
BOMB_FLOOR = 100 << 20  # bytes: below this, no ratio is suspicious
DECOMPRESSORS = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    ValueError,
)
UNSUPPORTED = (NotImplementedError, RuntimeError)  # zipfile: a compression it lacks, a password


def unpack_member(
    archive: Path,
    member: str,
    target: Path,
    *,
    span: list[int] | None = None,
    gunzip: bool = False,
    limit: int = SIZE_LIMIT,
) -> Path:
    """Write one member's bytes (or its bytes [start, stop), then decompressed if `gunzip`) to `target`.

    Raises Unavailable when the member is missing, unsafe, over `limit` bytes, or the archive is broken.
    """
    where = f"{archive.name}: {member}"
    refuse_unsafe_name(member, archive.name)
    try:
        with (
            finished_file(target) as temporary,
            _open_member(archive, member, limit, where) as (stream, size),
        ):
            if span:
                start, stop = span
                if not 0 <= start < stop <= size:
                    raise Unavailable(f"{where}: has {size} bytes, no range [{start}, {stop})")
                _skip(stream, start)
                size = stop - start
            # A slice may be gzip itself, so the range is cut first and decompressed after.
            source = _Budget(stream, size, where, ends=True)
            if gunzip:
                source = _Budget(gzip.GzipFile(fileobj=source), _allowed(size, limit), where)
            with open(temporary, "wb") as output:
                while block := source.read(BLOCK):
                    output.write(block)
            if not gunzip and temporary.stat().st_size != size:
                raise Unavailable(f"{where}: ends before its {size} bytes")
    except BROKEN as error:
        raise Unavailable(f"{where}: the archive is broken ({error})") from error
    except UNSUPPORTED as error:
        raise Unavailable(f"{where}: cannot be read ({error})") from error
    except OSError as error:
        if error.errno is not None:  # the disk's, not the archive's: gzip and bz2 raise OSError for bad data
            raise
        raise Unavailable(f"{where}: the archive is broken ({error})") from error
    return target


def refuse_unsafe_name(name: str, where: str) -> None:
    """Raise Unavailable for a name that could leave its folder."""
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise Unavailable(f"{where}: unsafe name {name!r}")


@contextlib.contextmanager
def _open_member(archive: Path, member: str, limit: int, where: str) -> Iterator[tuple[BinaryIO, int]]:
    """Give (stream, size in bytes) of a regular member."""
    with open(archive, "rb") as stream:
        magic = stream.read(4)
    opened = _open_zip_member if magic == b"PK\x03\x04" else _open_tar_member
    with opened(archive, member, limit, where) as found:
        yield found


@contextlib.contextmanager
def _open_zip_member(archive: Path, member: str, limit: int, where: str) -> Iterator[tuple[BinaryIO, int]]:
    with zipfile.ZipFile(archive) as bundle:
        try:
            info = bundle.getinfo(member)
        except KeyError:
            raise Unavailable(f"{where}: no such member") from None
        _refuse_twins(sum(name == member for name in bundle.namelist()), where)
        kind = stat.S_IFMT(info.external_attr >> 16)
        if info.is_dir() or kind not in (0, stat.S_IFREG):
            raise Unavailable(f"{where}: not a regular file (a link, a device or a folder)")
        _refuse_size(info.file_size, min(limit, _allowed(info.compress_size, limit)), where)
        with bundle.open(info) as stream:
            yield stream, info.file_size


@contextlib.contextmanager
def _open_tar_member(archive: Path, member: str, limit: int, where: str) -> Iterator[tuple[BinaryIO, int]]:
    packed = archive.stat().st_size
    with open(archive, "rb") as raw:
        decompress = next(
            (tool for magic, tool in DECOMPRESSORS.items() if raw.peek(6).startswith(magic)), None
        )
        inner = decompress(raw) if decompress else raw
        # The budget counts all that is unpacked on the way to the member, tar's own headers included.
        budget = max(BOMB_FLOOR, BOMB_RATIO * packed) if decompress else packed
        with tarfile.open(fileobj=_Budget(inner, budget, where), mode="r|") as bundle:
            for info in bundle:
                if info.name.removeprefix("./") == member.removeprefix("./"):
                    break
            else:
                raise Unavailable(f"{where}: no such member")
            if not info.isreg() or info.issparse():
                raise Unavailable(f"{where}: not a regular file (a link, a device or a folder)")
            _refuse_size(info.size, limit, where)
            yield bundle.extractfile(info), info.size
            _refuse_twins(
                sum(other.name.removeprefix("./") == info.name.removeprefix("./") for other in bundle), where
            )


def _allowed(packed: int, limit: int) -> int:
    return min(limit, max(BOMB_FLOOR, BOMB_RATIO * packed))


def _refuse_size(size: int, allowed: int, where: str) -> None:
    if not 0 <= size <= allowed:
        raise Unavailable(
            f"{where}: {size} bytes unpacked, allowed are {allowed}: too large, or an archive bomb"
        )


def _refuse_twins(count: int, where: str) -> None:
    if count > 1:
        raise Unavailable(f"{where}: stands {count} times in the archive")


def _skip(stream: BinaryIO, count: int) -> None:
    """Read past `count` bytes; neither kind of archive stream seeks cheaply."""
    while count and (block := stream.read(min(BLOCK, count))):
        count -= len(block)


class _Budget:
    """A readable stream of at most `budget` bytes: after them it ends (`ends`) or raises Unavailable."""

    def __init__(self, stream: BinaryIO, budget: int, where: str, *, ends: bool = False):
        self.stream, self.left, self.where, self.ends = stream, budget, where, ends

    def read(self, count: int = -1) -> bytes:
        most = self.left if self.ends else self.left + 1
        block = self.stream.read(most if count < 0 else min(count, most))
        self.left -= len(block)
        if self.left < 0:
            raise Unavailable(f"{self.where}: unpacks to more than is allowed: too large, or an archive bomb")
        return block
