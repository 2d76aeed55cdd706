#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""The judge of histories finds what is wrong, and nothing that is right."""
import random
import unittest

from linearizability import Operation, Search, Tree, check, refused


def op(node, name, *arguments, at, answer='ok', unknown=False):
    return Operation(node, name, arguments, *at, answer, unknown)


def look(node, name, answer, at):
    return Operation(node, 'lookup', (name,), *at, answer)


class Judge(unittest.TestCase):
    def right(self, *history):
        self.assertIsNone(check(list(history)))

    def wrong(self, *history):
        self.assertIsNotNone(check(list(history)))

    def test_changes_of_one_name(self):
        self.right(op(1, 'create', 'a', at=(0, 1)), op(2, 'unlink', 'a', at=(2, 3)),
                   op(3, 'create', 'a', at=(4, 5)))
        self.wrong(op(1, 'create', 'a', at=(0, 1)), op(2, 'create', 'a', at=(2, 3)))
        self.wrong(op(1, 'create', 'a', at=(0, 5)), op(2, 'create', 'a', at=(1, 4)))
        # At the same time, either may be the first.
        self.right(op(1, 'create', 'a', at=(0, 5)), op(2, 'unlink', 'a', at=(1, 4)))
        self.wrong(op(2, 'unlink', 'a', at=(0, 1)), op(1, 'create', 'a', at=(2, 3)))

    def test_moves_and_links(self):
        self.right(op(1, 'create', 'a', at=(0, 1)), op(2, 'rename', 'a', 'b', at=(2, 3)),
                   op(3, 'create', 'a', at=(4, 5)), op(1, 'link', 'b', 'c', at=(6, 7)),
                   op(1, 'unlink', 'b', at=(8, 9)), look(1, 'c', 'f', (10, 11)))
        self.wrong(op(1, 'create', 'a', at=(0, 1)), op(2, 'rename', 'a', 'b', at=(2, 3)),
                   op(3, 'rename', 'a', 'c', at=(2, 3)))
        # It is there already.
        self.right(op(1, 'mkdir', 'a', at=(0, 1)), op(2, 'rename', 'a', 'b', at=(2, 3)),
                   op(3, 'rename', 'a', 'b', at=(4, 5)))
        self.wrong(op(1, 'mkdir', 'a', at=(0, 1)), op(2, 'rename', 'a', 'b', at=(2, 3)),
                   op(1, 'rmdir', 'b', at=(4, 5)), op(3, 'rename', 'a', 'b', at=(6, 7)))
        # Two names of one file: rename does nothing.
        self.right(op(1, 'create', 'a', at=(0, 1)), op(1, 'link', 'a', 'b', at=(2, 3)),
                   op(1, 'rename', 'a', 'b', at=(4, 5)), op(1, 'unlink', 'a', at=(6, 7)))
        self.wrong(op(1, 'create', 'a', at=(0, 1)), op(1, 'create', 'b', at=(2, 3)),
                   op(1, 'rename', 'a', 'b', at=(4, 5)), op(1, 'unlink', 'a', at=(6, 7)))
        # So it does where the node does not know yet that one of them is gone; but both were the file's.
        self.right(op(1, 'create', 'a', at=(0, 1)), op(1, 'link', 'a', 'b', at=(2, 3)),
                   op(1, 'unlink', 'b', at=(4, 5)), op(2, 'rename', 'a', 'b', at=(6, 7)),
                   op(1, 'unlink', 'a', at=(8, 9)))
        self.wrong(op(1, 'create', 'a', at=(0, 1)), op(1, 'link', 'a', 'c', at=(2, 3)),
                   op(1, 'unlink', 'c', at=(4, 5)), op(2, 'rename', 'a', 'b', at=(6, 7)),
                   op(1, 'unlink', 'a', at=(8, 9)))
        # The file is found by a name that is old, but it is there.
        self.right(op(1, 'create', 'a', at=(0, 1)), op(2, 'rename', 'a', 'b', at=(2, 3)),
                   op(3, 'link', 'a', 'c', at=(4, 5)), op(1, 'unlink', 'c', at=(6, 7)))
        self.wrong(op(1, 'create', 'a', at=(0, 1)), op(2, 'unlink', 'a', at=(2, 3)),
                   op(3, 'link', 'a', 'c', at=(4, 5)))

    def test_unknown_outcomes(self):
        doubt = op(1, 'create', 'a', at=(0, 1), unknown=True)
        self.right(doubt, look(2, 'a', 'absent', (2, 3)), look(2, 'a', 'f', (8, 9)))
        self.right(doubt, op(2, 'create', 'a', at=(2, 3)))
        self.right(doubt, op(2, 'unlink', 'a', at=(2, 3)), op(2, 'create', 'a', at=(4, 5)))
        self.wrong(doubt, op(2, 'unlink', 'a', at=(2, 3)), op(2, 'unlink', 'a', at=(4, 5)))
        self.wrong(look(2, 'a', 'f', (-3, -2)), doubt)

    def test_reads_may_lag_but_not_go_back(self):
        made = op(1, 'create', 'a', at=(0, 1))
        self.right(made, look(2, 'a', 'absent', (5, 6)), look(2, 'a', 'f', (7, 8)))
        self.wrong(made, look(2, 'a', 'f', (5, 6)), look(2, 'a', 'absent', (7, 8)))
        self.right(made, look(2, 'a', 'f', (5, 6)), look(3, 'a', 'absent', (7, 8)))
        self.wrong(made, look(1, 'a', 'absent', (2, 3)))  # its own
        self.wrong(look(2, 'a', 'f', (-3, -2)), made)  # before it began
        # A change that read is a read: its node has seen what it committed over.
        self.wrong(made, op(2, 'unlink', 'a', at=(2, 3)), look(2, 'a', 'f', (4, 5)))

    def test_a_rename_that_was_taken_for_done_tells_nothing(self):
        gone = (op(1, 'create', 'a', at=(0, 1)), op(1, 'link', 'a', 'b', at=(2, 3)), op(1, 'unlink', 'a', at=(4, 5)))
        renamed = op(2, 'rename', 'a', 'b', at=(6, 7))
        self.right(*gone, renamed, look(2, 'a', 'f', (8, 9)), look(2, 'a', 'absent', (10, 11)))
        self.wrong(*gone, renamed, look(2, 'a', 'absent', (8, 9)), look(2, 'a', 'f', (10, 11)))
        self.wrong(*gone, renamed, look(2, 'a', 'd', (8, 9)))
        self.wrong(*gone, op(2, 'rename', 'a', 'c', at=(6, 7)), look(2, 'a', 'f', (8, 9)))
        # One that had an effect tells of it.
        made = op(1, 'create', 'a', at=(0, 1))
        self.wrong(made, renamed, look(2, 'a', 'f', (8, 9)))
        self.wrong(made, op(1, 'create', 'b', at=(2, 3)), renamed, look(2, 'a', 'f', (8, 9)))
        self.wrong(made, op(1, 'link', 'a', 'b', at=(2, 3)), renamed, look(2, 'a', 'absent', (8, 9)))

    def test_refusals(self):
        made = op(1, 'mkdir', 'a', at=(0, 1))
        self.right(made, refused(2, 'create', ('a',), 2, 3, 'EEXIST'))
        self.right(made, refused(2, 'rmdir', ('a',), 2, 3, 'ENOENT'))
        self.wrong(made, refused(1, 'rmdir', ('a',), 2, 3, 'ENOENT'))
        self.wrong(made, refused(2, 'rmdir', ('a',), 2, 3, 'ENOTDIR'))
        self.right(made, refused(2, 'unlink', ('a',), 2, 3, 'EISDIR'))
        self.assertIsNone(refused(2, 'rename', ('a', 'b'), 2, 3, 'EISDIR'))
        with self.assertRaises(KeyError):
            refused(2, 'unlink', ('a',), 2, 3, 'EACCES')

    def test_random_histories_with_one_lie(self):
        """An atomic tree with nodes that lag; then one answer is turned into what was never true."""
        chance = random.Random(5)
        found = 0
        for _ in range(60):
            history = simulate(chance, 150)
            self.assertIsNone(check(history), 'a history of an atomic tree')
            at = chance.choice([i for i, o in enumerate(history) if not o.unknown])
            lie = history[at]
            if lie.name == 'lookup':
                answer = 'absent' if lie.answer != 'absent' else 'f'
                history[at] = Operation(lie.node, 'lookup', lie.arguments, lie.start, lie.end, answer)
            else:  # it never happened
                history[at] = Operation(lie.node, 'create', ('nowhere',), lie.start, lie.end)
            found += check(history) is not None
        self.assertGreater(found, 30)  # many a lie could have been true

    def test_an_order_is_an_explanation(self):
        history = [o for o in simulate(random.Random(9), 100)]
        order = Search(history, 10**6).linearize()
        states = [Tree.EMPTY]
        for at, operation in enumerate(order):
            states = [after for state in states for after in Tree.apply(state, operation, at)]
            self.assertTrue(states)
        self.assertEqual({o for o in history if o.is_change and not o.unknown} - set(order), set())


def simulate(chance, count):
    """What three nodes do on an atomic tree of which each has an older copy."""
    now, states, history = 0.0, [Tree.EMPTY], []
    seen = {1: {}, 2: {}, 3: {}}  # by name, the version that the node showed last
    for number in range(count):
        node = chance.choice((1, 2, 3))
        start = now
        now += chance.random()
        names = ('a', 'b', 'c')
        if chance.random() < 0.4:
            name = chance.choice(names)
            version = chance.randrange(max(seen[node].get(name, 0), len(states) - 4, 0), len(states))
            seen[node][name] = version
            there = dict(states[version][0]).get(name)
            history.append(look(node, name, there[1] if there else 'absent', (start - 0.3, now)))
            continue
        kind = chance.choice(('create', 'mkdir', 'unlink', 'rmdir', 'link', 'rename'))
        arguments = tuple(chance.sample(names, 2 if kind in ('link', 'rename') else 1))
        operation = op(node, kind, *arguments, at=(start - 0.3, now + 0.3))
        results = Tree.apply(states[-1], operation, number)
        if results and (kind != 'link' or arguments[0] in dict(states[-1][0])):
            after = results[0]
            unknown = chance.random() < 0.1
            states.append(after)
            for name in arguments:
                seen[node][name] = len(states) - 1
            history.append(op(node, kind, *arguments, at=(start - 0.3, now + 0.3), unknown=unknown))
        elif chance.random() < 0.1:
            history.append(op(node, kind, *arguments, at=(start - 0.3, now), unknown=True))
        now += 0.7
    return history


if __name__ == '__main__':
    unittest.main()
