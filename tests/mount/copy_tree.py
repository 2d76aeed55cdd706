# SPDX-License-Identifier: BSD-3-Clause
"""`cp -a` of real files, at least 2,000 and 500 MB, onto the mount while the worker is killed ten
times: cp says nothing, and every file equals its source, before and after a full stop."""
import os
import stat
import subprocess
import tempfile
import time

from mountlib import MIB, Bartender, check, main, say, spread

FILES, BYTES, KILLS = 2000, 500 * 1000 * 1000, 10


def measure(path):
    files = size = 0
    for root, _, names in os.walk(path):
        for name in names:
            st = os.lstat(os.path.join(root, name))
            if stat.S_ISREG(st.st_mode):
                files += 1
                size += st.st_size
    return files, size


def sources():
    """/usr/include and as many directories of /usr/lib and /usr/share as it takes."""
    chosen, files, size = [], 0, 0
    candidates = ['/usr/include']
    for parent in ('/usr/lib', '/usr/lib/x86_64-linux-gnu', '/usr/share', '/usr/bin'):
        if os.path.isdir(parent):
            entries = [os.path.join(parent, n) for n in sorted(os.listdir(parent))]
            candidates += [p for p in entries if not os.path.islink(p)]
    names = set()
    for path in candidates:
        if files >= FILES and size >= BYTES:
            break
        covered = any(path == c or path.startswith(c + '/') or c.startswith(path + '/') for c in chosen)
        if covered or os.path.basename(path) in names:
            continue
        more_files, more = (measure(path) if os.path.isdir(path) else (1, os.lstat(path).st_size))
        if more > 400 * MIB:
            continue
        chosen.append(path)
        names.add(os.path.basename(path))
        files, size = files + more_files, size + more
    check(files >= FILES and size >= BYTES, f'this machine has only {files} files, {size} bytes')
    say(f'{len(chosen)} trees, {files} files, {size / 1e6:.0f} MB')
    return chosen


def same(source, copy):
    """Compares one entry; returns whether it is a regular file."""
    a, b = os.lstat(source), os.lstat(copy)
    for field in ('st_mode', 'st_uid', 'st_gid', 'st_mtime_ns'):
        check(getattr(a, field) == getattr(b, field), f'{field} of {copy} is not that of its source')
    if stat.S_ISLNK(a.st_mode):
        check(os.readlink(source) == os.readlink(copy), f'{copy} points elsewhere')
    if not stat.S_ISREG(a.st_mode):
        return False
    check(a.st_size == b.st_size, f'the size of {copy} is not that of its source')
    with open(source, 'rb', buffering=0) as one, open(copy, 'rb', buffering=0) as two:
        while True:
            expected = one.read(MIB)
            check(expected == two.read(MIB), f'the content of {copy} is not that of its source')
            if not expected:
                return True


def compare(chosen, target):
    """Every entry of the sources is in the copy, equal, and nothing else is; the regular files."""
    files = 0
    for top in chosen:
        copy_top = os.path.join(target, os.path.basename(top))
        files += same(top, copy_top)
        for root, dirs, names in os.walk(top):
            copy_root = copy_top + root[len(top):]
            check(sorted(dirs + names) == sorted(os.listdir(copy_root)),
                  f'{copy_root} has not the entries of its source')
            files += sum(same(os.path.join(root, n), os.path.join(copy_root, n)) for n in dirs + names)
    return files


def copy_with_kills(b, chosen, target, pause):
    with tempfile.TemporaryFile() as output:
        cp = subprocess.Popen(['cp', '-a', *chosen, target], stdout=output, stderr=output)
        downtimes = []
        while cp.poll() is None and len(downtimes) < KILLS:
            time.sleep(pause)
            if cp.poll() is None:
                downtimes.append(b.kill_worker())
        check(cp.wait(300) == 0, 'cp failed')
        output.seek(0)
        text = output.read().decode(errors='replace')
        check(text == '', f'cp should have been silent, it said:\n{text}')
    return downtimes


def copy():
    chosen = sources()
    with Bartender('2G') as b:
        # A fast machine may end the copy before the tenth kill: again, with shorter pauses.
        for pause in (0.3, 0.1, 0.03):
            target = b.path(f'copy{pause}')
            os.mkdir(target)
            downtimes = copy_with_kills(b, chosen, target, pause)
            if len(downtimes) >= KILLS:
                break
            must_remove(target)
        check(len(downtimes) >= KILLS, f'only {len(downtimes)} kills before cp was done')
        say(f'{len(downtimes)} kills during cp; back in service after {spread(downtimes)} ms')
        say(f'{compare(chosen, target)} files equal their sources')
        b.umount()
        b.check_pool()
        b.mount()
        say(f'{compare(chosen, target)} files equal their sources after a cold mount')


def must_remove(path):
    check(subprocess.run(['rm', '-r', path], check=False).returncode == 0, f'rm -r {path} failed')


if __name__ == '__main__':
    main({'copy': (copy, 300)})
