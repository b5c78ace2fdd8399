# SPDX-License-Identifier: GPL-2.0
"""Archives for the emulated machine: its initramfs, and a job on its disk

The program cpio would need a directory with files of equal times to make the same archive twice.
"""
import io
from pathlib import Path

# Path in the archive -> mode with file type, and content: of a file also a Path, of a link its
# target
Files = dict[str, tuple[int, bytes | Path]]
DIRECTORY, FILE, PROGRAM, LINK = 0o40755, 0o100644, 0o100755, 0o120777


def newc(files: Files) -> bytes:
    """Return the archive, in the format that the kernel unpacks.

    See Documentation/driver-api/early-userspace/buffer-format.rst.
    """
    out = io.BytesIO()

    def write_entry(inode: int, name: str, mode: int, data: bytes) -> None:
        fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        out.write(b'070701' + b''.join(b'%08x' % f for f in fields) + name.encode() + b'\0')
        out.write(b'\0' * (-out.tell() % 4) + data)
        out.write(b'\0' * (-out.tell() % 4))

    for inode, (name, (mode, content)) in enumerate(files.items(), 1):
        write_entry(inode, name, mode,
                    content.read_bytes() if isinstance(content, Path) else content)
    write_entry(0, 'TRAILER!!!', 0, b'')
    return out.getvalue()
