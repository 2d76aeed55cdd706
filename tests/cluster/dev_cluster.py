#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""btd cluster dev: what it makes, its faults, and that nothing of it stays, whatever happens.

Most of it without daemons: the network and etcd are the subject here, not what nodes do."""
import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import time

from clusterlib import Cluster, end, namespaces
from mountlib import BTD, alive, check, main, must, refuse, run, say, wait_until

BARE = '--without-daemons'
NOBODY = 65534


def network():
    """Three hosts see each other and etcd, and the machine's network sees none of them."""
    with Cluster(3, BARE) as c:
        status = c.status()
        check([n['address'] for n in status['nodes']] == [f'10.93.0.1{i}' for i in (1, 2, 3)],
              f'other addresses: {status["nodes"]}')
        check(status['complete'] and status['etcd'][0]['state'] == 'runs', f'{status["etcd"]}')
        check({h['namespace'] for h in status['etcd'] + status['nodes']} <= namespaces(),
              'a namespace is not there')
        key = os.stat(status['key'])
        check(stat.S_IMODE(key.st_mode) == 0o600 and key.st_size == 32, f'the key is {key}')
        listener = c.echo('n2', '10.93.0.12')
        try:
            for host in ('n1', 'n2', 'n3'):
                check(c.reaches(host, '10.93.0.12'), f'{host} does not reach n2')
                check(c.etcd_is_healthy(host), f'{host} does not reach etcd')
            check(not c.reaches('n1', '10.93.0.13'), 'n3 answers although nothing listens there')
        finally:
            end(listener)
        table = c.must('status')
        for word in ('etcd1', 'n3', '10.93.0.13', 'joined'):
            check(word in table, f'no {word} in:\n{table}')
        check('\x1b' not in table, 'there are colours in a file')


def faults():
    """Each fault is felt where it should be, only there, and ends."""
    with Cluster(3, BARE) as c:
        first = c.host('etcd1')['pid']
        c.must('pause', 'etcd')
        check(c.host('etcd1')['state'] == 'paused', 'it is not told that etcd is paused')
        check(not c.etcd_is_healthy('n1'), 'a paused etcd answers')
        c.must('resume', 'etcd:1')
        check(c.host('etcd1')['state'] == 'runs' and c.etcd_is_healthy('n1'), 'etcd does not go on')

        c.must('kill', 'etcd')
        check(not alive(first), 'etcd lives on')
        check(c.host('etcd1')['state'] == 'dead' and not c.etcd_is_healthy('n1'), 'etcd answers')
        check('start etcd:1' in c.run('pause', 'etcd').text, 'what is dead was paused')
        c.must('kill', 'etcd')
        c.must('start', 'etcd')
        check(c.host('etcd1')['pid'] != first and c.etcd_is_healthy('n1'), 'etcd is not back')

        listener = c.echo('n2', '10.93.0.12')
        try:
            c.must('partition', 'n1')
            check(c.host('n1')['network'] == 'cut', f'{c.host("n1")}')
            check(not c.reaches('n1', '10.93.0.12'), 'n1 reaches n2')
            check(not c.etcd_is_healthy('n1'), 'n1 reaches etcd')
            check(c.reaches('n3', '10.93.0.12') and c.etcd_is_healthy('n3'), 'n3 is cut too')
            c.must('heal', 'n1')
            # A host asks for a hardware address once a second.
            wait_until(lambda: c.reaches('n1', '10.93.0.12') and c.etcd_is_healthy('n1'), 5,
                       'the end of the partition of n1')

            c.must('partition', 'n1', '--from', 'n2')
            c.must('partition', 'n1', '--from', 'n2')
            check(c.host('n2')['network'] == 'cut from n1', f'{c.host("n2")}')
            check(not c.reaches('n1', '10.93.0.12'), 'n1 reaches n2')
            check(c.etcd_is_healthy('n1') and c.reaches('n3', '10.93.0.12'), 'others are cut too')
            c.must('partition', 'n3')
            c.must('heal')
            wait_until(lambda: c.reaches('n1', '10.93.0.12') and c.reaches('n3', '10.93.0.12'), 5,
                       'the end of all partitions')
            check({h['network'] for h in c.status()['nodes']} == {'joined'}, f'{c.status()}')
        finally:
            end(listener)


def members():
    """Three members: one may die, two may not, and together they come back."""
    with Cluster(1, BARE, '--etcd', '3') as c:
        check(all(c.etcd_is_healthy('n1', f'10.93.0.{i}') for i in (1, 2, 3)), 'a member is not well')
        c.must('kill', 'etcd:1')
        wait_until(lambda: c.etcd_is_healthy('n1', '10.93.0.2'), 10, 'another leader')
        c.must('kill', 'etcd:2')
        wait_until(lambda: not c.etcd_is_healthy('n1', '10.93.0.3'), 10, 'the loss of the quorum')
        c.must('start', 'etcd')
        check(all(c.etcd_is_healthy('n1', f'10.93.0.{i}') for i in (1, 2, 3)), 'they are not back')


def leaves_nothing():
    """After `stop` there are logs alone; also of programs that were run in a host."""
    with Cluster(2, BARE) as c:
        pid = c.host('etcd1')['pid']
        guest = c.popen('n2', 'sleep', '600')
        wait_until(lambda: os.readlink(f'/proc/{guest.pid}/ns/net') != os.readlink('/proc/self/ns/net'),
                   5, 'the start of a program in n2')
        c.must('partition', 'n1')
        c.must('pause', 'etcd')
        check('Stopped' in c.stop(), 'stop does not say so')
        check(not alive(pid), 'etcd lives')
        check(guest.wait(5) == -signal.SIGKILL, 'a program lives on in a namespace without a name')
        check(os.listdir(c.dir) == ['etcd.log'], f'left in DIR: {os.listdir(c.dir)}')
        check('no development cluster' in c.must('stop'), 'a second stop found something')
        c.start(BARE)  # the logs are in nobody's way


def nothing_of_others():
    """Everything is killed and in pieces, and pids are other processes' by now."""
    with Cluster(2, BARE) as c:
        status = c.status()
        os.kill(status['etcd'][0]['pid'], signal.SIGKILL)
        must('ip', 'netns', 'delete', status['nodes'][0]['namespace'])
        must('ip', '-n', status['hub'], 'link', 'delete', 'dev', 'n2')
        stranger = subprocess.Popen(['sleep', '600'])
        with open(c.state_file()) as f:
            state = json.load(f)
        for host in state['hosts']:
            host['pid'], host['start'] = stranger.pid, 1
        with open(c.state_file(), 'w') as f:
            json.dump(state, f)
        check({h['state'] for h in c.status()['etcd']} == {'dead'}, 'a stranger is taken for etcd')
        c.must('kill', 'etcd')
        other = os.path.join(c.dir, 'n1-of-others')
        os.mkdir(other)
        c.stop()
        check(stranger.poll() is None, 'a process of others was ended')
        check(os.path.isdir(other), 'a directory of others is gone')
        os.rmdir(other)
        stranger.kill()
        stranger.wait()


def wait_for_start(c, seconds, *options):
    """A start that has run for that long since its first trace."""
    words = c.words('2', *(options or [BARE]))
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_until(lambda: os.path.exists(c.dir), 10, 'a start')
    time.sleep(seconds)
    return process


def read(path):
    """Through a program, which can be ended where the mount hangs."""
    return run('cat', path, timeout=20)


def nodes():
    """Three mounts of one namespace; a node crashes and comes back, another hangs and goes on."""
    with Cluster(3, '--size', '64M') as c:
        mounts = [n['mount'] for n in c.status()['nodes']]
        check(mounts == [os.path.join(c.dir, 'mnt', f'n{i}') for i in (1, 2, 3)], f'{mounts}')
        check(all(n['mounted'] and n['state'] == 'runs' for n in c.status()['nodes']), 'not mounted')
        must('sh', '-c', f'echo first > {mounts[0]}/file')
        for mount in mounts:
            wait_until(lambda m=mount: read(f'{m}/file').text == 'first\n', 5, f'the file at {mount}')

        before = c.users_of('n2')
        check(len(before) >= 2, f'a supervisor and a worker, not {before}')
        c.must('kill', 'n2')
        check(not [p for p in before if alive(p)], 'something of n2 lives on')
        check(c.host('n2')['state'] == 'dead' and c.host('n1')['state'] == 'runs', f'{c.status()}')
        check('not connected' in read(f'{mounts[1]}/file').text, 'a dead node answers')
        must('sh', '-c', f'echo second > {mounts[0]}/file', timeout=20)
        c.must('start', 'n2')
        check(c.host('n2')['mounted'] and read(f'{mounts[1]}/file').text == 'second\n', 'not back')

        c.must('pause', 'n3')
        check({c.state_of(p) for p in c.users_of('n3')} == {'T'}, 'something of n3 runs on')
        c.must('resume', 'n3')
        check(read(f'{mounts[2]}/file').text == 'second\n', 'n3 does not go on')

        busy = os.open(f'{mounts[0]}/file', os.O_RDONLY)
        c.stop()
        try:
            os.close(busy)
        except OSError as error:  # nobody is there to be told
            check(error.errno == errno.ENOTCONN, f'close: {error}')
        check(sorted(os.listdir(c.dir)) == ['etcd.log', 'n1.log', 'n2.log', 'n3.log'],
              f'left: {os.listdir(c.dir)}')


def health():
    """btd cluster health tells nodes that hang, crash, or miss etcd, from those that are well."""
    with Cluster(3) as c:
        def ask(code):
            outcome = c.run('exec', 'n1', '--', BTD, 'cluster', 'health', '--json', '--cluster',
                            os.path.join(c.dir, 'n1', 'cluster.toml'))
            check(outcome.code == code, f'exit code {outcome.code}, not {code}: {outcome.text}')
            return {node['name']: node for node in json.loads(outcome.text)['nodes']}

        check(all(node['state'] == 'well' for node in ask(0).values()), 'a node is not well')
        c.must('pause', 'n2')
        c.must('kill', 'n3')
        said = ask(69)
        check(said['n1']['state'] == 'well', f'n1: {said["n1"]}')
        for name in ('n2', 'n3'):
            check(said[name]['state'] == 'does not answer', f'{name}: {said[name]}')
            check(any('daemon' in why for why in said[name]['why']), f'{name} gives no reason: {said[name]}')
        c.must('resume', 'n2')
        c.must('start', 'n3')
        check(all(node['state'] == 'well' for node in ask(0).values()), 'a node is not well again')


def nodes_killed():
    """kill -9 of every process, and of a start with daemons at any moment."""
    with Cluster(2, '--size', '64M') as c:
        for pid in c.users_of('n1') + c.users_of('n2') + c.users_of('etcd1'):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # a worker ends with its supervisor
        wait_until(lambda: {h['state'] for h in c.status()['nodes']} == {'dead'}, 10, 'the end of all')
        c.stop()
        for milliseconds in (250, 400, 500, 650):
            process = wait_for_start(c, milliseconds / 1000, '--size', '64M')
            process.kill()
            process.communicate()
            c.stop()
            shutil.rmtree(c.dir, ignore_errors=True)
        small = c.run('2', '--size', '4K')
        check(small.code != 0 and not os.path.exists(c.state_file()), f'{small.text}')
        c.traces.check_gone()


def cut_off_start():
    """kill -9 of a start at any moment: `stop` finds all of it."""
    with Cluster(2, BARE, start=False) as c:
        for milliseconds in (0, 1, 3, 6, 10, 20, 30, 50, 80, 400):
            process = wait_for_start(c, milliseconds / 1000)
            process.kill()
            process.wait()
            process.stderr.close()
            if os.path.exists(c.state_file()):
                text = c.run('2', BARE).text
                check('already' in text, f'a start after a start that was cut off: {text}')
            c.stop()
            shutil.rmtree(c.dir, ignore_errors=True)


def fake_etcd(c, script):
    """The directory of an etcd that does that instead."""
    directory = os.path.join(c.base, 'bin')
    os.mkdir(directory)
    program = os.path.join(directory, 'etcd')
    with open(program, 'w') as f:
        f.write(f'#!/bin/sh\n{script}\n')
    os.chmod(program, 0o755)
    return directory


def interrupted_start():
    """Ctrl-C: the start itself removes what it made. Its etcd never gets ready."""
    with Cluster(2, BARE, start=False) as c:
        os.environ['PATH'] = f'{fake_etcd(c, "exec sleep 600")}:{os.environ["PATH"]}'
        for milliseconds in (1, 20, 50, 300):
            process = wait_for_start(c, milliseconds / 1000)
            process.send_signal(signal.SIGINT)
            errors = process.communicate(timeout=40)[1].decode()
            check(process.returncode != 0, 'a start that was interrupted is a success')
            check('interrupted' in errors, f'it says: {errors}')
            check(not os.path.exists(c.state_file()), 'there is still a cluster')
            c.traces.check_gone()
            shutil.rmtree(c.dir, ignore_errors=True)


def failed_start():
    """etcd ends at once: the message has its last words, and nothing stays."""
    with Cluster(2, BARE, start=False) as c:
        fake = fake_etcd(c, 'echo "the disk is full of ants" >&2; exit 1')
        failed = c.run('2', BARE, env={**os.environ, 'PATH': f'{fake}:{os.environ["PATH"]}'})
        check(failed.code == 74 and 'the disk is full of ants' in failed.text, failed.text)
        check(os.listdir(c.dir) == ['etcd.log'], f'left: {os.listdir(c.dir)}')
        c.traces.check_gone()


def as_nobody():
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def refusals():
    """What cannot be is refused with what to do, and nothing is made."""
    refuse(64, ['how many nodes'], BTD, 'cluster', 'dev')
    for words in (['0'], ['10'], ['three'], ['3', '--etcd', '0'], ['3', '--loss', '100'],
                  ['3', '--delay', '-1'], ['3', '--size', 'much'], ['3', '4'], ['dance']):
        outcome = run(BTD, 'cluster', 'dev', *words)
        check(outcome.code == 64, f'{words}: {outcome.code} {outcome.text}')
    with Cluster(1, BARE, start=False) as c:
        refuse(66, ['no development cluster', 'starts one'], *c.words('status'))
        refuse(66, ['no development cluster'], *c.words('kill', 'n1'))
        refuse(66, ['no development cluster'], *c.words('exec', 'n1', '--', 'true'))
        user = subprocess.run(c.words('1', BARE), preexec_fn=as_nobody, capture_output=True, text=True)
        check(user.returncode == 77 and 'root' in user.stderr, f'{user}')
        os.mkdir(c.dir)
        precious = os.path.join(c.dir, 'precious')
        os.mkdir(precious)
        refuse(73, ['in use', 'precious', '--dir'], *c.words('1', BARE))
        os.rmdir(precious)
        occupied = os.path.join(c.base, 'mounts')
        os.makedirs(os.path.join(occupied, 'n1', 'file'))
        refuse(73, ['in use', '--mounts'], *c.words('1', BARE, '--mounts', occupied))
        c.traces.check_gone()

        c.start(BARE)
        refuse(73, ['already', 'stop --dir'], *c.words('1', BARE))
        refuse(64, ['none of', 'etcd:1, n1'], *c.words('pause', 'n2'))
        refuse(66, ['no daemon'], *c.words('pause', 'n1'))
        refuse(64, ['itself'], *c.words('partition', 'n1', '--from', 'n1'))
        refuse(64, ['--'], *c.words('exec', 'n1'))
        refuse(66, ['no-such-program'], *c.words('exec', 'n1', '--', 'no-such-program'))
        check(c.run('exec', 'n1', '--', 'sh', '-c', 'exit 7').code == 7, 'the exit code is lost')
        check(c.etcd_is_healthy('n1'), 'a refusal was not without effect')
        with open(c.state_file()) as f:
            state = f.read()
        for broken in ('', '{}', '[]', state.replace('"id": "', '"id": "../'),
                       state.replace('"version": 1', '"version": 2')):
            with open(c.state_file(), 'w') as f:
                f.write(broken)
            refuse(65, ['damaged', 'netns'], *c.words('stop'))
        with open(c.state_file(), 'w') as f:
            f.write(state)


def delay():
    """--delay is felt in both directions, or the kernel cannot and it is said how to go on."""
    with Cluster(2, BARE, start=False) as c:
        outcome = c.run('2', BARE, '--delay', '40')
        if outcome.code != 0:
            check(outcome.code == 69 and 'sch_netem' in outcome.text, outcome.text)
            check(not os.path.exists(c.dir), f'left: {c.dir}')
            c.traces.check_gone()
            say(f'    left out: packets that are late, for it is refused as it should: {outcome.text.strip()}')
            return
        listener = c.echo('n2', '10.93.0.12')
        try:
            check(c.reaches('n1', '10.93.0.12'), 'n1 does not reach n2')
            start = time.monotonic()
            check(c.reaches('n1', '10.93.0.12'), 'n1 does not reach n2')
            check(time.monotonic() - start >= 0.08, 'there is no delay')
        finally:
            end(listener)


if __name__ == '__main__':
    main({
        'nodes': nodes, 'nodes_killed': nodes_killed, 'health': health, 'network': network, 'faults': faults, 'members': members, 'leaves_nothing': leaves_nothing,
        'nothing_of_others': nothing_of_others, 'cut_off_start': cut_off_start,
        'interrupted_start': interrupted_start, 'failed_start': failed_start, 'refusals': refusals,
        'delay': delay,
    }, timeout=60)
