import struct

import pytest

from tatara.rl.sandbox.seccomp import filter_program, machines

AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000


def interpret(program: bytes, number: int, architecture: int, argument: int = 0) -> int:
    """Run classic BPF over the kernel's record of a system call: an independent reading of the instructions."""
    record = struct.pack("=IIQ6Q", number, architecture, 0, argument, *[0] * 5)
    instructions = [struct.unpack_from("=HBBI", program, place) for place in range(0, len(program), 8)]
    accumulator, place = 0, 0
    while True:
        code, then, otherwise, value = instructions[place]
        place += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", record, value)
        elif code == 0x06:
            return value
        else:
            met = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[code]
            place += then if met else otherwise


@pytest.mark.parametrize("machine", machines())
def test_what_is_refused(machine: str) -> None:
    program, audit = filter_program(machine), AUDIT[machine]
    column = machines().index(machine)
    refused = {"socket": (41, 198), "mount": (165, 40), "ptrace": (101, 117), "mq_open": (240, 180)}
    for name, pair in refused.items():
        assert interpret(program, pair[column], audit) == EPERM, name
    for name, pair in {"read": (0, 63), "write": (1, 64), "execve": (59, 221), "futex": (202, 98)}.items():
        assert interpret(program, pair[column], audit) == ALLOW, name
    clone, pair = (56, 220)[column], (53, 199)[column]
    assert interpret(program, 435, audit) == ENOSYS
    assert interpret(program, clone, audit, 0x003D0F00) == ALLOW
    assert [interpret(program, clone, audit, 1 << bit) for bit in (17, 25, 26, 27, 28, 29, 30)] == [EPERM] * 7
    assert [interpret(program, pair, audit, family) for family in (1, 2, 16)] == [ALLOW, EPERM, EPERM]


@pytest.mark.parametrize("machine", machines())
def test_calls_of_another_architecture_end_the_program(machine: str) -> None:
    program = filter_program(machine)
    assert interpret(program, 0, 0x40000003) == KILL
    assert interpret(program, 0, AUDIT["aarch64" if machine == "x86_64" else "x86_64"]) == KILL


def test_the_second_numbering_of_x86_is_no_way_around() -> None:
    program = filter_program("x86_64")
    assert interpret(program, 0x40000000 + 41, AUDIT["x86_64"]) == KILL
    assert interpret(program, 0xFFFFFFFF, AUDIT["x86_64"]) == KILL
