#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""A C project on a cluster: its sources are unpacked at node 1, which is their home, built at node 2, and the
programs run at node 3."""
import glob
import os
import shutil
import time

from clusterlib import Cluster
from mountlib import BUILD, Skip, check, main, must, random_bytes, say, wait_until

# Where .ci/lib/project.sh puts them.
SOURCE = os.environ.get('BTD_PROJECT') or os.path.join(os.path.dirname(BUILD), 'project', 'src')


def homes(path):
    """Of all files below: home -> how many."""
    found = {}
    for base, _, names in os.walk(path):
        for name in names:
            file = os.path.join(base, name)
            if not os.path.islink(file):
                home = os.getxattr(file, 'user.btd.home').decode()
                found[home] = found.get(home, 0) + 1
    return found


def run_at(directory, command, what):
    begun = time.monotonic()
    text = must('sh', '-e', '-c', command, cwd=directory, timeout=200)
    say(f'    {what}: {time.monotonic() - begun:.1f} s')
    return text


def project():
    described = glob.glob(os.path.join(SOURCE, 'zlib*.dsc'))
    if not described or not shutil.which('dpkg-source'):
        raise Skip("the source of zlib is not in build/project; ./bootstrap test fetches it from Debian's archive")
    with Cluster(3) as c:
        one, two, three = (c.path(node, 'zlib') for node in (1, 2, 3))
        run_at(c.path(1), f'dpkg-source --extract --no-check {described[0]} {one}', 'unpacked at n1')
        sources = homes(one)
        check(len(sources) == 1, f'the sources have homes {sources}')
        wait_until(lambda: os.path.exists(os.path.join(two, 'configure')), 10, 'the sources at n2')
        run_at(two, './configure && make -j2 && make test', 'built and tested at n2')
        wait_until(lambda: os.path.exists(os.path.join(three, 'minigzip')), 10, 'the program at n3')
        wait_until(lambda: sorted(os.listdir(three)) == sorted(os.listdir(two)), 10, 'what n2 made at n3')
        built = homes(three)
        check(len(built) == 2, f'the sources had homes {sources}, and with what was built {built}')
        # What node 3 runs has its text at node 2, and reads what lies at node 1.
        check('version' in must(os.path.join(three, 'example'), cwd=three), 'the example says nothing')
        data = random_bytes(1 << 20, 1) + bytes(1 << 20)
        with open(os.path.join(one, 'data'), 'wb') as f:
            f.write(data)
        wait_until(lambda: os.path.exists(os.path.join(three, 'data')), 10, 'the data at n3')
        run_at(three, './minigzip data && ./minigzip -d data.gz', 'packed and unpacked at n3')
        number = lambda at: os.stat(os.path.join(at, 'data')).st_ino if 'data' in os.listdir(at) else 0
        wait_until(lambda: number(one) == number(three), 10, 'what n3 made at n1')
        with open(os.path.join(one, 'data'), 'rb') as f:
            check(f.read() == data, 'what n3 unpacked is not what n1 wrote')
        say(f'    files by home: {built}')


if __name__ == '__main__':
    main({'project': project}, timeout=280)
