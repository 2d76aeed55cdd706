# SPDX-License-Identifier: BSD-3-Clause
"""Backing files over the mount's socket: who may have one gets it with the access of its open file,
nobody else does, and no client can hold the daemon. The client here is written from
alloc/backing_protocol.h by itself, so that both sides of libbtd's are checked against it."""
import array
import contextlib
import errno
import fcntl
import mmap
import os
import signal
import socket
import stat
import struct
import threading
import time

from mountlib import Bartender, check, main, must, say, wait_until

MAGIC, VERSION = 0x42647462, 1
TAKE_TICKET = 2 << 30 | 16 << 16 | ord('b') << 8 | 0x71
NOBODY = 65534
HEAP_MAPS = os.environ.get('BTD_HEAP_MAPS', '')


class Refused(Exception):
    def __init__(self, code, text):
        super().__init__(f'{errno.errorcode.get(code, code)}: {text}')
        self.code, self.text = code, text


def take_ticket(fd):
    return fcntl.ioctl(fd, TAKE_TICKET, bytes(16))


def socket_of(path):
    return os.getxattr(path, 'user.btd.socket').decode()


def connect(where, timeout=3):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
        s.setsockopt(socket.SOL_SOCKET, option, struct.pack('ll', timeout, 0))
    s.connect(where)
    return s


def ask_message(ticket, version=VERSION):
    return struct.pack('<II', MAGIC, version) + ticket


def send(where, message, descriptors=()):
    """One message; the descriptor that comes back, or Refused."""
    with connect(where) as s:
        extra = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', descriptors))]
        s.sendmsg([message], extra if descriptors else [])
        answer, fds, _, _ = socket.recv_fds(s, 200, 4)
    check(len(answer) == 128, f'an answer of {len(answer)} bytes')
    magic, version, error, length = struct.unpack_from('<IIiI', answer)
    check((magic, version) == (MAGIC, VERSION) and length <= 112, 'the answer is damaged')
    if error != 0:
        check(not fds and length > 0, 'a refusal without a sentence, or with a descriptor')
        raise Refused(error, answer[16:16 + length].decode())
    check(len(fds) == 1, f'{len(fds)} descriptors')
    return fds[0]


def backing_of(fd, where):
    return send(where, ask_message(take_ticket(fd)))


def backing_beside_others(fd, where):
    """As libbtd: a connection that others displaced before it could ask is made again."""
    for _ in range(5):
        try:
            return backing_of(fd, where)
        except (BrokenPipeError, ConnectionResetError):
            pass
    raise AssertionError('displaced five times')


def refuses(code, call, *arguments):
    try:
        call(*arguments)
    except Refused as refusal:
        check(refusal.code == code, f'expected {errno.errorcode[code]}, got {refusal}')
        say(f'refused as it should: {refusal}')
    except OSError as error:
        check(error.errno == code, f'expected {errno.errorcode[code]}, got {error}')
    else:
        check(False, f'expected {errno.errorcode[code]}, and it was granted')


@contextlib.contextmanager
def opened(path, flags, mode=0o644):
    fd = os.open(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


def access_of(fd):
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE


def as_nobody(body):
    """Runs `body` in a child that is nobody; passes its failure on."""
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        code = 1
        try:
            body()
            code = 0
        except BaseException as error:  # the parent has to hear of it
            say(f'as nobody: {type(error).__name__}: {error}')
        os._exit(code)
    check(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, 'it failed as nobody')


def descriptors_of(pid):
    return len(os.listdir(f'/proc/{pid}/fd'))


def one_view(path, where, backing_path=None):
    """A file open for both gets a descriptor for both, and its two mappings are one."""
    with open(path, 'r+b') as f:
        fd = backing_of(f.fileno(), where)
        check(access_of(fd) == os.O_RDWR, 'not for both')
        if backing_path:
            check(os.path.samestat(os.fstat(fd), os.stat(backing_path)), 'another file')
        with mmap.mmap(fd, 4096) as ours, mmap.mmap(f.fileno(), 4096) as theirs:
            ours[0:4] = b'ours'
            theirs[4:8] = b'them'
            check(theirs[0:4] == b'ours' and ours[4:8] == b'them', 'two views of one file')
        os.pwrite(fd, b'by write', 100)
        check(os.pread(f.fileno(), 8, 100) == b'by write', 'the write is not seen')
        os.close(fd)


def never_more(path, where):
    """What is open for one is passed on for one, and the name in /proc gives no more."""
    with opened(path, os.O_RDONLY) as reader:
        fd = backing_of(reader, where)
    os.pread(fd, 8, 0)
    refuses(errno.EBADF, os.pwrite, fd, b'x', 0)
    try:
        mmap.mmap(fd, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        check(False, 'a reader has a writable mapping')
    except PermissionError:
        pass
    if os.geteuid() != 0:
        refuses(errno.EACCES, os.open, f'/proc/self/fd/{fd}', os.O_RDWR)
        refuses(errno.EPERM, os.fchmod, fd, 0o777)
    os.close(fd)
    with opened(path, os.O_WRONLY) as writer:
        fd = backing_of(writer, where)
    os.pwrite(fd, b'x', 200)
    refuses(errno.EBADF, os.pread, fd, 1, 0)
    os.close(fd)
    if os.geteuid() == 0:
        with opened(path, 3) as neither:  # Linux's mode for ioctl alone
            refuses(errno.EBADF, take_ticket, neither)


def make(b, name, mode=0o644):
    path = b.path(name)
    with open(path, 'wb') as f:
        f.write(bytes(8192))
        fd = backing_of(f.fileno(), socket_of(path))  # of the open that made it
        check(access_of(fd) == os.O_WRONLY, 'not as it was made')
        os.close(fd)
    os.chmod(path, mode)
    return path


def granted():
    with Bartender() as b:
        mine, shared = make(b, 'mine'), make(b, 'shared', 0o666)
        where = socket_of(mine)
        check('user.btd.socket' in os.listxattr(mine), 'the attribute is not listed')
        refuses(errno.EPERM, os.setxattr, mine, 'user.btd.socket', b'/tmp/mine')
        directory = os.stat(os.path.dirname(where))
        check(directory.st_uid == 0 and directory.st_mode & 0o022 == 0, 'others can replace it')
        backing_path = os.path.join(b.pool, os.getxattr(mine, 'user.btd.backing').decode())
        one_view(mine, where, backing_path)
        never_more(mine, where)

        def nobody():
            one_view(shared, where)
            never_more(shared, where)
            refuses(errno.EACCES, os.open, mine, os.O_RDWR)
            with opened(mine, os.O_RDONLY) as fd:
                check(access_of(backing_of(fd, where)) == os.O_RDONLY, 'nobody may write it')

        as_nobody(nobody)
        with opened(b.mnt, os.O_TMPFILE | os.O_RDWR) as nameless:
            os.ftruncate(nameless, 4096)
            fd = backing_of(nameless, where)
            check(os.fstat(fd).st_size == 4096, 'a file without a name')
            os.close(fd)


def refused():
    with Bartender() as b:
        path = make(b, 'file')
        where = socket_of(path)
        f = os.open(path, os.O_RDWR)
        refuses(errno.EKEYEXPIRED, send, where, ask_message(os.urandom(16)))
        refuses(errno.EKEYEXPIRED, send, where, ask_message(bytes(16)))
        ticket = take_ticket(f)
        os.close(send(where, ask_message(ticket)))
        refuses(errno.EKEYEXPIRED, send, where, ask_message(ticket))
        late = take_ticket(f)
        for code, name, flags in ((errno.ENOTTY, os.path.join(b.base, 'elsewhere'), os.O_CREAT),
                                  (errno.ENOTTY, b.path('.btd', 'status'), os.O_RDONLY),
                                  (errno.EINVAL, b.mnt, os.O_RDONLY),
                                  (errno.EBADF, path, os.O_PATH)):
            with opened(name, flags) as other:
                refuses(code, take_ticket, other)
        refuses(errno.ENOTTY, fcntl.ioctl, f, 0x5401, bytes(64))  # TCGETS
        refuses(errno.ENODATA, os.getxattr, b.mnt, 'user.btd.socket')

        early = take_ticket(f)
        os.chmod(path, 0o4755)
        refuses(errno.EPERM, take_ticket, f)
        refuses(errno.EPERM, send, where, ask_message(early))
        os.chmod(path, 0o644)
        opens = b.status()['files']['opens']
        gone = os.open(b.path('gone'), os.O_RDWR | os.O_CREAT)
        os.unlink(b.path('gone'))
        os.close(backing_of(gone, where))
        ticket = take_ticket(gone)
        os.close(gone)
        wait_until(lambda: b.status()['files']['opens'] == opens, 5, 'the release')
        refuses(errno.ESTALE, send, where, ask_message(ticket))
        time.sleep(5.1)
        refuses(errno.EKEYEXPIRED, send, where, ask_message(late))
        os.close(f)
    with Bartender(options=['nopassthrough']) as b:
        with open(b.path('file'), 'wb') as f:
            refuses(errno.ENODATA, os.getxattr, b.path('file'), 'user.btd.socket')
            refuses(errno.EOPNOTSUPP, take_ticket, f.fileno())


def silent(where, count):
    """Connections that say nothing, made by a thread: a full backlog makes them wait."""
    made = []

    def connect_all():
        for _ in range(count):
            try:
                made.append(connect(where, timeout=10))
            except OSError:
                pass

    thread = threading.Thread(target=connect_all)
    thread.start()
    return thread, made


def hostile():
    """Whatever comes to the socket: the daemon goes on serving, and keeps nothing of it."""
    with Bartender() as b:
        path = make(b, 'file', 0o666)
        where = socket_of(path)
        f = os.open(path, os.O_RDWR)
        os.close(backing_of(f, where))
        time.sleep(0.1)  # for the daemon to close its end
        before = descriptors_of(b.worker)
        for message in (b'x', bytes(24), b'\xff' * 24, bytes(23), bytes(25), os.urandom(65536)):
            refuses(errno.EPROTO, send, where, message)
        refuses(errno.EPROTONOSUPPORT, send, where, ask_message(take_ticket(f), version=2))

        # A descriptor comes with it: newer kernels refuse to send it, else the daemon refuses it.
        for message in (ask_message(take_ticket(f)), b'x'):
            try:
                send(where, message, [f] * 3)
                check(False, 'a message with descriptors was granted')
            except Refused as refusal:
                check(refusal.code == errno.EPROTO, str(refusal))
            except PermissionError:
                say('the kernel refuses to send descriptors there')
        with connect(where) as s:
            s.sendmsg([ask_message(take_ticket(f))])  # and does not wait for the answer

        quiet = connect(where)
        start = time.monotonic()
        check(quiet.recv(1) == b'', 'the daemon said something')
        check(0.5 < time.monotonic() - start < 2.5, 'a silent client is not given a second')
        quiet.close()

        thread, made = silent(where, 100)
        start = time.monotonic()
        for _ in range(20):
            os.close(backing_beside_others(f, where))
            os.stat(b.path('file'))
        say(f'20 descriptors beside 100 silent clients: {(time.monotonic() - start) * 1000:.0f} ms')
        thread.join()
        check(len(made) == 100, f'{len(made)} of 100 connections')
        check(descriptors_of(b.worker) <= before + 17, 'more than 16 are kept, and one new')
        wait_until(lambda: descriptors_of(b.worker) <= before, 5, 'the end of the silent clients')
        for s in made:
            s.close()

        def many():
            many_at_once(path, where)

        as_nobody(many)
        wait_until(lambda: descriptors_of(b.worker) <= before, 5, 'the end of the connections')
        with open(f'/proc/{b.worker}/stat') as status:
            ticks = sum(map(int, status.read().rsplit(')', 1)[1].split()[11:13]))
        time.sleep(1)
        with open(f'/proc/{b.worker}/stat') as status:
            now = sum(map(int, status.read().rsplit(')', 1)[1].split()[11:13]))
        check(now - ticks <= 2, f'the idle worker used {now - ticks} ticks in a second')
        os.close(f)


def many_at_once(path, where):
    """100 clients with tickets. One that is displaced, or whose ticket is, hears it or is cut off."""
    results = []

    def one():
        fd = os.open(path, os.O_RDWR)
        try:
            os.close(backing_of(fd, where))
            results.append('granted')
        except (Refused, OSError, AssertionError) as error:
            results.append(str(error))
        os.close(fd)

    threads = [threading.Thread(target=one) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    granted_count = results.count('granted')
    say(f'{granted_count} of 100 clients at once were granted')
    check(len(results) == 100, f'{100 - len(results)} clients hang')
    check(granted_count >= 50, f'only {granted_count} were granted: {set(results)}')


def heap():
    """A heap of libbtd on the mount maps the backing files, finds itself again when the worker was
    killed, and falls back to the mount's files where there is no socket."""
    with Bartender('512M') as b:
        environment = {**os.environ, 'BTD_POOL': b.mnt}
        runs = 0

        def run_once(place):
            nonlocal runs
            runs += 1
            count, files = must(HEAP_MAPS, env=environment).split('\n', 1)
            check(int(count) == runs, f'run {runs} found the count {count}')
            files = files.split()
            check(files, 'the heap is not mapped')
            check(all(f.startswith(place) for f in files), f'mapped from {set(files)}')

        data = os.path.join(b.pool, 'data') + '/'
        run_once(data)
        arena = next(os.path.join(d, 'arena.0') for d, _, names in os.walk(b.mnt)
                     if 'arena.0' in names)
        where = socket_of(arena)
        for _ in range(5):
            b.kill_worker()
            run_once(data)
        os.unlink(where)
        run_once(b.mnt)
        dead = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        dead.bind(where)  # nobody listens
        run_once(b.mnt)
        dead.listen(1)  # somebody listens, and never answers
        start = time.monotonic()
        run_once(b.mnt)
        check(time.monotonic() - start < 4, 'a silent daemon is waited for too long')
        dead.close()
        b.kill_worker()
        run_once(data)
        b.umount()
        b.check_pool()


def killed():
    """Tickets end with the worker that gave them; its socket is made anew; nothing stays behind."""
    with Bartender() as b:
        path = make(b, 'file')
        where = socket_of(path)
        f = os.open(path, os.O_RDWR)
        kept = backing_of(f, where)
        for _ in range(10):
            ticket = take_ticket(f)
            b.kill_worker()
            check(socket_of(path) == where, 'the socket has another name')
            refuses(errno.EKEYEXPIRED, send, where, ask_message(ticket))
            os.close(backing_of(f, where))
        os.pwrite(kept, b'kept', 0)
        check(os.pread(f, 4, 0) == b'kept', 'the descriptor is of another file')
        quiet = connect(where)  # a worker that is killed beside a client that waits
        b.kill_worker()
        os.close(backing_of(f, where))
        quiet.close()
        os.kill(b.supervisor, signal.SIGUSR2)
        old = b.worker

        def replaced():
            b.read_pids()
            return b.worker != old

        wait_until(replaced, 20, 'the replacement of the worker')
        os.close(backing_of(f, where))
        os.close(f)
        os.close(kept)
        b.umount()
        check(not os.path.exists(where), 'the socket stays after unmounting')
        b.mount()
        b.kill_all()
        b.mount()
        where = socket_of(path)
        with open(path, 'r+b') as again:
            os.close(backing_of(again.fileno(), where))
        b.umount()
        check(not os.path.exists(where), 'the socket stays after unmounting')
        b.mount()
        os.kill(b.supervisor, signal.SIGTERM)
        b.wait_gone()
        check(not os.path.exists(where), 'the socket stays after a signal')
        check(stat.S_ISDIR(os.stat(os.path.dirname(where)).st_mode), 'no directory of sockets')


if __name__ == '__main__':
    main({f.__name__: f for f in (granted, refused, hostile, heap, killed)})
