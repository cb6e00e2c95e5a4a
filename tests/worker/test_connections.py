"""Places for connections: who makes room when all are taken, and who is told that none is left."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from worker.connections import Connection, Connections


@pytest.fixture
def held() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def _come(held: ExitStack, connections: Connections, address: str, silent_s: float) -> Connection:
    ours, theirs = socket.socketpair()
    held.callback(ours.close)
    held.callback(theirs.close)
    place = held.enter_context(connections.entered(ours, address))
    assert place is not None
    place.done_at -= silent_s
    return place


def _is_dropped(place: Connection) -> bool:
    try:
        return place.socket.send(b"x") == 0
    except OSError:
        return True


def test_the_longest_silent_makes_room_unless_we_are_at_work_for_it(held: ExitStack) -> None:
    connections = Connections(maximum=3, overflow=1)
    served, silent, other = (_come(held, connections, "a", it) for it in (90, 80, 70))
    served.is_serving = True
    assert not _come(held, connections, "a", 0).is_over
    assert [_is_dropped(it) for it in (served, silent, other)] == [False, True, False]
    assert connections.evicted_count == 1


def test_of_those_who_work_none_makes_room_for_more_from_the_same_address(held: ExitStack) -> None:
    connections = Connections(maximum=2, overflow=1)
    first, second = (_come(held, connections, "a", 0.1) for _ in range(2))
    assert _come(held, connections, "a", 0).is_over  # it will be told
    ours, theirs = socket.socketpair()
    with ours, theirs, connections.entered(ours, "a") as place:
        assert place is None  # it will not even be told
    assert not _is_dropped(first)
    assert not _is_dropped(second)


def test_an_address_that_has_most_places_makes_room_for_another(held: ExitStack) -> None:
    connections = Connections(maximum=4, overflow=1)
    good = _come(held, connections, "good", 50)
    many = [_come(held, connections, "bad", 0.1 * it) for it in (1, 3, 2)]
    assert not _come(held, connections, "good", 0).is_over
    assert [_is_dropped(it) for it in (good, *many)] == [False, False, True, False]


def test_no_address_takes_a_place_from_one_that_has_fewer(held: ExitStack) -> None:
    """A sender may be silent between two images while another fills all places, anew and anew."""
    connections = Connections(maximum=4, overflow=2)
    good = _come(held, connections, "good", 50)
    many = [_come(held, connections, "bad", 0.1) for _ in range(3)]
    assert _come(held, connections, "bad", 0).is_over
    assert [_is_dropped(it) for it in (good, *many)] == [False] * 4
    many[1].done_at -= 2
    assert not _come(held, connections, "bad", 0).is_over
    assert [_is_dropped(it) for it in (good, *many)] == [False, False, True, False]


def test_who_has_as_many_places_makes_room_once_silent(held: ExitStack) -> None:
    connections = Connections(maximum=2, overflow=2)
    one, other = (_come(held, connections, it, 0.1) for it in ("one", "other"))
    assert _come(held, connections, "one", 0).is_over
    other.done_at -= 2
    assert not _come(held, connections, "one", 0).is_over
    assert [_is_dropped(it) for it in (one, other)] == [False, True]


def test_a_place_is_free_again_when_its_connection_ends() -> None:
    connections = Connections(maximum=1, overflow=0)
    for _ in range(3):
        ours, theirs = socket.socketpair()
        with ours, theirs, connections.entered(ours, "a") as place:
            assert place is not None
    assert connections.evicted_count == 0
