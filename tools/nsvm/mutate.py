#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""mutate - one small change at a time to the code that a series adds

mutate list TREE BASE        one mutant a line: name, file, line, what it does
mutate apply TREE BASE NAME  change the file in TREE accordingly

TREE is a git tree with the series applied, BASE the commit below it.  Only
lines of arch/x86/kvm that the series adds or changes are mutated, statement by
statement: conditions are negated, each operand of && and || is dropped,
comparisons are turned, statements and early returns are deleted, constants are
changed, and the two PATs and the two VMCBs are swapped.  With MUTATE in the
environment, a regular expression, so are lines of arch/x86/kvm/svm that match
it.

A name is <file>:<hash>, the hash being that of the statement, its occurrence
and the change: it stays the same while the statement does, wherever it moves.
"""
import hashlib
import os
import re
import subprocess
import sys

SWAPS = [
    (r'svm->nested\.gpat', 'svm->vcpu.arch.pat'),
    (r'vcpu->arch\.pat', 'to_svm(vcpu)->nested.gpat'),
    (r'svm->vmcb01\.ptr', 'svm->nested.vmcb02.ptr'),
    (r'svm->nested\.vmcb02\.ptr', 'svm->vmcb01.ptr'),
    (r'\btrue\b', 'false'),
    (r'\bfalse\b', 'true'),
    (r'\bVMCB_NPT\b', 'VMCB_ASID'),
    (r'\bSVM_NESTED_CTL_NP_ENABLE\b', 'SVM_NESTED_CTL_SEV_ENABLE'),
    (r'(?<=flags = )KVM_STATE_SVM_VALID_GPAT', '(KVM_STATE_SVM_VALID_GPAT << 1)'),
    (r'(?<=flags == )KVM_STATE_SVM_VALID_GPAT', '(KVM_STATE_SVM_VALID_GPAT << 1)'),
    (r'(?<=return )1(?=;)', '0'),
    (r'==', '!='),
    (r'==', '>='),
    (r'!=', '=='),
    (r'(?<![!=])!(?![=])', ''),
]


DECLARATION = r'^(static|struct|bool|int|u64|u32|unsigned|static_assert)\b'


def git(tree, *args):
    return subprocess.run(['git', '-C', tree, *args], check=True,
                          stdout=subprocess.PIPE, text=True).stdout


def added_lines(tree, base):
    """file -> set of line numbers that the series added or changed"""
    added, name = {}, None
    for line in git(tree, 'diff', '-U0', base, '--', 'arch/x86/kvm').splitlines():
        if line.startswith('+++ b/'):
            name = line[6:]
        m = re.match(r'@@ -\S+ \+(\d+)(?:,(\d+))? @@', line)
        if m:
            first, count = int(m[1]), int(m[2] or 1)
            added.setdefault(name, set()).update(range(first, first + count))
    if os.environ.get('MUTATE'):
        for line in git(tree, 'grep', '-nE', os.environ['MUTATE'], 'HEAD', '--',
                        'arch/x86/kvm/svm/*.[ch]').splitlines():
            _, name, number, _ = line.split(':', 3)
            added.setdefault(name, set()).add(int(number))
    return added


def statements(text):
    """(first, last, code) of each statement or condition; lines count from 1"""
    lines = text.split('\n')
    comment = macro = False
    first, code = None, ''
    for n, line in enumerate(lines, 1):
        s = line
        if macro or (not comment and s.lstrip().startswith('#')):
            macro = s.endswith('\\')
            continue
        if comment:
            if '*/' not in s:
                continue
            s, comment = s.split('*/', 1)[1], False
        s = re.sub(r'/\*.*?\*/', '', s)
        if '/*' in s:
            s, comment = s.split('/*', 1)[0], True
        if not s.strip():
            continue
        if first is None:
            first, code = n, ''
        code += (' ' if code else '') + s.strip()
        done = code.count('(') == code.count(')') and (
            code.endswith((';', '{', '}')) or
            re.match(r'(case .*|default|\w+):$', code) or
            re.match(r'(if|while|for|switch)\b.*\)$|else$', code))
        if done:
            yield first, n, code
            first = None


def operands(cond):
    """top-level operands of && or ||, as (operator, list)"""
    for op in ('||', '&&'):
        depth, parts, start, i = 0, [], 0, 0
        while i < len(cond):
            c = cond[i]
            depth += c in '(['
            depth -= c in ')]'
            if not depth and cond.startswith(op, i):
                parts.append(cond[start:i].strip())
                start, i = i + 2, i + 1
            i += 1
        if parts:
            return op, parts + [cond[start:].strip()]
    return None, [cond]


def variants(code):
    """(what, new code) for each way to break a statement"""
    m = re.match(r'^(if \()(.*)(\)( \{)?)$', code)
    if m and m[2][0] != '!':
        yield 'negated', '%s!(%s)%s' % (m[1], m[2], m[3])
    if m:
        head, cond, tail = m[1], m[2], m[3]
    else:
        m = re.match(r'^((?:return|[\w>.\[\]-]+ =) )(.*(?:&&|\|\|).*)(;)$', code)
        head, cond, tail = (m[1], m[2], m[3]) if m else (None, None, None)
    if cond:
        op, parts = operands(cond)
        if op:
            for i, part in enumerate(parts):
                rest = parts[:i] + parts[i + 1:]
                yield 'without "%s"' % part, head + (' %s ' % op).join(rest) + tail
            other = '&&' if op == '||' else '||'
            yield '%s for %s' % (other, op), head + (' %s ' % other).join(
                p if len(parts) == 1 or not re.search(r'&&|\|\|', p) else '(%s)' % p for p in parts) + tail
    m = re.match(r'^(.*= )(.*) \? (.*) : (.*);$', code)
    if m:
        yield 'always first', '%s%s;' % (m[1], m[3])
        yield 'always second', '%s%s;' % (m[1], m[4])
    if code.endswith(';') and not re.match(DECLARATION, code):
        yield 'deleted', ';'
    for pattern, to in SWAPS:
        for m in re.finditer(pattern, code):
            new = code[:m.start()] + to + code[m.end():]
            yield '"%s" to "%s"' % (m[0], to), new


def mutants(tree, base):
    for name, added in sorted(added_lines(tree, base).items()):
        if not name.endswith(('.c', '.h')):
            continue
        text = open('%s/%s' % (tree, name)).read()
        seen = {}
        for first, last, code in statements(text):
            if not added.intersection(range(first, last + 1)):
                continue
            seen[code] = seen.get(code, 0) + 1
            done = set()
            for what, new in variants(code):
                if new in done or new == code or 'static_assert' in code:
                    continue
                done.add(new)
                key = '%s\0%d\0%s' % (code, seen[code], new)
                ident = hashlib.sha256(key.encode()).hexdigest()[:8]
                short = name.rsplit('/', 1)[1]
                yield '%s:%s' % (short, ident), name, first, last, what, code, new


def main(argv):
    if len(argv) < 4 or argv[1] not in ('list', 'apply'):
        sys.exit('usage: mutate list TREE BASE | apply TREE BASE NAME')
    found = list(mutants(argv[2], argv[3]))
    if argv[1] == 'list':
        for ident, name, first, _, what, code, _ in found:
            print('%s\t%s\t%d\t%s\t%s' % (ident, name, first, what, code))
        return
    for ident, name, first, last, _, _, new in found:
        if ident == argv[4]:
            path = '%s/%s' % (argv[2], name)
            lines = open(path).read().split('\n')
            lines[first - 1:last] = [new] + [''] * (last - first)
            open(path, 'w').write('\n'.join(lines))
            return
    sys.exit('mutate: no mutant %s' % argv[4])


if __name__ == '__main__':
    main(sys.argv)
