# SPDX-License-Identifier: BSD-3-Clause
"""Space, idleness, clean and unclean ends, cold mounts, and memory."""
import errno
import json
import os
import signal
import subprocess
import sys
import time

from mountlib import (BTD, Bartender, MIB, alive, check, is_mounted, main, mounts_below, must, refuse, run,
                      say, wait_until)


def space(path):
    st = os.statvfs(path)
    return st.f_blocks * st.f_frsize, st.f_bavail * st.f_frsize


def df():
    """The mount, the pool and `btd df` agree, before and after a file takes 64 MiB."""
    with Bartender('256M') as b:
        seen = []
        for size in (0, 64 * MIB):
            with open(b.path('file'), 'wb') as f:
                f.write(b'x' * size)
            told = json.loads(must(BTD, 'df', b.mnt, '--json'))
            check(space(b.mnt) == space(b.pool) == (told['size'], told['available']),
                  f'mount {space(b.mnt)}, pool {space(b.pool)}, btd df {told}')
            check(told['size'] == 256 * MIB, f'formatted with 256 MiB, but has {told["size"]}')
            check(b.status()['space']['free_bytes'] == told['available'], 'status tells another number')
            seen.append(told['available'])
        taken = seen[0] - seen[1]
        check(64 * MIB <= taken < 66 * MIB, f'64 MiB of content took {taken} bytes')
        say(f'a fresh pool of 256 MiB has {seen[0] / MIB:.1f} MiB available')


def switches(pids):
    """Context switches of each thread so far."""
    counts = {}
    for pid in pids:
        for tid in os.listdir(f'/proc/{pid}/task'):
            with open(f'/proc/{pid}/task/{tid}/status') as f:
                counts[tid] = sum(int(line.split()[1]) for line in f if 'ctxt_switches' in line)
    return counts


def idle():
    """Five seconds without a request: no thread of the daemon runs."""
    with Bartender() as b:
        for i in range(200):
            with open(b.path(f'f{i}'), 'w') as f:
                f.write('x')
        pids = (b.worker, b.supervisor)
        wait_until(lambda: quiet_for(pids, 1), 20, 'a quiet second after work')
        before = switches(pids)
        time.sleep(5)
        after = switches(pids)
        woken = {t: after[t] - before.get(t, 0) for t in after if after[t] != before.get(t, 0)}
        say(f'{len(after)} threads, {sum(woken.values())} wake-ups in 5 s')
        check(not woken and len(after) >= 2, f'threads that ran although nobody asked: {woken}')


def quiet_for(pids, seconds):
    before = switches(pids)
    time.sleep(seconds)
    return before == switches(pids)


def unlinked():
    """Open files without a name survive a new worker, and end with the mount, however it ends."""
    with Bartender('256M') as b:
        free = space(b.mnt)[1]
        f = open(b.path('secret'), 'wb+')
        f.write(b's' * (32 * MIB))
        f.flush()
        os.unlink(b.path('secret'))
        nameless = os.open(b.mnt, os.O_TMPFILE | os.O_RDWR)
        os.write(nameless, b'n' * MIB)
        b.kill_worker()
        f.seek(31 * MIB)
        check(f.read() == b's' * MIB, 'an open file without a name lost its content')
        check(os.pread(nameless, MIB, 0) == b'n' * MIB, 'a nameless file lost its content')
        check(os.fstat(f.fileno()).st_nlink == 0, 'st_nlink of a file without a name is not 0')
        check(space(b.mnt)[1] < free - 32 * MIB, 'the space of an open file was given back')
        b.kill_all()
        f.close()
        os.close(nameless)
        b.mount()
        wait_until(lambda: space(b.mnt)[1] >= free - 2 * MIB, 10, 'the return of the space')
        check(os.listdir(b.mnt) in ([], ['.btd']), f'left: {os.listdir(b.mnt)}')
        b.umount()
        b.check_pool()


def closed_unlinked():
    """A file that is unlinked while open gives its space back at the close, in the new worker too."""
    with Bartender('256M') as b:
        free = space(b.mnt)[1]
        with open(b.path('secret'), 'wb') as f:
            f.write(b's' * (32 * MIB))
            f.flush()
            os.unlink(b.path('secret'))
            b.kill_worker()
        wait_until(lambda: space(b.mnt)[1] >= free - 2 * MIB, 10, 'the return of the space')


def make_files(b, total, per_directory=10_000):
    """Makes empty files by two processes; returns how long it took."""
    code = ('import os,sys\n'
            'base,first,last=sys.argv[1],int(sys.argv[2]),int(sys.argv[3])\n'
            'for d in range(first,last):\n'
            '    os.mkdir(f"{base}/d{d}")\n'
            '    fd=os.open(f"{base}/d{d}",os.O_RDONLY)\n'
            f'    for i in range({per_directory}):\n'
            '        os.close(os.open(f"file{i}",os.O_CREAT|os.O_EXCL|os.O_WRONLY,0o644,dir_fd=fd))\n'
            '    os.close(fd)\n')
    start = time.monotonic()
    dirs = total // per_directory
    halves = [(0, dirs // 2), (dirs // 2, dirs)]
    makers = [subprocess.Popen([sys.executable, '-c', code, b.mnt, str(first), str(last)])
              for first, last in halves]
    check(all(m.wait() == 0 for m in makers), 'making files failed')
    return time.monotonic() - start


def cold_mount():
    """100,000 files, everything killed: the first open is answered within a second."""
    total = int(os.environ.get('BTD_COLD_FILES', '100000'))
    with Bartender('1G') as b:
        with open(b.path('marker'), 'w') as f:
            f.write('here')
        say(f'{total} files made in {make_files(b, total):.1f} s')
        b.kill_all()
        start = time.monotonic()
        must(BTD, 'mount', b.pool, b.mnt)
        mounted = time.monotonic() - start
        with open(b.path('marker')) as f:
            check(f.read() == 'here', 'the marker has another content')
        first = time.monotonic() - start
        b.read_pids()
        say(f'cold mount after a crash: {mounted * 1000:.0f} ms, first open {first * 1000:.0f} ms')
        check(first <= 1.0, f'the first open took {first:.2f} s')
        names = sum(len(os.listdir(b.path(f'd{d}'))) for d in range(total // 10_000))
        check(names == total, f'{names} of {total} files are there')
        b.umount()
        b.check_pool()


def memory():
    """A million files: what the daemon keeps in memory and the pool in metadata. Takes minutes."""
    total = int(os.environ.get('BTD_MEMORY_FILES', '1000000'))
    with Bartender('4G') as b:
        say(f'{total} files made in {make_files(b, total):.0f} s')
        with open(f'/proc/{b.worker}/status') as f:
            sizes = {line.split(':')[0]: int(line.split()[1]) / 1024 for line in f
                     if line.startswith(('VmRSS', 'RssAnon', 'RssFile', 'RssShmem'))}
        used = b.status()['meta']['used_bytes']
        say(f'worker: {sizes["RssAnon"]:.0f} MiB of its own, {sizes["VmRSS"]:.0f} MiB resident with '
            f'the mapped pool; metadata: {used / total:.0f} bytes a file')
        check(sizes['RssAnon'] <= 300, f'the worker keeps {sizes["RssAnon"]:.0f} MiB')
        check(used / total <= 512, f'metadata takes {used / total:.0f} bytes a file')
        started = time.monotonic()
        b.umount()
        b.mount()
        say(f'stop and cold mount: {time.monotonic() - started:.2f} s')


def stop_by_signal():
    """SIGTERM to the supervisor, and to the worker, unmounts and closes cleanly."""
    with Bartender() as b:
        with open(b.path('kept'), 'w') as f:
            f.write('kept')
        os.kill(b.supervisor, signal.SIGTERM)
        b.wait_gone()
        check(not is_mounted(b.mnt), 'the daemon ended and its mount is still there')
        check(not os.listdir(b.mnt), 'the mount point is not empty')
        b.check_pool()
        b.mount()
        with open(b.path('kept')) as f:
            check(f.read() == 'kept', 'the content did not survive')


def reload_by_signal():
    """SIGHUP re-reads the log level and disturbs nobody."""
    with Bartender() as b:
        os.kill(b.supervisor, signal.SIGHUP)
        with open(b.path('file'), 'w') as f:
            f.write('x')
        worker = b.worker
        b.read_pids()
        check(worker == b.worker and alive(b.supervisor), 'SIGHUP ended the daemon')


def busy_umount():
    """Somebody uses the mount: umount says so and disturbs nobody."""
    with Bartender() as b:
        with open(b.path('open'), 'w') as f:
            f.write('before ')
            f.flush()
            refuse(75, ['in use', b.mnt], BTD, 'umount', b.mnt)
            f.write('after')
        with open(b.path('open')) as f:
            check(f.read() == 'before after', 'the refused umount disturbed a writer')
        must(BTD, 'umount', b.mnt)
        b.wait_gone()
        check(not is_mounted(b.mnt), 'it is still mounted')
        refuse(66, [b.mnt], BTD, 'umount', b.mnt)


def plain_umount():
    """umount(8) works as well."""
    with Bartender() as b:
        with open(b.path('kept'), 'w') as f:
            f.write('kept')
        must('umount', b.mnt)
        b.wait_gone()
        b.check_pool()
        b.mount()
        check(os.path.exists(b.path('kept')), 'the file is gone')


def dead_mount():
    """All processes were killed: mount and umount deal with what they left, also where it is in use."""
    with Bartender() as b:
        with open(b.path('kept'), 'w') as f:
            f.write('kept')
        with open(b.path('kept')):
            b.kill_all(detach=False)
            check(is_mounted(b.mnt), 'the dead mount is gone by itself')
            b.mount()
            check(len(mounts_below(b.mnt)) == 1, 'the dead mount is still there')
            with open(b.path('kept')) as f:
                check(f.read() == 'kept', 'the file is gone')
        with open(b.path('kept')):
            b.kill_all(detach=False)
            said = run(BTD, 'umount', b.mnt)
            check(said.code == 0 and 'no daemon' in said.text, f'umount of a dead mount: {said.text}')
            check(not is_mounted(b.mnt), 'it is still mounted')
        b.check_pool()
        b.mount()


def replaced_pool():
    """A mount goes on whose pool's path another pool has now: it is not taken for a dead one of that."""
    with Bartender() as b:
        with open(b.path('kept'), 'w') as f:
            f.write('kept')
        must('umount', '-l', b.pool)
        must(BTD, 'format', b.pool, '--emulate', 'ram', '--size', '64M')
        other = os.path.join(b.base, 'other')
        os.mkdir(other)
        must(BTD, 'mount', b.pool, other)
        check('kept' not in os.listdir(other), 'both mounts are of one pool')
        with open(b.path('kept')) as f:
            check(f.read() == 'kept', 'the first mount is not served any more')
        with open(os.path.join(other, 'new'), 'w') as f:
            f.write('new')
        refuse(64, ['left mounted', 'another pool'], BTD, 'umount', '--pool', b.mnt)
        start = time.monotonic()
        said = run(BTD, 'umount', b.mnt)
        check(said.code == 0 and 'no daemon' not in said.text, f'umount of a mount that is served: {said.text}')
        check(time.monotonic() - start < 30, 'it waits for the daemon of the other pool')
        with open(os.path.join(other, 'new')) as f:
            check(f.read() == 'new', 'the other pool is gone')
        must(BTD, 'umount', '--pool', other)
        check(not is_mounted(b.pool), 'the pool is still there')


def virtual_directory():
    """/.btd and the read-only attributes."""
    with Bartender() as b:
        with open(b.path('file'), 'w') as f:
            f.write('x')
        for name in ('status', 'status.json', 'trace'):
            with open(b.path('.btd', name)) as f:
                check(f.read(), f'.btd/{name} is empty')
        for name in ('home', 'mode', 'backing', 'id'):
            value = os.getxattr(b.path('file'), f'user.btd.{name}')
            check(value, f'user.btd.{name} is empty')
            try:
                os.setxattr(b.path('file'), f'user.btd.{name}', b'other')
                accepted = name != 'mode'
            except OSError:
                accepted = False
            check(not accepted, f'user.btd.{name} could be changed')
        backing = os.getxattr(b.path('file'), 'user.btd.backing').decode()
        with open(os.path.join(b.pool, backing)) as f:
            check(f.read() == 'x', 'user.btd.backing names another file')
        status = json.loads(must(BTD, 'status', '--json', b.mnt))
        check(status['pool']['path'] == b.pool, f'status tells of another pool: {status["pool"]}')
        say(f'passthrough {status["passthrough"]}, {status["nvram"]}')
        check(status['passthrough']['active'], 'no passthrough although root mounted it')


def virtual_text_of_a_killed_worker():
    """Who reads a text of /.btd while its worker is replaced never gets two texts as one."""
    with Bartender() as b:
        files = [os.open(b.path('.btd', 'status.json'), os.O_RDONLY) for _ in range(3)]
        middle, end, begin = files
        os.pread(middle, 16, 0)
        whole = os.pread(end, 1 << 20, 0)
        b.kill_worker()
        try:
            os.pread(middle, 1 << 20, 16)
            check(False, 'the rest of a text came from another worker')
        except OSError as e:
            check(e.errno == errno.ESTALE, f'the middle of a lost text: {e}')
        check(os.pread(end, 1 << 20, len(whole)) == b'', 'there is more behind the end of a text')
        fresh = os.pread(begin, 1 << 20, 0)
        check(json.loads(fresh)['pool']['path'] == b.pool, 'the text of now is another')
        again = os.pread(begin, 1 << 20, 8)
        check(again == fresh[8:], 'the text changed while it was read')
        for file in files:
            os.close(file)


if __name__ == '__main__':
    main({
        'virtual_text_of_a_killed_worker': virtual_text_of_a_killed_worker,
        'df': df, 'idle': idle, 'unlinked': unlinked, 'closed_unlinked': closed_unlinked,
        'cold_mount': (cold_mount, 180), 'memory': (memory, 1800), 'stop_by_signal': stop_by_signal,
        'reload_by_signal': reload_by_signal, 'busy_umount': busy_umount,
        'plain_umount': plain_umount, 'dead_mount': dead_mount, 'replaced_pool': replaced_pool, 'virtual_directory': virtual_directory,
    }, timeout=90)
