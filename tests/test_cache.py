"""The store of what is kept: owners, sizes, one limit, and finalizers at any time."""

import gc
import threading
import weakref

import pytest

from tsgu_func import cache
from tsgu_func.cache import Kind, Store, cache_info, cache_limit, clear_cache


class Sized:
    """Something with a size."""

    def __init__(self, size):
        self.bytes = size


class Owner:
    """Something that ends."""


@pytest.fixture
def make(monkeypatch, limit):
    """Give what makes stores that go with the test."""
    monkeypatch.setattr(cache, "_stores", [])
    return Store


def test_what_is_kept_ends_with_its_owner_and_leaves_no_finalizer(make):
    store, owner = make("things"), Owner()
    before = len(weakref.finalize._registry)
    for size in range(10):
        store.keep("key", Sized(size), owner)
    assert len(weakref.finalize._registry) == before + 1
    assert store.get("key").bytes == 9
    assert cache_info().kinds == {"things": Kind(1, 9)}
    del owner
    assert store.get("key") is None
    assert len(weakref.finalize._registry) == before


def test_the_least_recently_used_goes_and_a_lower_rank_first(make):
    dear, cheap = make("dear"), make("cheap", rank=0)
    cache_limit(100)
    for name in "abc":
        dear.keep(name, Sized(20))
        cheap.keep(name, Sized(5))
    dear.get("a")
    cache_limit(70)
    assert [key for key, _ in cheap.items()] == ["b", "c"]
    cache_limit(45)
    assert len(cheap) == 0
    assert [key for key, _ in dear.items()] == ["c", "a"]
    dear.keep("all", Sized(46))  # exceeds the limit by itself: pushes nothing out
    assert [key for key, _ in dear.items()] == ["c", "a"]
    clear_cache()
    assert cache_info()[:5] == (0, 0, 0, 0, 45)


def test_no_more_than_the_most(make):
    store = make("things", most=2)
    for name in "abc":
        store.keep(name, Sized(0))
    assert [key for key, _ in store.items()] == ["b", "c"]


def test_finalizers_at_any_time(make):
    """The collector runs at each allocation, and owners that are cycles end in it."""
    store, before = make("things"), gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        for number in range(300):
            owner = Owner()
            owner.itself = owner
            store.keep(number, Sized(1), owner)
            del owner
            assert len(store.items()) <= number + 1
    finally:
        gc.set_threshold(*before)
    gc.collect()
    assert len(store) == 0


def test_threads(make):
    store, failed = make("things", most=5), []

    def work(number):
        try:
            for i in range(300):
                store.keep((number, i), Sized(1))
                store.items()
                store.drop((number, i - 1))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(store) <= 5
