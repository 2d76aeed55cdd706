# SPDX-License-Identifier: BSD-3-Clause
"""What bartender has to refuse: each case wants a clear sentence, the right exit code (those of
sysexits.h, as btd(1) lists them), and nothing lost."""
import os
import shutil
import struct

from mountlib import BTD, Bartender, MIB, check, is_mounted, main, must, random_bytes, refuse, run, say

USAGE, DATA, NO_INPUT, UNAVAILABLE, CANNOT_CREATE, BUSY, NO_PERMISSION = 64, 65, 66, 69, 73, 75, 77
CONTENT = random_bytes(300_000, 1)


def crc32c(data):
    table = []
    for i in range(256):
        c = i
        for _ in range(8):
            c = (c >> 1) ^ 0x82f63b78 if c & 1 else c >> 1
        table.append(c)
    crc = 0xffffffff
    for byte in data:
        crc = table[(crc ^ byte) & 0xff] ^ (crc >> 8)
    return crc ^ 0xffffffff


class Filled(Bartender):
    """A pool that holds a little of everything, unmounted."""

    def __init__(self, **options):
        super().__init__(**options)
        os.makedirs(self.path('d', 'e'))
        with open(self.path('d', 'e', 'file'), 'wb') as f:
            f.write(CONTENT)
        os.symlink('file', self.path('d', 'e', 'link'))
        os.setxattr(self.path('d'), 'user.colour', b'green')
        self.umount()

    def mount_is_refused(self, code, *words):
        refuse(code, words, BTD, 'mount', self.pool, self.mnt)
        check(not is_mounted(self.mnt), 'it was refused and is mounted all the same')

    def check_content(self):
        with open(self.path('d', 'e', 'file'), 'rb') as f:
            check(f.read() == CONTENT, 'the content of the file is lost')
        check(os.readlink(self.path('d', 'e', 'link')) == 'file', 'the link is lost')
        check(os.getxattr(self.path('d'), 'user.colour') == b'green', 'the attribute is lost')

    def all_is_there(self):
        self.mount()
        self.check_content()
        self.umount()

    def superblocks(self):
        return [os.path.join(self.pool, n) for n in ('superblock', 'superblock.copy')]


def patched(paths, change):
    for path in paths:
        with open(path, 'r+b') as f:
            data = bytearray(f.read())
            f.seek(0)
            f.truncate()
            f.write(change(data))


class Spoiled:
    """Spoils files while the context lasts, then puts the old bytes back."""

    def __init__(self, paths, change):
        self.paths, self.change = paths, change

    def __enter__(self):
        self.saved = []
        for path in self.paths:
            with open(path, 'rb') as f:
                self.saved.append(f.read())
        patched(self.paths, self.change)

    def __exit__(self, *_):
        for path, data in zip(self.paths, self.saved):
            patched([path], lambda _, d=data: d)


def flip(data):
    data[40] ^= 0xff
    return data


def two_mounts():
    with Filled() as b:
        b.mount()
        second = os.path.join(b.base, 'second')
        os.mkdir(second)
        refuse(BUSY, ['in use', b.pool], BTD, 'mount', b.pool, second)
        refuse(BUSY, ['in use'], BTD, 'mount', b.pool + '/../pool', second)
        refuse(8, ['in use'], BTD, 'check', b.pool)  # fsck's code: it could not check
        check(run(BTD, 'format', b.pool, '--force', '--emulate', 'ram', '--size', '64M').code != 0,
              'a pool in use was formatted')
        check(not is_mounted(second), 'the second mount is there')
        b.check_content()


def damaged_superblock():
    with Filled() as b:
        with Spoiled(b.superblocks()[:1], flip):
            b.mount_is_refused(DATA, 'superblock', 'check --repair')
            check(run(BTD, 'check', b.pool).code == 4, 'check should say 4: errors left uncorrected')
        with Spoiled(b.superblocks(), flip):
            b.mount_is_refused(DATA, 'superblock')
        b.all_is_there()


def repaired_superblock():
    with Filled() as b:
        patched(b.superblocks()[:1], flip)
        outcome = run(BTD, 'check', '--repair', b.pool)
        check(outcome.code == 1, f'check --repair should say 1 (corrected): {outcome.code} {outcome.text}')
        b.check_pool()
        b.all_is_there()


def wrong_version():
    def change(data):
        data[8:12] = struct.pack('<I', 999)
        data[-4:] = struct.pack('<I', crc32c(bytes(data[:-4])))
        return data

    with Filled() as b:
        with Spoiled(b.superblocks(), change):
            b.mount_is_refused(DATA, 'version 999')
        b.all_is_there()


def truncated_pool():
    with Filled() as b:
        with Spoiled(b.superblocks()[:1], lambda data: data[:100]):
            b.mount_is_refused(DATA, 'truncated')
        meta = os.path.join(b.pool, 'meta')
        arena = os.path.join(meta, sorted(os.listdir(meta))[0])
        with Spoiled([arena], lambda data: data[:len(data) // 2]):
            b.mount_is_refused(DATA, 'meta')
        hidden = os.path.join(b.base, 'hidden')
        shutil.move(arena, hidden)
        b.mount_is_refused(DATA)
        shutil.move(hidden, arena)
        b.all_is_there()


def damaged_metadata():
    """Bytes of the journal's and the heap's arena that turn over are found, not served."""
    with Filled() as b:
        meta = os.path.join(b.pool, 'meta')
        arena = os.path.join(meta, sorted(os.listdir(meta))[0])

        def change(data):
            for at in range(0, 65536, 64):
                data[at] ^= 0xff
            return data

        with Spoiled([arena], change):
            b.mount_is_refused(DATA)
            check(run(BTD, 'check', b.pool).code not in (0, 1), 'check calls a destroyed pool sound')
        b.all_is_there()


def no_pool():
    with Bartender(mount=False) as b:
        empty = os.path.join(b.base, 'empty')
        refuse(NO_INPUT, [empty], BTD, 'mount', empty, b.mnt)
        os.mkdir(empty)
        outcome = run(BTD, 'mount', empty, b.mnt)
        check(outcome.code in (USAGE, NO_INPUT) and 'not a pool' in outcome.text,
              f'an empty directory: {outcome.code} {outcome.text}')
        refuse(NO_INPUT, ['missing'], BTD, 'mount', b.pool, os.path.join(b.base, 'missing'))
        with open(os.path.join(empty, 'thesis.txt'), 'w') as f:
            f.write('do not lose me')
        refuse(CANNOT_CREATE, ['thesis.txt'], BTD, 'format', empty)
        check(os.listdir(empty) == ['thesis.txt'], 'format changed a directory that it refused')
        refuse(CANNOT_CREATE, ['--force'], BTD, 'format', b.pool, '--emulate', 'ram', '--size', '64M')


def full_pool():
    """A full pool says ENOSPC to writers, can be stopped and mounted, and room can be made in it."""
    with Filled(size='64M') as b:
        b.mount()
        written = 0
        with open(b.path('filler'), 'wb', buffering=0) as f:
            try:
                while True:
                    written += f.write(b'f' * MIB)
            except OSError as error:
                check(error.errno == 28, f'expected ENOSPC, got {error}')
        check(written > 20 * MIB, f'a pool of 64 MiB took only {written} bytes')
        b.check_content()
        b.kill_worker()
        b.umount()
        b.mount()
        b.check_content()
        check(os.path.getsize(b.path('filler')) == written, 'the filler has another size')
        os.unlink(b.path('filler'))
        with open(b.path('after'), 'wb') as f:
            f.write(CONTENT)
        b.umount()
        b.check_pool()


def read_only_pool():
    with Filled() as b:
        must('mount', '-o', 'remount,ro', b.pool)
        b.mount_is_refused(NO_PERMISSION, 'read-only')
        must('mount', '-o', 'remount,rw', b.pool)
        b.all_is_there()
        plain = os.path.join(b.base, 'plain')
        os.mkdir(plain)
        must('mount', '-t', 'tmpfs', '-o', 'ro', 'none', plain)
        refuse(NO_PERMISSION, ['read-only'], BTD, 'format', plain)
        must('umount', plain)


def no_fallocate():
    with Bartender(mount=False) as b:
        plain = os.path.join(b.base, 'plain')
        os.mkdir(plain)
        must('mount', '-t', 'ramfs', 'none', plain)
        refuse(UNAVAILABLE, ['fallocate'], BTD, 'format', os.path.join(plain, 'pool'))
        say(f'left in the directory: {os.listdir(plain)}')
        must('umount', plain)


if __name__ == '__main__':
    main({f.__name__: f for f in (two_mounts, damaged_superblock, repaired_superblock, wrong_version,
                                  truncated_pool, damaged_metadata, no_pool, full_pool,
                                  read_only_pool, no_fallocate)}, timeout=60)
