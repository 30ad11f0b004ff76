"""Settings of the whole suite: Hypothesis profiles, threads, a seed for every test."""

import gc
import itertools
import os

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.defaults import watching
from tsgu_func.kernels import processors
from tsgu_func.solvers import cache_limit, clear_cache

_COMMON = {
    "deadline": None,
    "print_blob": True,
    "suppress_health_check": [HealthCheck.too_slow],
}
settings.register_profile("dev", max_examples=25, **_COMMON)
settings.register_profile("ci", max_examples=30, derandomize=True, database=None, **_COMMON)
settings.register_profile("nightly", max_examples=1000, **_COMMON)
# Choose another with --hypothesis-profile.
settings.load_profile("ci" if os.environ.get("CI") else "dev")

# Two test processes share two cores; tests of threading set their own number.
torch.set_num_threads(1)

_CUDA = torch.cuda.is_available()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--odd-defaults",
        action="store_true",
        help="fail where the library makes a tensor without naming its dtype and device",
    )


_SLOW_PAGES = ("check-your-op.md", "solvers.md")


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as quick the first and the last case of each test that is not marked slow."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        slow = item.get_closest_marker("slow") is not None or item.name in _SLOW_PAGES
        if not slow and "cuda" not in item.name:
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for same in cases.values():
        for item in {same[0], same[-1]}:
            item.add_marker("quick")


def pytest_collection_finish() -> None:
    """Look for garbage less often, and not in what all tests share: it took a sixth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _CUDA:
        terminalreporter.write_line("What runs on a CUDA device is left out: there is none.")


_finished = itertools.count(1)


def pytest_runtest_logfinish() -> None:
    """Do the same with what tests have left behind: modules, above all those of the compiler."""
    if next(_finished) % 50 == 0:
        gc.collect()
        gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _defaults(request: pytest.FixtureRequest):
    if not request.config.getoption("--odd-defaults"):
        yield
        return
    with watching():
        yield


@pytest.fixture(autouse=True)
def _seed() -> None:
    # Not torch.manual_seed, which notes a stack trace for each kind of device that is not there.
    torch.default_generator.manual_seed(0)
    if _CUDA:
        torch.cuda.manual_seed_all(0)


@pytest.fixture
def threads_of_torch(monkeypatch):
    """Give the function that sets their number, which holds on busy machines, and set it back."""
    monkeypatch.setattr(processors, "_BUSY", 1.0)
    monkeypatch.setattr(processors, "_wanted", int)
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def limit():
    """Empty the store of factors, before and after, and set its limit back."""
    before = cache_limit()
    clear_cache()
    yield
    cache_limit(before)
    clear_cache()


@pytest.fixture(autouse=True)
def _fresh_compiler():
    yield
    torch.compiler.reset()


@pytest.fixture(params=["cpu", "cuda"] if _CUDA else ["cpu"])
def device(request: pytest.FixtureRequest):
    """Make what a test creates, unless it says otherwise, on a device."""
    if request.param == "cpu":  # where PyTorch is already: a default device is not free
        yield request.param
        return
    torch.set_default_device(request.param)
    yield request.param
    torch.set_default_device(None)


@pytest.fixture(params=[torch.float64, torch.complex128], ids=["f64", "c128"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param
