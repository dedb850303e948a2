"""What XLA calls: a handler of its foreign function interface, written in LLVM IR.

No Python runs in a call. The handler takes the arrays' addresses and sizes from XLA, cuts the work
into tasks (`kernels`), and asks the thread pool of XLA for helpers. Everyone, the caller included,
takes the next task until there is none.
"""

from __future__ import annotations

from tracetorch_jax.functional.engines.native.header import header
from tracetorch_jax.functional.engines.native.kernels import SIZES, TASK, Code, each

# Attributes of a call, all int64. XLA passes them sorted by name.
ATTRIBUTES = ("block", "chunk", "groups", "parameter_rows", "rows", "threads")
# What a job holds, each in 8 bytes: the number of the next task; how many are done; who may still
# look at it; how many tasks there are; the blocks of neurons; the sizes of `kernels`; the arrays.
_NEXT, _DONE, _REFERENCES, _TASKS, _BLOCKS, _FIRST_SIZE = range(6)
_FIRST_ARRAY = _FIRST_SIZE + len(SIZES)

# A job lies on the heap and is counted by who may still look at it, the caller and the helpers: a
# busy pool may start a helper long after the call has returned. Such a helper finds no task left.
# The caller works through the tasks itself, and waits only for those in progress. So a pool without
# a free thread cannot block it, and nothing that is computed depends on the number of threads.
_TEXT = """\
declare ptr @malloc(i64)
declare void @free(ptr)
declare i32 @sched_yield()
declare void @llvm.x86.sse2.pause()
declare i64 @llvm.smin.i64(i64, i64)
declare i64 @llvm.smax.i64(i64, i64)
{declarations}

define internal void @work(ptr %job) {{
entry:
{job_next}
{job_done}
{load_tasks}
{load_blocks}
{load_sizes}
  %bufs = getelementptr i64, ptr %job, i64 {first_array}
  br label %next
next:
  %i = atomicrmw add ptr %p.next, i64 1 acq_rel
  %some = icmp slt i64 %i, %tasks
  br i1 %some, label %run, label %end
run:
  %b = srem i64 %i, %blocks
  %q = sdiv i64 %i, %blocks
  %g = srem i64 %q, %G
  %v = sdiv i64 %q, %G
  call void @task(ptr %bufs, i64 %v, i64 %g, i64 %b, {sizes})
  %d = atomicrmw add ptr %p.done, i64 1 release
  br label %next
end:
  ret void
}}

define internal void @release(ptr %job) {{
entry:
{job_references}
  %count = atomicrmw sub ptr %p.references, i64 1 acq_rel
  %last = icmp eq i64 %count, 1
  br i1 %last, label %gone, label %end
gone:
  call void @free(ptr %job)
  br label %end
end:
  ret void
}}

define internal void @helper(ptr %job) {{
entry:
  call void @work(ptr %job)
  call void @release(ptr %job)
  ret void
}}

define ptr @handler(ptr %frame) {{
entry:
  %p.extension = getelementptr i8, ptr %frame, i64 {CallFrame.extension_start}
  %extension = load ptr, ptr %p.extension
  %plain = icmp eq ptr %extension, null
  br i1 %plain, label %execute, label %extended
extended:
  ; an extension begins with its size and its type; type 1 asks for the version
  %p.type = getelementptr i8, ptr %extension, i64 8
  %type = load i32, ptr %p.type
  %asks = icmp eq i32 %type, 1
  br i1 %asks, label %metadata, label %execute
metadata:
  %p.metadata = getelementptr i8, ptr %extension, i64 {Metadata_Extension.metadata}
  %metadata.at = load ptr, ptr %p.metadata
  %version = getelementptr i8, ptr %metadata.at, i64 {Metadata.api_version}
  %p.major = getelementptr i8, ptr %version, i64 {Api_Version.major_version}
  store i32 {major}, ptr %p.major
  %p.minor = getelementptr i8, ptr %version, i64 {Api_Version.minor_version}
  store i32 {minor}, ptr %p.minor
  ret ptr null
execute:
  %job = call ptr @malloc(i64 {bytes})
{job_next}
{job_done}
{job_references}
{gather}
{attributes}
  %p.x = getelementptr ptr, ptr %args, i64 {x}
  %x = load ptr, ptr %p.x
  %p.dims = getelementptr i8, ptr %x, i64 {Buffer.dims}
  %dims = load ptr, ptr %p.dims
  %V = load i64, ptr %dims
  %p.T = getelementptr i64, ptr %dims, i64 1
  %T = load i64, ptr %p.T
  %p.R = getelementptr i64, ptr %dims, i64 2
  %R = load i64, ptr %p.R
  %p.N = getelementptr i64, ptr %dims, i64 3
  %N = load i64, ptr %p.N
  %more = add i64 %N, %a.block
  %most = sub i64 %more, 1
  %blocks = sdiv i64 %most, %a.block
  %each = mul i64 %blocks, %a.groups
  %tasks = mul i64 %each, %V
{fill}
  %others = sub i64 %tasks, 1
  %want = sub i64 %a.threads, 1
  %helpers = call i64 @llvm.smin.i64(i64 %others, i64 %want)
  %references = add i64 %helpers, 1
  store i64 0, ptr %p.next
  store i64 0, ptr %p.done
  store i64 %references, ptr %p.references
  %schedule = alloca i8, i64 {schedule_size}, align 8
  %destroy = alloca i8, i64 {destroy_size}, align 8
  %p.api = getelementptr i8, ptr %frame, i64 {CallFrame.api}
  %api = load ptr, ptr %p.api
  br label %ask
ask:
  %asked = phi i64 [ 0, %execute ], [ %asked.1, %asked.end ]
  %another = icmp slt i64 %asked, %helpers
  br i1 %another, label %helper.new, label %own
helper.new:
{schedule}
  %p.call = getelementptr i8, ptr %api, i64 {Api.XLA_FFI_ThreadPool_Schedule}
  %call = load ptr, ptr %p.call
  %error = call ptr %call(ptr %schedule)
  %fine = icmp eq ptr %error, null
  br i1 %fine, label %asked.end, label %refused
refused:
  ; without a pool the caller does everything
  call void @release(ptr %job)
{destroy}
  %p.discard = getelementptr i8, ptr %api, i64 {Api.XLA_FFI_Error_Destroy}
  %discard = load ptr, ptr %p.discard
  call void %discard(ptr %destroy)
  br label %asked.end
asked.end:
  %asked.1 = add i64 %asked, 1
  br label %ask
own:
  call void @work(ptr %job)
  br label %wait
wait:
  %spins = phi i64 [ 0, %own ], [ %spins.1, %yield ], [ %spins.1, %short ]
  %done = load atomic i64, ptr %p.done acquire, align 8
  %all = icmp sge i64 %done, %tasks
  br i1 %all, label %end, label %pause
pause:
  %spins.1 = add i64 %spins, 1
  ; some microseconds, which is what the last task of another thread may take
  %long = icmp sgt i64 %spins, 2000
  br i1 %long, label %yield, label %short
yield:
  %ignored = call i32 @sched_yield()
  br label %wait
short:
  call void @llvm.x86.sse2.pause()
  br label %wait
end:
  call void @release(ptr %job)
  ret ptr null
}}

define internal void @task({task}) {{
entry:
{body}
  ret void
}}
"""


class _Offsets:
    """``{CallFrame.api}`` in the text, from the header."""

    def __init__(self, struct: str) -> None:
        self.struct = struct

    def __getattr__(self, field: str) -> int:
        return header().at(self.struct, field)


def module(code: Code) -> str:
    """The text of an LLVM module whose function ``handler`` runs `code`.

    Raises:
        UnknownHeader: as `header`.
    """
    arrays, fields = code.arrays, header()
    structs = {
        name: _Offsets(name)
        for name in ("CallFrame", "Metadata_Extension", "Metadata", "Api_Version", "Buffer", "Api")
    }
    sizes = {name: f"%{name}" for name in ("T", "R", "N")}
    sizes |= {"G": "%a.groups", "W": "%a.block", "K": "%a.chunk", "RB": "%a.rows"}
    sizes |= {"PR": "%a.parameter_rows"}
    fill = [_slot(_TASKS, "tasks"), "  store i64 %tasks, ptr %p.tasks"]
    fill += [_slot(_BLOCKS, "blocks"), "  store i64 %blocks, ptr %p.blocks"]
    load = []
    for number, name in enumerate(SIZES, _FIRST_SIZE):
        fill += [_slot(number, f"s.{name}"), f"  store i64 {sizes[name]}, ptr %p.s.{name}"]
        load += [_slot(number, f"s.{name}"), f"  %{name} = load i64, ptr %p.s.{name}"]
    return _TEXT.format(
        **structs,
        task=TASK,
        body="\n".join(code.body.lines),
        declarations="\n".join(_declarations(code)),
        major=fields.major,
        minor=fields.minor,
        sizes=", ".join(f"i64 %{name}" for name in SIZES),
        first_array=_FIRST_ARRAY,
        bytes=8 * (_FIRST_ARRAY + len(each(arrays.read + arrays.written))),
        x=[kind for kind, _ in each(arrays.read)].index("x"),
        job_next=_slot(_NEXT, "next"),
        job_done=_slot(_DONE, "done"),
        job_references=_slot(_REFERENCES, "references"),
        load_tasks=f"{_slot(_TASKS, 'tasks')}\n  %tasks = load i64, ptr %p.tasks",
        load_blocks=f"{_slot(_BLOCKS, 'blocks')}\n  %blocks = load i64, ptr %p.blocks",
        load_sizes="\n".join(load),
        fill="\n".join(fill),
        gather="\n".join(_gather(code)),
        attributes="\n".join(_attributes()),
        schedule="\n".join(
            _struct(
                "schedule",
                "ThreadPool_Schedule_Args",
                extension_start="ptr null",
                ctx="ptr %ctx",
                task="ptr @helper",
                data="ptr %job",
            )
        ),
        schedule_size=fields.size("ThreadPool_Schedule_Args"),
        destroy="\n".join(
            _struct("destroy", "Error_Destroy_Args", extension_start="ptr null", error="ptr %error")
        ),
        destroy_size=fields.size("Error_Destroy_Args"),
    )


def _slot(number: int, name: str) -> str:
    return f"  %p.{name} = getelementptr i64, ptr %job, i64 {number}"


def _gather(code: Code) -> list[str]:
    """Put the addresses of all arrays into the job."""
    fields, lines = header(), []
    for name, list_ in (("args", "Args"), ("rets", "Rets")):
        offset = fields.at("CallFrame", name) + fields.at(list_, name)
        lines.append(f"  %p.{name} = getelementptr i8, ptr %frame, i64 {offset}")
        lines.append(f"  %{name} = load ptr, ptr %p.{name}")
    lines.append(f"  %p.ctx = getelementptr i8, ptr %frame, i64 {fields.at('CallFrame', 'ctx')}")
    lines.append("  %ctx = load ptr, ptr %p.ctx")
    sides = {"%args": code.arrays.read, "%rets": code.arrays.written}
    places = [
        (side, place) for side, groups in sides.items() for place, _ in enumerate(each(groups))
    ]
    for n, (source, place) in enumerate(places):
        lines += [
            f"  %g{n} = getelementptr ptr, ptr {source}, i64 {place}",
            f"  %h{n} = load ptr, ptr %g{n}",
            f"  %k{n} = getelementptr i8, ptr %h{n}, i64 {fields.at('Buffer', 'data')}",
            f"  %l{n} = load ptr, ptr %k{n}",
            f"  %m{n} = getelementptr i64, ptr %job, i64 {_FIRST_ARRAY + n}",
            f"  store ptr %l{n}, ptr %m{n}",
        ]
    return lines


def _attributes() -> list[str]:
    fields = header()
    offset = fields.at("CallFrame", "attrs") + fields.at("Attrs", "attrs")
    lines = [f"  %p.attrs = getelementptr i8, ptr %frame, i64 {offset}"]
    lines.append("  %attrs = load ptr, ptr %p.attrs")
    for n, name in enumerate(ATTRIBUTES):
        lines += [
            f"  %at{n} = getelementptr ptr, ptr %attrs, i64 {n}",
            f"  %au{n} = load ptr, ptr %at{n}",
            f"  %av{n} = getelementptr i8, ptr %au{n}, i64 {fields.at('Scalar', 'value')}",
            f"  %aw{n} = load ptr, ptr %av{n}",
            f"  %a.{name} = load i64, ptr %aw{n}",
        ]
    return lines


def _struct(name: str, struct: str, **values: str) -> list[str]:
    """Fill the arguments of a function of XLA, which begin with their size."""
    fields = header()
    lines = []
    for field, value in {"struct_size": f"i64 {fields.size(struct)}", **values}.items():
        place = f"%p.{name}.{field}"
        lines.append(f"  {place} = getelementptr i8, ptr %{name}, i64 {fields.at(struct, field)}")
        lines.append(f"  store {value}, ptr {place}")
    return lines


def _declarations(code: Code) -> list[str]:
    """Of the functions of LLVM that are called with vectors, such as ``llvm.sqrt.v16f32``."""
    found = set()
    for line in code.body.lines:
        if " call <" in line:
            result, _, rest = line.split(" call ")[1].partition(" @")
            name, _, arguments = rest.partition("(")
            types = [argument.rsplit(" %", 1)[0] for argument in _arguments(arguments)]
            found.add(f"declare {result} @{name}({', '.join(types)})")
    return sorted(found)


def _arguments(text: str) -> list[str]:
    """The types in ``<2 x float> %a, <2 x float> <float 1, float 2>``."""
    parts, depth, start = [], 0, 0
    text = text.rstrip(")")
    for at, letter in enumerate(text):
        depth += (letter in "<") - (letter in ">")
        if letter == "," and not depth:
            parts.append(text[start:at].strip())
            start = at + 1
    parts.append(text[start:].strip())
    return [part[: part.index(">") + 1] for part in parts]
