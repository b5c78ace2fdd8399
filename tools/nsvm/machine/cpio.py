# SPDX-License-Identifier: GPL-2.0
"""Archives for the emulated machine: an initramfs, and a job's disk"""
import io
import tarfile
from pathlib import Path


def newc(files: dict[str, tuple[int, bytes]]) -> bytes:
    """cpio archive as the kernel unpacks it (Documentation/driver-api/early-userspace/
    buffer-format.rst): path -> (mode with file type, content, of a link its target)"""
    out = io.BytesIO()

    def entry(ino: int, name: str, mode: int, data: bytes) -> None:
        fields = (ino, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        out.write(b'070701' + b''.join(b'%08x' % f for f in fields) + name.encode() + b'\0')
        out.write(b'\0' * (-out.tell() % 4) + data)
        out.write(b'\0' * (-out.tell() % 4))

    for ino, (name, (mode, data)) in enumerate(files.items(), 1):
        entry(ino, name, mode, data)
    entry(0, 'TRAILER!!!', 0, b'')
    return out.getvalue()


BLOCK = 1 << 16


def disk(files: dict[str, tuple[int, bytes | Path]], to: Path, size: int) -> None:
    """A block that says "job" and how many follow it, and in these a tar archive of job/: path ->
    (permissions, content); the file is of that size.  busybox's tar would read the whole disk"""
    with open(to, 'wb') as f:
        f.seek(BLOCK)
        with tarfile.open(fileobj=f, mode='w', format=tarfile.USTAR_FORMAT) as archive:
            for name, (mode, content) in files.items():
                data = content.read_bytes() if isinstance(content, Path) else content
                member = tarfile.TarInfo(f'job/{name}')
                member.size, member.mode = len(data), mode
                archive.addfile(member, io.BytesIO(data))
        blocks = -(-f.tell() // BLOCK) - 1
        f.truncate(max(size, (blocks + 1) * BLOCK))
        f.seek(0)
        f.write(b'job %d\n' % blocks)
