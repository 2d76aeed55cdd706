# SPDX-License-Identifier: BSD-3-Clause
"""Builds a guest's initramfs: busybox, the programs that a case names with their libraries, the
modules in the order of loading, and the scripts of guest/. Nothing is compressed: unpacking under
emulation takes longer than reading."""
import os
import re
import shutil
import stat
import subprocess
import tempfile

from lab import GUEST, Skip

# What busybox has of them is too little: veth pairs, DAX namespaces.
PACKAGES = {'busybox': 'busybox-static', 'ndctl': 'ndctl', 'mkfs.ext4': 'e2fsprogs',
            'mkfs.xfs': 'xfsprogs', 'ip': 'iproute2', 'rdma': 'iproute2',
            'ibv_rc_pingpong': 'ibverbs-utils', 'ibv_devices': 'ibverbs-utils',
            'ib_write_lat': 'perftest', 'ib_read_lat': 'perftest', 'strip': 'binutils'}
SYSTEM_PATH = '/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin'
ARCHITECTURE_LIBRARIES = '/usr/lib/x86_64-linux-gnu'


def program(name):
    found = shutil.which(name, path=SYSTEM_PATH)
    if not found:
        raise Skip(f'{name} is not installed; ./bootstrap deps installs {PACKAGES.get(name, "it")}')
    return os.path.realpath(found)


def libraries(path):
    """The shared libraries that the loader would take, and the loader itself."""
    shown = subprocess.run(['ldd', path], capture_output=True, text=True, check=False, timeout=30)
    missing = re.findall(r'^\s*(\S+) => not found', shown.stdout, re.M)
    if missing:
        raise Skip(f'{path} needs {missing[0]}, which is not installed')
    return re.findall(r'(/\S+) \(0x', shown.stdout)


def stripped(path):
    """The file without debug information: the guest has it in RAM."""
    with open(path, 'rb') as f:
        data = f.read()
    if data[:4] != b'\x7fELF':
        return data
    with tempfile.NamedTemporaryFile() as out:
        done = subprocess.run([program('strip'), '--strip-debug', '-o', out.name, path], check=False,
                              stderr=subprocess.DEVNULL, timeout=60)
        if done.returncode != 0:
            return data
        with open(out.name, 'rb') as f:
            return f.read()


class Initramfs:
    """Entries by path; write() makes the cpio archive (format "newc") of them."""

    def __init__(self, kernel):
        self.kernel = kernel
        self.entries = {}
        for name in ('bin', 'dev', 'proc', 'sys', 'run', 'tmp', 'mnt', 'etc', 'var/lib'):
            self.directory(name)
        # The kernel opens it for /init before devtmpfs is there.
        self.entries['dev/console'] = (stat.S_IFCHR | 0o600, b'', (5, 1))
        self.file('bin/busybox', program('busybox'))
        for applet in subprocess.run([program('busybox'), '--list'], capture_output=True, text=True,
                                     check=True, timeout=30).stdout.split():
            self.entries.setdefault(f'bin/{applet}', (stat.S_IFLNK | 0o777, b'busybox', (0, 0)))
        self.text('etc/passwd', 'root:x:0:0:root:/:/bin/sh\n')
        if os.path.exists('/etc/mke2fs.conf'):
            self.file('etc/mke2fs.conf', '/etc/mke2fs.conf')
        for name in sorted(os.listdir(GUEST)):
            if name.endswith('.sh'):
                self.file(f'guest/{name}', os.path.join(GUEST, name))
        self.entries['init'] = (stat.S_IFLNK | 0o777, b'guest/init.sh', (0, 0))

    def directory(self, path):
        parts = path.split('/')
        for i in range(1, len(parts) + 1):
            self.entries.setdefault('/'.join(parts[:i]), (stat.S_IFDIR | 0o755, b'', (0, 0)))

    def file(self, path, source):
        self.directory(os.path.dirname(path))
        self.entries[path] = (stat.S_IFREG | 0o755, stripped(source), (0, 0))

    def text(self, path, text):
        self.directory(os.path.dirname(path))
        self.entries[path] = (stat.S_IFREG | 0o644, text.encode(), (0, 0))

    def program(self, source, name=None):
        """A program by path, or by name on this machine, with its libraries."""
        path = source if '/' in source else program(source)
        self.file(f'bin/{name or os.path.basename(source)}', path)
        self.needs(path)

    def needs(self, source):
        for library in libraries(source):
            if library.lstrip('/') not in self.entries:
                self.file(library.lstrip('/'), library)

    def verbs(self):
        """The driver for Soft-RoCE of each libibverbs that a program takes, which is loaded by name: the
        system's, and a private one. That looks where it was installed, which may be through a link."""
        self.driver(f'{ARCHITECTURE_LIBRARIES}/libibverbs', '/etc')
        for library in [n for n in self.entries if n.endswith('/lib/libibverbs.so.1')]:
            folder = os.path.dirname(f'/{library}')
            for prefix in {os.path.dirname(folder), os.path.dirname(os.path.realpath(folder))}:
                self.driver(f'{prefix}/lib/libibverbs', f'{prefix}/etc')

    def driver(self, folder, settings):
        drivers = [n for n in os.listdir(folder) if n.startswith('librxe')] \
            if os.path.isdir(folder) else []
        if not drivers:
            raise Skip(f'{folder} has no driver for Soft-RoCE; ./bootstrap deps installs '
                       'ibverbs-providers')
        for name in drivers:
            self.file(f'{folder.lstrip("/")}/{name}', f'{folder}/{name}')
            self.needs(f'{folder}/{name}')
        self.text(f'{settings.lstrip("/")}/libibverbs.d/rxe.driver', 'driver rxe\n')

    def modules(self, names):
        order = self.kernel.with_dependencies(names)
        self.directory('modules')
        for name in order:
            self.entries[f'modules/{name}.ko'] = (stat.S_IFREG | 0o644, self.kernel.module(name),
                                                  (0, 0))
        self.text('modules/order', ''.join(f'{name}\n' for name in order))

    def write(self, path):
        with open(path, 'wb') as out:
            for number, (name, entry) in enumerate(sorted(self.entries.items()), 1):
                out.write(cpio_entry(number, name, *entry))
            out.write(cpio_entry(0, 'TRAILER!!!', 0, b'', (0, 0)))
        return path


def cpio_entry(number, name, mode, data, device):
    fields = [number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name) + 1, 0]
    head = b'070701' + b''.join(b'%08X' % field for field in fields) + name.encode() + b'\0'
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)
