"""Which collectives a compiled program has, and which of them lie inside its loops."""

import re

COLLECTIVES = (
    "all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute",
    "collective-broadcast",
)  # fmt: skip


def computations(text):
    """Lines of every computation of a program by name."""
    found, lines = {}, []
    for line in text.splitlines():
        start = re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line)
        if start:
            lines = found[start[1]] = []
        else:
            lines.append(line)
    return found


def collectives(compiled):
    """Collectives inside loops and outside of them, each with the shapes that it works on."""
    found = computations(compiled.as_text())
    inside = set()
    everything = "\n".join("\n".join(lines) for lines in found.values())
    waiting = re.findall(r"(?:body|condition)=%?([\w.\-]+)", everything)
    assert all(name in found for name in waiting)
    while waiting:
        name = waiting.pop()
        if name not in inside:
            inside.add(name)
            # whatever computation is named in its lines is called there
            used = set(re.findall(r"[\w.\-]+", "\n".join(found[name])))
            waiting += used & set(found)
    parts = {True: [], False: []}
    for name, lines in found.items():
        for line in lines:
            match = re.search(rf"= (.*?) ({'|'.join(COLLECTIVES)})(?:-start)?\(", line)
            if match:
                shapes = re.findall(r"\w+\[[\d,]*\]", match[1])
                parts[name in inside].append((match[2], shapes))
    return parts[True], parts[False]
