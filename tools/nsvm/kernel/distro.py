# SPDX-License-Identifier: GPL-2.0
"""The distribution's own kernel of the base's version: image, modules, headers

In build/distro/<version>, for all bases of that version: vmlinuz, vmlinux (unpacked), modules/
(what the emulated machine loads, and "order"), root/ (linux-headers and linux-kbuild), info ("key
value" a line).  It is Debian's cloud flavour, the smallest one, of the version of the linux-source
package that src is from.  Nothing is installed.
"""
import re
import shutil
import subprocess
import time
from pathlib import Path

from lib import jobs
from lib.base import Base, alone, new_directory, put, read
from lib.say import Fatal, elapsed, say
from lib.settings import place
from source import debian, release
from source.debian import NOT_HERE

FLAVOUR = 'cloud-amd64'
# What compiles a module, for headers whose programs are of a newer release than the machine's
TOOLS = ['make', 'binutils', 'libelf1t64', 'base-files', 'dash', 'bash', 'coreutils', 'sed', 'grep',
         'mawk', 'diffutils', 'findutils']
# What a test of KVM loads: its disk, KVM
LOADED = ('virtio_pci', 'virtio_blk', 'kvm-amd')
MORE = ('msr',)		# kept beside them: guests of guests


def place_of(base: Base) -> Path:
    """Where it is, once get() has made it"""
    return place.build / 'distro' / release.of_src(base)[0]


def info(base: Base, key: str) -> str:
    m = re.search(rf'^{key} (.*)$', read(place_of(base) / 'info'), re.M)
    return m[1] if m else ''


def runner(base: Base) -> list[str]:
    """What a command that compiles for it begins with"""
    root = info(base, 'root')
    return debian.inside(Path(root)) if root else []


# ---- packages ----

def headers_of(apt: debian.Archive, version: str) -> str:
    """linux-headers-<release>-cloud-amd64 of that version, or nothing"""
    names = apt.search(f'^linux-headers-[0-9].*-{FLAVOUR}$')
    return next((r['Package'] for r in apt.show(*names) if r.get('Version') == version), '')


def used(version: str) -> Path:
    """Names the release and the packages that a kernel of that version was made of"""
    return place.downloads / f'linux-{FLAVOUR}_{version}'


def fetch_all(version: str, suite: str) -> tuple[str, list[Path]]:
    """The release, and image, headers and what these need; what was fetched once counts"""
    names = read(used(version)).split()
    debs = [debian.at_hand(name, version, '') for name in names[1:]]
    if names and all(debs):
        return names[0], [deb for deb in debs if deb]
    with debian.Archive(suite) as apt:
        apt.update()
        headers = headers_of(apt, version)
        if not headers:
            raise Fatal(f'apt knows no linux-headers-*-{FLAVOUR} of version {version}', NOT_HERE)
        release = headers.removeprefix('linux-headers-')
        image = next((p for p in (f'linux-image-{release}-unsigned', f'linux-image-{release}')
                      if apt.show(p)), '')
        if not image:
            raise Fatal(f'apt has {headers}, but no linux-image-{release}', NOT_HERE)
        # Since 7.x, an image is several packages
        needed = {m for p in (image, headers) for r in apt.show(p) if r.get('Version') == version
                  for m in re.findall(r'linux-(?:headers|kbuild|binary|modules)-[^\s,]+',
                                      r.get('Depends', ''))}
        names = [image, headers, *sorted(needed - {image, headers})]
        return release, [apt.fetch(p, version) for p in names]


# ---- what is in them ----

def depends(module: bytes) -> list[str]:
    m = re.search(rb'(?:^|\0)depends=([^\0]*)\0', module)
    return m[1].decode().split(',') if m and m[1] else []


def decompress(ko: Path) -> bytes:
    tool = {'.xz': 'xz', '.zst': 'zstd', '.gz': 'gzip'}.get(ko.suffix)
    return subprocess.run([tool, '-dc', ko], check=True,
                          stdout=subprocess.PIPE).stdout if tool else ko.read_bytes()


def keep_modules(root: Path, to: Path) -> None:
    """LOADED and what they need, in the order in which they are loaded, and MORE"""
    files = {ko.name.split('.')[0].replace('_', '-'): ko for ko in root.rglob('*.ko*')}
    order: list[str] = []

    def add(name: str) -> None:
        name = name.replace('_', '-')
        if name in order or name not in files:
            return		# the latter: it is in the kernel
        data = decompress(files[name])
        for d in depends(data):
            add(d)
        (to / f'{name}.ko').write_bytes(data)
        order.append(name)

    to.mkdir()
    for name in LOADED:
        add(name)
    if 'kvm-amd' not in order:
        raise Fatal('the packages have no kvm-amd.ko')
    put(to / 'order', ''.join(f'{name}\n' for name in order))
    for name in MORE:
        add(name)


def unpack(base: Base, release: str, debs: list[Path], to: Path) -> None:
    """Of the image what is booted and loaded, of the others all"""
    begin = time.monotonic()
    (to / 'root').mkdir(parents=True)
    images = [d for d in debs if re.match('linux-(image|binary|modules)-', d.name)]

    def unpack_image() -> None:
        (to / 'image').mkdir()
        for deb in images:
            debian.unpack(deb, to / 'image', '*/vmlinuz*', '*/drivers/[bcv]*.ko*', '*/virt/*.ko*',
                          '*/kvm/*.ko*', '*/msr.ko*')
        # Booted by its PVH note: no boot loader, no decompressor whose time is not always the same
        script = base.src / 'scripts/extract-vmlinux'
        with open(to / 'vmlinux', 'wb') as f:
            vmlinuz = next((v for v in (to / 'image').rglob('vmlinuz*')), None)
            if not vmlinuz or jobs.finish(jobs.start(['sh', script, vmlinuz], stdout=f,
                                                     stderr=subprocess.DEVNULL)):
                raise Fatal(f'extract-vmlinux cannot unpack the vmlinuz of {release}')
        vmlinuz.replace(to / 'vmlinuz')		# a boot loader takes only that
        keep_modules(to / 'image', to / 'modules')
        shutil.rmtree(to / 'image')

    def unpack_headers() -> None:
        for deb in debs:
            if deb not in images:
                debian.unpack(deb, to / 'root')

    jobs.together(unpack_image, unpack_headers)
    say('DISTRO', f'Linux {release} of Debian unpacked ({elapsed(begin)})')


def get(base: Base) -> Path:
    """build/distro/<version>, made if need be; Fatal 3 if this base has no such kernel here"""
    version, suite, _ = release.of_src(base)
    d, kept = place_of(base), ' '.join(LOADED + MORE)
    with alone(d.parent / '.lock'):
        root = info(base, 'root')
        if info(base, 'version') != version or info(base, 'kept') != kept or (
                root and not Path(root, 'packages').exists()):
            make(base, d, version, suite, kept)
    return d


def make(base: Base, d: Path, version: str, suite: str, kept: str) -> None:
    """The directory d"""
    kernel, debs = fetch_all(version, suite)
    with new_directory(d) as tmp:
        unpack(base, kernel, debs, tmp)
        headers = tmp / f'root/usr/src/linux-headers-{kernel}'
        # They think that they are in /usr/src
        makefile = headers / 'Makefile'
        makefile.write_text(makefile.read_text().replace('/usr/src/', f'{d}/root/usr/src/'))
        compiler = re.search(r'(gcc-[0-9]+)', (headers / '.kernelvariables').read_text())
        cc = compiler[1] if compiler else 'gcc'
        root = ''
        programs = [f for name in ('modpost*', 'objtool*') for f in (tmp / 'root').rglob(name)
                    if f.is_file()]
        unusable = not shutil.which(cc) or 'not found' in jobs.output(
            ['sh', '-c', f'ldd {" ".join(map(str, programs))} 2>&1'], check=False)
        if unusable and debian.Archive(suite).suite:
            # Headers, and the programs in them, are for a newer release
            newer = suite.removesuffix('-security')
            root = debian.root(newer, f'{newer}-tools', [cc, *TOOLS])
        put(tmp / 'info', f'version {version}\nrelease {kernel}\nheaders '
            f'{d}/root/usr/src/linux-headers-{kernel}\n'
            f'compiler {cc}\nroot {root}\nkept {kept}\n')
        put(used(version), ' '.join([kernel, *(d.name.split('_')[0] for d in debs)]) + '\n')
