# SPDX-License-Identifier: GPL-2.0
"""One small change at a time to the code that a series adds

Lines of arch/x86/kvm that the series adds or changes, or that match a line of
patches/<base>/mutate, are broken statement by statement: conditions are negated, each
operand of && and || is dropped, comparisons are turned, statements and early returns are
deleted, constants are changed, and the two PATs and the two VMCBs are swapped.

A name is <file>:<hash>, the hash being that of the statement, its occurrence and the
change: it stays the same while the statement does, wherever it moves.
"""
import hashlib
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

from lib.base import Base, git

SWAPS = [(r'svm->nested\.gpat', 'svm->vcpu.arch.pat'),
         (r'vcpu->arch\.pat', 'to_svm(vcpu)->nested.gpat'),
         (r'svm->vmcb01\.ptr', 'svm->nested.vmcb02.ptr'),
         (r'svm->nested\.vmcb02\.ptr', 'svm->vmcb01.ptr'), (r'\btrue\b', 'false'),
         (r'\bfalse\b', 'true'), (r'\bVMCB_NPT\b', 'VMCB_ASID'),
         (r'\bSVM_NESTED_CTL_NP_ENABLE\b', 'SVM_NESTED_CTL_SEV_ENABLE'),
         (r'(?<=flags = )KVM_STATE_SVM_VALID_GPAT', '(KVM_STATE_SVM_VALID_GPAT << 1)'),
         (r'(?<=flags == )KVM_STATE_SVM_VALID_GPAT', '(KVM_STATE_SVM_VALID_GPAT << 1)'),
         (r'(?<=return )1(?=;)', '0'), (r'==', '!='), (r'==', '>='), (r'!=', '=='),
         (r'(?<![!=])!(?![=])', '')]
# what builds without it is the same program
ASSERTION = re.compile(r'(static_assert|BUILD_BUG_ON)\b')
DECLARATION = r'^(static|struct|bool|int|u64|u32|unsigned|static_assert)\b'


@dataclass(frozen=True)
class Mutant:
    name: str
    file: str
    first: int		# lines that new takes the place of, from 1
    last: int
    change: str
    code: str
    new: str


def touched_lines(src: Path, base: str, more: str) -> dict[str, set[int]]:
    """file -> numbers of the lines that the series added or changed, or that match more"""
    touched: defaultdict[str, set[int]] = defaultdict(set)
    for part in git(src, 'diff', '-U0', base, '--', 'arch/x86/kvm').split('\n+++ b/')[1:]:
        for first, count in re.findall(r'^@@ -\S+ \+(\d+)(?:,(\d+))? @@', part, re.M):
            touched[part.split('\n')[0]].update(range(int(first), int(first) + int(count or 1)))
    if more:
        for line in git(src, 'grep', '-nE', more, 'HEAD', '--', 'arch/x86/kvm/svm/*.[ch]',
                        check=False).splitlines():
            _, name, number, _ = line.split(':', 3)
            touched[name].add(int(number))
    return touched


def statements(text: str) -> Iterator[tuple[int, int, str]]:
    """(first, last, code) of each statement or condition; lines count from 1"""
    for left_out in (r'/\*.*?\*/', r'^[ \t]*#(?:[^\n]*\\\n)*[^\n]*'):	# comments, macros
        text = re.sub(left_out, lambda m: '\n' * m[0].count('\n'), text, flags=re.M | re.S)
    first, code = 0, ''
    for n, line in enumerate(text.split('\n'), 1):
        if not line.strip():
            continue
        first = first or n
        code = f'{code} {line.strip()}'.strip()
        if code.count('(') == code.count(')') and (
                code.endswith((';', '{', '}')) or re.match(r'(case .*|default|\w+):$', code)
                or re.match(r'(if|while|for|switch)\b.*\)$|else$', code)):
            yield first, n, code
            first, code = 0, ''


def operands(cond: str) -> tuple[str, list[str]]:
    """Top-level operands of || or &&, and which of the two it is, or nothing"""
    for op in ('||', '&&'):
        parts, depth = [''], 0
        for piece in re.split(r'(\|\||&&|[][()])', cond):
            depth += (piece in ('(', '[')) - (piece in (')', ']'))
            if piece == op and not depth:
                parts.append('')
            else:
                parts[-1] += piece
        if parts[1:]:
            return op, [p.strip() for p in parts]
    return '', [cond]


def variants(code: str) -> Iterator[tuple[str, str]]:
    """(change, new code) for each way to break a statement"""
    m = re.match(r'^(if \()(.*)(\)( \{)?)$', code)
    if m and m[2][0] != '!':
        yield 'negated', f'{m[1]}!({m[2]}){m[3]}'
    m = m or re.match(r'^((?:return|[\w>.\[\]-]+ =) )(.*(?:&&|\|\|).*)(;)$', code)
    op, parts = operands(m[2]) if m else ('', [])
    if op:
        for i, part in enumerate(parts):
            yield f'without "{part}"', m[1] + f' {op} '.join(parts[:i] + parts[i + 1:]) + m[3]
        other = '&&' if op == '||' else '||'
        whole = [f'({p})' if re.search(r'&&|\|\|', p) else p for p in parts]
        yield f'{other} for {op}', m[1] + f' {other} '.join(whole) + m[3]
    m = re.match(r'^(.*= )(.*) \? (.*) : (.*);$', code)
    if m:
        yield 'always first', f'{m[1]}{m[3]};'
        yield 'always second', f'{m[1]}{m[4]};'
    if code.endswith(';') and not re.match(DECLARATION, code):
        yield 'deleted', ';'
    for pattern, to in SWAPS:
        for m in re.finditer(pattern, code):
            yield f'"{m[0]}" to "{to}"', code[:m.start()] + to + code[m.end():]


def of_file(file: str, text: str, touched: set[int]) -> Iterator[Mutant]:
    """Of the statements that have one of these lines"""
    seen: dict[str, int] = {}
    for first, last, code in statements(text):
        if not touched.intersection(range(first, last + 1)):
            continue
        seen[code] = seen.get(code, 0) + 1
        done = {code}
        for change, new in variants(code):
            if new in done or ASSERTION.match(code):
                continue
            done.add(new)
            key = f'{code}\0{seen[code]}\0{new}'
            name = f'{Path(file).name}:{hashlib.sha256(key.encode()).hexdigest()[:8]}'
            yield Mutant(name, file, first, last, change, code, new)


def mutants(src: Path, base: str, more: str = '') -> list[Mutant]:
    """All of a tree whose series starts after base, in order; more: a regular expression"""
    return [m for file, lines in sorted(touched_lines(src, base, more).items())
            if file.endswith(('.c', '.h')) for m in of_file(file, (src / file).read_text(), lines)]


def apply(text: str, mutant: Mutant) -> str:
    """The file with it; other lines keep their numbers"""
    lines = text.split('\n')
    lines[mutant.first - 1:mutant.last] = [mutant.new] + [''] * (mutant.last - mutant.first)
    return '\n'.join(lines)


def tree(base: Base, mutant: Mutant, worker: int | str) -> str:
    """The tree object of HEAD with it"""
    env = {'GIT_INDEX_FILE': str(base.src / f'.git/nsvm-mutant{worker}')}
    blob = base.git('hash-object', '-w', '--stdin',
                    input=apply((base.src / mutant.file).read_text(), mutant))
    base.git('read-tree', 'HEAD', env=env)
    base.git('update-index', '--cacheinfo', f'100644,{blob},{mutant.file}', env=env)
    return base.git('write-tree', env=env)
