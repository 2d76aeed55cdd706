# SPDX-License-Identifier: BSD-3-Clause
"""Whether a history of namespace operations is one that an atomic tree could have had.

Wing and Gong's search with Lowe's memoisation: operations are taken one after the other, each only
when every operation that ended before it began was taken; a state that was seen with the same set of
taken operations is not tried again. An operation of unknown outcome may be taken at any time after
it began, or never.

What is checked is what docs/design/cluster.md promises. Changes that succeeded are linearizable. A read
(a lookup, or a change that was refused) is answered by its node, which may lag: it is bound by the
time at which it ended, for nothing is seen before it began; and for each name by the order of its own
node, which never goes back and knows what it did itself. That is not so of a rename that its kernel took for
done (below): the read may show what was before others' changes that come before it.
"""
import time
from dataclasses import dataclass, replace


@dataclass(frozen=True, eq=False)
class Operation:
    """A change that succeeded, or one of unknown outcome; or a lookup, whose answer is the kind of what
    is there: 'f', 'd', 'absent', or 'there' for any kind."""
    node: int
    name: str
    arguments: tuple
    start: float
    end: float
    answer: str = 'ok'
    unknown: bool = False
    note: str = ''  # what it was, of a change that was refused

    @property
    def is_change(self):
        return self.name != 'lookup'

    def is_true_of(self, names):
        found = names.get(self.arguments[0])
        if found is None:
            return self.answer == 'absent'
        return self.answer in ('there', found[1])


# What a refusal tells, and of which argument.
REFUSALS = {
    ('create', 'EEXIST'): (0, 'there'), ('mkdir', 'EEXIST'): (0, 'there'),
    ('unlink', 'ENOENT'): (0, 'absent'), ('unlink', 'EISDIR'): (0, 'd'),
    ('rmdir', 'ENOENT'): (0, 'absent'), ('rmdir', 'ENOTDIR'): (0, 'f'),
    ('link', 'EEXIST'): (1, 'there'), ('link', 'EPERM'): (0, 'd'),
    ('rename', 'ENOENT'): (0, 'absent'),
}
# They depend on two names, of which the kernel may know one as it was earlier; or on a file that was
# found by its name and is gone.
TELL_NOTHING = {('rename', 'EISDIR'), ('rename', 'ENOTDIR'), ('link', 'ENOENT')}


def refused(node, name, arguments, start, end, code):
    """The read that a refused change was; None if it tells nothing. KeyError: it may not be refused so."""
    if (name, code) in TELL_NOTHING:
        return None
    which, answer = REFUSALS[name, code]
    return Operation(node, 'lookup', (arguments[which],), start, end, answer,
                     note=f'{name} {" ".join(arguments)}: {code}')


class Tree:
    """A flat directory of files and directories: (names in order, with what each stands for and its
    kind; which names what is there has ever had). A thing is the number of the operation that made it.

    A kernel finds the file to link by its name as the node shows it, and takes a rename to a name that
    stands for the same file for done, as POSIX has it, without a word to its daemon. So of these two the
    result depends on names that may lag. (No kernel has two names of a directory.)"""

    EMPTY = ((), frozenset())

    @staticmethod
    def had_one_file(state, rename):
        source, target = rename.arguments
        return any((target, f) in state[1] for name, f in state[1] if name == source and f[1] == 'f')

    @staticmethod
    def apply(state, operation, number):
        """The states in which the operation, which succeeds, may leave the tree."""
        names, been = dict(state[0]), state[1]
        kind, arguments = operation.name, operation.arguments
        source, target = arguments[0], arguments[-1]
        there, other = names.get(source), names.get(target)

        def put(name, thing):
            after = {**names, name: thing}
            return tuple(sorted(after.items())), been | {(name, thing)}
        if kind in ('create', 'mkdir'):
            return [] if there else [put(source, (number, 'd' if kind == 'mkdir' else 'f'))]
        if kind in ('unlink', 'rmdir'):
            if there is None or (there[1] == 'd') != (kind == 'rmdir'):
                return []
            del names[source]
            return [(tuple(sorted(names.items())), been)]
        if kind == 'link':
            if other:
                return []
            files = {f for f in names.values() if f[1] == 'f' and (source, f) in been}
            return [put(target, f) for f in sorted(files, key=lambda f: f != there)]
        same = other and (source, other) in been
        results = [state] if same or Tree.had_one_file(state, operation) else []
        if there and there != other and (other is None or other[1] == there[1]):
            del names[source]
            results.insert(0, put(target, there))
        return results


class TooLong(Exception):
    """The search was given up."""


class Search:
    """Taken: a bit for each operation, in order of their begin. `any_order`: that of a read and a rename which
    was taken for done is tried too; most histories need none of that, and are judged sooner without."""

    def __init__(self, history, steps, seconds=float('inf'), any_order=False):
        self.history = sorted(history, key=lambda o: (o.start, o.end))
        self.steps, self.until, self.any_order = steps, time.monotonic() + seconds, any_order
        self.before = [self.mask(lambda other, o=o: self.binds(other, o)) for o in self.history]
        self.too_late = [0 if o.is_change else
                         self.mask(lambda other, o=o: other.is_change and o.end < other.start)
                         for o in self.history]
        # Renames of its own that a read knows of, if they were not just taken for done.
        self.known = [self.mask(lambda other, o=o: self.informs(other, o)) for o in self.history]
        self.reads = [at for at, o in enumerate(self.history) if not o.is_change]
        self.changes = [at for at, o in enumerate(self.history) if o.is_change]

    def mask(self, wanted):
        return sum(1 << at for at, other in enumerate(self.history) if wanted(other))

    @staticmethod
    def binds(other, operation):
        """`other` has to be taken before."""
        if other is operation or other.unknown or other.end >= operation.start:
            return False
        if other.is_change and operation.is_change:
            return True
        return Search.is_seen(other, operation) and not (other.name == 'rename' and not operation.is_change)

    @staticmethod
    def is_seen(other, operation):
        return other.node == operation.node and bool(set(other.arguments) & set(operation.arguments))

    @staticmethod
    def informs(other, operation):
        return (other.name == 'rename' and not operation.is_change and not other.unknown
                and other.end < operation.start and Search.is_seen(other, operation))

    def can_take(self, at, taken):
        return not (taken >> at & 1 or self.before[at] & ~taken or self.too_late[at] & taken)

    def take_reads(self, taken, state):
        """A read that is true now may be taken now: it changes nothing, and waiting frees nothing."""
        names = dict(state[0])
        again = True
        while again:
            again = False
            for at in self.reads:
                if self.can_take(at, taken) and not self.known[at] & ~taken and self.history[at].is_true_of(names):
                    taken |= 1 << at
                    again = True
        return taken

    def next(self, taken, state, owed):
        """What may be taken now: (taken, state, renames that must have no effect, operation)."""
        names = dict(state[0])
        for at in self.changes:  # those that began first are tried first
            if self.can_take(at, taken):
                # None: one of unknown outcome without effect is as if it never was.
                for after in Tree.apply(state, self.history[at], at):
                    if after == state or not owed >> at & 1:
                        yield self.take_reads(taken | 1 << at, after), after, owed, at
        for at in self.reads if self.any_order else ():
            later = self.known[at] & ~taken
            if later and self.can_take(at, taken) and self.history[at].is_true_of(names) and all(
                    Tree.had_one_file(state, self.history[i]) for i in self.changes if later >> i & 1):
                yield self.take_reads(taken | 1 << at, state), state, owed | later, at

    def linearize(self):
        """An order of the changes that explains the history, or None. Raises TooLong."""
        everything = self.mask(lambda o: not o.unknown)
        first = self.take_reads(0, Tree.EMPTY)
        stack, seen = [(first, Tree.EMPTY, 0, ())], {(first, Tree.EMPTY, 0)}
        while stack:
            taken, state, owed, order = stack.pop()
            if taken & everything == everything:
                return self.unwind(order)
            for now, after, later, at in reversed(list(self.next(taken, state, owed))):
                if (now, after, later) in seen:
                    continue
                if len(seen) >= self.steps or time.monotonic() > self.until:
                    raise TooLong(f'{len(self.history)} operations')
                seen.add((now, after, later))
                stack.append((now, after, later, (order, at)))
        return None

    def unwind(self, order):
        found = []
        while order:
            order, at = order
            found.append(self.history[at])
        return [o for o in found[::-1] if o.is_change]


def components(history):
    """Operations whose names no operation of another component touches: each is judged alone, as the
    tree of one component does not depend on another's."""
    parent = {}

    def root(name):
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name
    for operation in history:
        first = root(operation.arguments[0])
        for name in operation.arguments[1:]:
            parent[root(name)] = first
    parts = {}
    for operation in history:
        parts.setdefault(root(operation.arguments[0]), []).append(operation)
    return list(parts.values())


def check(history, steps=2_000_000, seconds=float('inf')):
    """The first component that no order explains, or None. Raises TooLong."""
    for part in components(history):
        if all(Search(part, steps, seconds, any_order).linearize() is None for any_order in (False, True)):
            return part
    return None


def prefix(history, until):
    """What was known at that time: of changes under way, the outcome was not."""
    known = [o for o in history if o.end <= until]
    under_way = [replace(o, unknown=True)
                 for o in history if o.start <= until < o.end and o.is_change]
    return known + under_way


def first_wrong(history, steps=2_000_000):
    """The first operation, by its end, that no order explains, of a history that is wrong."""
    ends = sorted(o.end for o in history)
    right, wrong = -1, len(ends) - 1
    while wrong - right > 1:
        middle = (right + wrong) // 2
        if check(prefix(history, ends[middle]), steps) is None:
            right = middle
        else:
            wrong = middle
    return next(o for o in history if o.end == ends[wrong])
