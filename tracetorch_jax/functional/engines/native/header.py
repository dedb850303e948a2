"""Where the fields of XLA's foreign function interface lie, read from the header of this jaxlib."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import re

import jax

# Sizes of the types of fields on machines with pointers of 8 bytes. Other structs are looked up.
_SIZES = {"size_t": 8, "int64_t": 8, "int32_t": 4, "uint32_t": 4, "int": 4}
# What the handler uses.
_NEEDED = {
    "XLA_FFI_CallFrame": ("extension_start", "api", "ctx", "args", "rets", "attrs"),
    "XLA_FFI_Args": ("args",),
    "XLA_FFI_Rets": ("rets",),
    "XLA_FFI_Attrs": ("attrs",),
    "XLA_FFI_Buffer": ("data", "rank", "dims"),
    "XLA_FFI_Scalar": ("value",),
    "XLA_FFI_Metadata_Extension": ("metadata",),
    "XLA_FFI_Metadata": ("api_version",),
    "XLA_FFI_Api_Version": ("major_version", "minor_version"),
    "XLA_FFI_ThreadPool_Schedule_Args": ("struct_size", "extension_start", "ctx", "task", "data"),
    "XLA_FFI_Error_Destroy_Args": ("struct_size", "extension_start", "error"),
    "XLA_FFI_Api": ("XLA_FFI_ThreadPool_Schedule", "XLA_FFI_Error_Destroy"),
}


class UnknownHeader(Exception):
    """A header that is not as it has to be."""


@dataclasses.dataclass(frozen=True)
class Header:
    """The interface as a header declares it.

    Attributes:
        major: of its version. What handlers do is promised for one major version.
        minor: of its version.
        offsets: in bytes, by struct and field.
        sizes: in bytes, by struct.
    """

    major: int
    minor: int
    offsets: dict[str, dict[str, int]]
    sizes: dict[str, int]

    def at(self, struct: str, field: str) -> int:
        return self.offsets[f"XLA_FFI_{struct}"][field]

    def size(self, struct: str) -> int:
        return self.sizes[f"XLA_FFI_{struct}"]


@functools.cache
def header() -> Header:
    """Read the header that comes with jaxlib.

    Raises:
        UnknownHeader: it cannot be found, is of another major version, or lacks a field.
    """
    path = pathlib.Path(jax.ffi.include_dir()) / "xla/ffi/api/c_api.h"
    try:
        text = path.read_text()
    except OSError as error:
        raise UnknownHeader(f"no xla/ffi/api/c_api.h in this jaxlib ({error})") from error
    return parse(text)


def parse(text: str) -> Header:
    """A header from its text; see `header`."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL)
    version = dict(re.findall(r"#define XLA_FFI_API_(MAJOR|MINOR) (\d+)", text))
    major, minor = (int(version.get(part, -1)) for part in ("MAJOR", "MINOR"))
    if major != 0:
        raise UnknownHeader(f"version {major} of XLA's foreign function interface instead of 0")
    enums = set(re.findall(r"typedef enum \{[^}]*\} (\w+);", text))
    bodies = {name: body for name, body in re.findall(r"struct (XLA_FFI_\w+) \{([^{}]*)\}", text)}
    names = dict[str, str]((new, old) for old, new in re.findall(r"typedef (\w+) (\w+);", text))
    sizes, offsets = dict.fromkeys(enums, 4) | _SIZES, dict[str, dict[str, int]]()
    aligns = dict[str, int]()

    def lay_out(struct: str) -> tuple[int, int]:
        """Size and alignment of a type."""
        if struct not in sizes:
            if struct in names:
                return lay_out(names[struct])
            if struct not in bodies:
                raise UnknownHeader(f"no type {struct} in XLA's foreign function interface")
            place, widest, fields = 0, 1, dict[str, int]()
            for declared in filter(None, map(str.strip, bodies[struct].split(";"))):
                method = re.fullmatch(r"_XLA_FFI_API_STRUCT_FIELD\((\w+)\)", declared)
                kind, _, field = declared.rpartition(" ")
                if method or "*" in declared:
                    size = align = 8
                    field = method[1] if method else field.lstrip("*")
                else:
                    size, align = lay_out(kind.removeprefix("const ").removeprefix("struct "))
                place = -(-place // align) * align
                fields[field] = place
                place, widest = place + size, max(widest, align)
            sizes[struct], offsets[struct] = -(-place // widest) * widest, fields
            aligns[struct] = widest
        return sizes[struct], aligns.get(struct, sizes[struct])

    for struct, needed in _NEEDED.items():
        lay_out(struct)
        for field in needed:
            if field not in offsets[struct]:
                raise UnknownHeader(f"no field {field} in {struct} of this jaxlib")
    return Header(major, minor, offsets, sizes)
