# SPDX-License-Identifier: BSD-3-Clause
"""A guest's kernel: an unpacked Debian image package that .ci/lib/kernel.sh fetches."""
import glob
import lzma
import os
import subprocess

from lab import DEPS, ROOT, Skip

PARTS = ('common', 'archive', 'libfuse', 'kernel')


def fetch(name):
    """Has .ci/lib fetch the kernel; Skip where this machine's archive does not give it."""
    sources = '\n'.join(f'source "$BTD_ROOT/.ci/lib/{part}.sh"' for part in PARTS)
    done = subprocess.run(['bash', '-c', f'set -eu\n{sources}\nensure_kernel "$1"', 'bash', name],
                          env={**os.environ, 'BTD_ROOT': ROOT, 'BTD_DEPS': DEPS},
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=600, check=False)
    if done.returncode != 0:
        said = done.stdout.decode(errors='replace').strip().splitlines()
        raise Skip(f'no suite of this machine\'s Debian archive gave the kernel "{name}"'
                   + (f' ({said[-1]})' if said else ''))


class Kernel:
    def __init__(self, name):
        self.tree = os.path.join(DEPS, 'vm', name)
        if not os.path.exists(os.path.join(self.tree, 'package')):
            fetch(name)
        self.image = glob.glob(os.path.join(self.tree, 'boot', 'vmlinuz-*'))[0]
        self.version = os.path.basename(self.image).removeprefix('vmlinuz-')
        folders = [os.path.join(self.tree, at, 'modules', self.version) for at in ('lib', 'usr/lib')]
        self.folder = next(f for f in folders if os.path.isdir(f))
        self.paths = {}
        for folder, _, names in os.walk(self.folder):
            for name in names:
                if '.ko' in name:
                    self.paths[module_name(name)] = os.path.join(folder, name)
        with open(os.path.join(self.folder, 'modules.builtin'), encoding='ascii') as f:
            self.builtin = {module_name(os.path.basename(line.strip())) for line in f}
        self.contents = {}

    def module(self, name):
        if name not in self.contents:
            with open(self.paths[name], 'rb') as f:
                data = f.read()
            self.contents[name] = lzma.decompress(data) if data[:6] == b'\xfd7zXZ\0' else data
        return self.contents[name]

    def with_dependencies(self, names):
        """The names and all they need, in the order in which they can be loaded. What each needs is
        read from the modules: the package has no modules.dep, and modprobe would leave out what
        *this* machine's kernel has built in."""
        order = []

        def add(name):
            if name in order or name in self.builtin:
                return
            if name not in self.paths:
                raise Skip(f'the kernel {self.version} has no module {name}')
            for needed in depends(self.module(name)):
                add(needed)
            order.append(name)

        for name in names:
            add(name)
        return order


def module_name(file):
    return file.split('.ko')[0].replace('-', '_')


def depends(module):
    """The entry "depends=" of a module's .modinfo."""
    at = module.find(b'\0depends=')
    if at < 0:
        return []
    end = module.index(b'\0', at + 1)
    text = module[at + len(b'\0depends='):end].decode()
    return [name.replace('-', '_') for name in text.split(',') if name]
